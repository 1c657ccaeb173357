"""Neurons of a run by how they were chosen, for an edit: a concept's, a selection's first ones, or random ones like them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from ..data.rows import question_key
from ..errors import UserError, shown
from ..records import Neuron, Pole
from ..runs.files import fingerprint
from ..runs.folder import Run
from ..runs.options import check_all, option
from ..runs.session import Session
from ..runs.stage import stale_because
from ..runs.tables import ATTRIBUTIONS
from ..stats.random_sets import in_place_of, random_like
from .neurons import ActiveNeurons, active_neurons
from .selections import WAYS

REASONING = "reasoning"
T = TypeVar("T", Neuron, Pole)


@dataclass(frozen=True)
class Choice:
    """Which neurons of a run.

    Attributes:
        by: "reasoning" (what the annotator accepted, but keystones), or a way of choosing that `cotscope attribute` has run.
        first: the first so many, of poles so many of these; of "reasoning" in order of layer and index.
        random: the seed of random neurons in their place, one for each: of the same layer, and about as large on solutions and
            on text, or where nothing was attributed about as often and as strongly active in discovery. They are drawn for the
            whole choice: no neuron that `by` chose, among the first so many or not, stands in its own control.
        concepts: of "reasoning" only these concepts' neurons.
        layers: only those of the layers from the one to the other, both among them; before the first so many are taken.
    """

    by: str = option("attribution", "reasoning, or a way of choosing that `attribute` has run")
    first: int | None = option(None, "only the first N of them", kind="positive")
    random: int | None = option(None, "the seed of as many random neurons like them, in their place: a control of the whole "
                                "procedure", kind="natural")  # fmt: skip
    concepts: tuple[str, ...] = option((), "of reasoning neurons only this concept's; may be given several times",
                                       flag="--concept")  # fmt: skip
    layers: tuple[int, int] | None = option(None, "only those of layers A to B, counted from 0", kind="layers")

    def __post_init__(self) -> None:
        check_all(self)

    @property
    def whole(self) -> bool:
        """Whether it is all that `by` chose, and no others in their place."""
        return self == Choice(self.by)


def with_controls(choice: Choice, to: Path, count: int) -> list[tuple[Path, Choice]]:
    """A choice and where what is made of it goes, and after it so many random ones in its place, with 0, 1, … for seeds, beside
    it: `edit.json`, `edit-random-0.json`, … Raises: UserError for controls of what is itself one."""
    if count and choice.random is not None:
        raise UserError("random neurons are a control themselves", expected="--random or --controls, not both")
    drawn = [(to.with_name(f"{to.stem}-random-{i}{to.suffix}"), replace(choice, random=i)) for i in range(count)]
    return [(to, choice), *drawn]


def choose(session: Session, choice: Choice) -> tuple[list[Neuron], dict[str, Any]]:
    """Neurons, and how they were chosen in words.

    Raises: UserError for an unknown way or concept, if what chose them is stale, or if nothing is left.
    """
    run = session.run
    _check(run, choice)
    known = active_neurons(run)
    if choice.by == REASONING:
        every, found = (_neurons(_accepted(run, known, c)) for c in (replace(choice, concepts=()), choice))
    else:
        rows = run.rows("SELECT layer, index FROM selections WHERE selection = ? ORDER BY rank", [choice.by])
        every = found = [Neuron(r["layer"], r["index"]) for r in rows]
    found = _narrowed(found, choice)
    more: dict[str, Any] = {}
    if choice.random is not None:
        attributed = run.has(ATTRIBUTIONS) and run.state("attribute").current
        instead = in_place_of(every, random_like(every, _sizes(run, known, attributed), choice.random))
        found = [instead[n] for n in found if n in instead]
        more = {"random": choice.random, "like": "update sizes" if attributed else "activity in discovery"}
    return found, _said(session, choice, found, every) | more | {"neurons": len(found)}


def choose_poles(session: Session, choice: Choice) -> tuple[list[Pole], dict[str, Any]]:
    """Poles of reasoning neurons, that is neurons at one sign of their coefficients, and how they were chosen; as `choose`."""
    if choice.by != REASONING or choice.random is not None:
        raise UserError(
            f"poles are of {REASONING} neurons, and random ones are not drawn", expected=f"--by {REASONING} without --random"
        )
    _check(session.run, choice)
    known = active_neurons(session.run)
    every = _accepted(session.run, known, replace(choice, concepts=()))
    found = _narrowed(_accepted(session.run, known, choice), choice)
    return found, _said(session, choice, found, every) | {"neurons": len(_neurons(found)), "poles": len(found)}


def reservation(chosen: Mapping[str, Any]) -> str:
    """What whoever makes something of neurons that were chosen so should be told; "" if nothing."""
    keystones, first = (chosen.get(key) for key in ("keystones", "first"))
    kind = "poles" if "poles" in chosen else "neurons"
    said = [f"keystones were {keystones} among these neurons: `cotscope ablate` finds them"] if keystones else []
    if isinstance(first, int) and isinstance(count := chosen.get(kind), int) and count < first:
        said.append(f"there are {count:,} such {kind}, and not {first:,}")
    return "; ".join(said)


def _check(run: Run, choice: Choice) -> None:
    """Raise UserError if the run has no such neurons."""
    if choice.by not in (REASONING, *WAYS):
        raise UserError("unknown way of choosing", expected=" or ".join((REASONING, *WAYS)), got=shown(choice.by))
    if choice.by != REASONING and choice.concepts:
        raise UserError(f"concepts are of {REASONING} neurons", expected=f"--by {REASONING}", got=choice.by)
    verb = "annotate" if choice.by == REASONING else "attribute"
    if (state := run.state(verb)).status in ("stale", "stopped"):
        raise UserError(
            f"what {verb} found is {stale_because(state)}", remedy=f"Run `cotscope {verb} {run.folder}` again before."
        )
    if choice.by != REASONING and choice.by not in {
        r["selection"] for r in run.rows("SELECT DISTINCT selection FROM selections")
    }:
        raise UserError(
            f"the run has no neurons chosen by {choice.by}",
            remedy=f"Run `cotscope attribute {run.folder} --by {choice.by}` first.",
        )


def _accepted(run: Run, known: ActiveNeurons, choice: Choice) -> list[Pole]:
    """The accepted poles of some concepts, or of all, but keystones'."""
    rows = run.rows("SELECT layer, index, sign, concept FROM annotations WHERE accepted ORDER BY ALL")
    names = sorted({r["concept"] for r in rows})
    if unknown := [c for c in choice.concepts if c not in names]:
        raise UserError("no accepted neuron is of this concept", expected=" or ".join(names), got=shown(unknown[0]))
    poles = {Pole(r["layer"], r["index"], r["sign"]) for r in rows if not choice.concepts or r["concept"] in choice.concepts}
    return sorted(p for p in poles if Neuron(p.layer, p.index) not in known.keystones)


