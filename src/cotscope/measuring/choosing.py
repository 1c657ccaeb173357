"""Neurons of a run by how they were chosen, for an edit: a concept's, a selection's first ones, or random ones like them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..errors import UserError, shown
from ..records import Neuron, Pole
from ..runs.folder import Run
from ..runs.session import Session
from ..runs.stage import stale_because
from ..runs.tables import ATTRIBUTIONS
from ..stats.random_sets import in_place_of, random_like
from .neurons import ActiveNeurons, active_neurons
from .selections import WAYS

REASONING = "reasoning"


def choose(
    session: Session,
    by: str = REASONING,
    *,
    first: int | None = None,
    concepts: Sequence[str] = (),
    poles: bool = False,
    layers: tuple[int, int] | None = None,
    random: int | None = None,
) -> tuple[list[Neuron] | list[Pole], dict[str, Any]]:
    """Neurons, or poles, and how they were chosen in words.

    Args:
        by: "reasoning" (what the annotator accepted, but keystones), or a way of choosing that `cotscope attribute` has run.
        first: the first so many; of "reasoning" in order of layer and index.
        concepts: of "reasoning" only these concepts' neurons.
        poles: of "reasoning" the poles, that is neurons at one sign of their coefficients.
        layers: only those of the layers from the one to the other, both among them; before the first so many are taken.
        random: the seed of random neurons in their place, one for each: of the same layer, and about as large on solutions and
            on text, or where nothing was attributed about as often and as strongly active in discovery. They are drawn for the
            whole choice: no neuron that `by` chose, among the first so many or not, stands in its own control.

    Raises: UserError for an unknown way or concept, if what chose them is stale, or if nothing is left.
    """
    run = session.run
    chosen: dict[str, Any] = {"by": by, "run": str(run.folder.name), "study": session.config.data}
    if by != REASONING and (concepts or poles):
        raise UserError(f"concepts and poles are of {REASONING} neurons", expected=f"--by {REASONING}", got=by)
    verb = "annotate" if by == REASONING else "attribute"
    if (state := run.state(verb)).status in ("stale", "stopped"):
        raise UserError(
            f"what {verb} found is {stale_because(state)}", remedy=f"Run `cotscope {verb} {run.folder}` again before."
        )
    known = active_neurons(run)
    if by == REASONING:
        rows = run.rows("SELECT layer, index, sign, concept FROM annotations WHERE accepted ORDER BY ALL")
        names = sorted({r["concept"] for r in rows})
        if unknown := [c for c in concepts if c not in names]:
            raise UserError("no accepted neuron is of this concept", expected=" or ".join(names), got=shown(unknown[0]))
        rows = [r for r in rows if Neuron(r["layer"], r["index"]) not in known.keystones]
        every = sorted({Neuron(r["layer"], r["index"]) for r in rows})
        rows = [r for r in rows if not concepts or r["concept"] in concepts]
        found = sorted({Pole(r["layer"], r["index"], r["sign"]) for r in rows})
        targets: list[Any] = found if poles else sorted({Neuron(p.layer, p.index) for p in found})
        chosen |= {"concepts": list(concepts)} if concepts else {}
    elif by in WAYS:
        if by not in {r["selection"] for r in run.rows("SELECT DISTINCT selection FROM selections")}:
            raise UserError(
                f"the run has no neurons chosen by {by}", remedy=f"Run `cotscope attribute {run.folder} --by {by}` first."
            )
        rows = run.rows("SELECT layer, index FROM selections WHERE selection = ? ORDER BY rank", [by])
        targets = every = [Neuron(r["layer"], r["index"]) for r in rows]
    else:
        raise UserError("unknown way of choosing", expected=" or ".join((REASONING, *WAYS)), got=shown(by))
    if layers is not None:
        targets = [t for t in targets if layers[0] <= t.layer <= layers[1]]
        chosen |= {"layers": list(layers)}
    targets = targets[:first]
    chosen |= {} if first is None else {"first": first}
    if random is not None:
        if poles:
            raise UserError("random neurons like poles are not drawn", expected="--random without --poles")
        attributed = run.has(ATTRIBUTIONS) and run.state("attribute").current
        instead = in_place_of(every, random_like(every, _sizes(run, known, attributed), random))
        targets = [instead[t] for t in targets if t in instead]
        chosen |= {"random": random, "like": "update sizes" if attributed else "activity in discovery"}
    if not targets:
        remedy = "" if run.manifest["stages"].get("annotate") else f"Run `cotscope annotate {run.folder}` first."
        raise UserError(f"no neurons are chosen by {by}", expected="at least one", remedy=remedy)
    return targets, chosen | {"neurons": len({Neuron(t.layer, t.index) for t in targets})}


def _sizes(run: Run, known: ActiveNeurons, attributed: bool) -> dict[Neuron, tuple[float, float]]:
    """What random neurons are like: of all neurons that may be drawn."""
    if not attributed:
        return {n: (t.steps, t.update_size) for n, t in known.traits.items() if n not in known.keystones}
    rows = run.query("SELECT layer, index, solutions_size, text_size FROM attributions").to_pydict()
    every = zip(*(rows[k] for k in ("layer", "index", "solutions_size", "text_size")), strict=True)
    return {n: (a, b) for layer, i, a, b in every if (n := Neuron(layer, i)) not in known.keystones}