def _neurons(poles: Iterable[Pole]) -> list[Neuron]:
    return sorted({Neuron(p.layer, p.index) for p in poles})


def _narrowed(found: list[T], choice: Choice) -> list[T]:
    low, high = choice.layers or (0, float("inf"))
    return [t for t in found if low <= t.layer <= high][: choice.first]


def _said(session: Session, choice: Choice, found: list[Any], every: list[Any]) -> dict[str, Any]:
    """How they were chosen, of all that were chosen so. Raises: UserError if none are."""
    run = session.run
    if not found:
        remedy = "" if run.manifest["stages"].get("annotate") else f"Run `cotscope annotate {run.folder}` first."
        raise UserError(f"no neurons are chosen by {choice.by}", expected="at least one", remedy=remedy)
    said: dict[str, Any] = {"by": choice.by, "run": str(run.folder.name), "study": session.config.data}
    # `evaluate` does not test on the problems that they were found with, on other runs neither.
    said["questions"] = sorted({fingerprint(question_key(p.question)) for p in session.inputs.split.discovery})
    said["found"] = fingerprint(said["questions"], session.prompt.text(""))
    said["among"] = fingerprint(every)[:16]
    if choice.by == REASONING and (status := run.state("keystones").status) != "done":
        said["keystones"] = "not looked for" if status == "missing" else "looked for before the last `annotate`"
    some = {"concepts": list(choice.concepts), "layers": choice.layers and list(choice.layers), "first": choice.first}
    return said | {name: value for name, value in some.items() if value}


def _sizes(run: Run, known: ActiveNeurons, attributed: bool) -> dict[Neuron, tuple[float, float]]:
    """What random neurons are like: of all neurons that may be drawn."""
    if not attributed:
        return {n: (t.steps, t.update_size) for n, t in known.traits.items() if n not in known.keystones}
    rows = run.query("SELECT layer, index, solutions_size, text_size FROM attributions").to_pydict()
    every = zip(*(rows[k] for k in ("layer", "index", "solutions_size", "text_size")), strict=True)
    return {n: (a, b) for layer, i, a, b in every if (n := Neuron(layer, i)) not in known.keystones}
