"""Where poles were most active in what the model wrote: one teacher-forced pass over a few discovery completions.

Who calls it reads discovery's completions and writes `contexts`.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from ..concepts.lexicon import Context
from ..records import Neuron, Pole
from ..runs.files import fingerprint
from ..runs.folder import Run
from ..runs.session import Session
from ..runs.tables import CONTEXTS

if TYPE_CHECKING:
    from torch import Tensor

COMPLETIONS = 12
PER_POLE = 3
BEFORE, AFTER = 24, 8  # tokens shown on either side


def contexts(session: Session, poles: Collection[Pole]) -> dict[Pole, tuple[Context, ...]]:
    """The places where each pole's coefficient was largest, one per completion at most, the strongest first.

    The marked token is the one that the model was about to write. Poles whose coefficient never had their sign in the
    completions looked at have none. Kept in the run, so that only poles that are new run the model; what is there is
    added to and never changed, so that an annotator who fails leaves an earlier one's word what it was.
    """
    run, of = session.run, _looked_at(session.run)
    known = run.rows("SELECT * FROM contexts") if run.keep(CONTEXTS, of) else []
    if missing := sorted(set(poles) - {_pole(row) for row in known}):
        new = _find(session, missing)
        run.write(CONTEXTS, new, fingerprint(of, missing)[:16], of)
        known += new
    found: dict[Pole, list[Context]] = {}
    for row in sorted(known, key=lambda row: -abs(row["coefficient"] or 0)):
        if row["token"] is not None:
            place = Context(row["before"], row["token"], row["after"], row["coefficient"])
            found.setdefault(_pole(row), []).append(place)
    return {pole: tuple(places) for pole, places in found.items()}


def keep_contexts(run: Run) -> None:
    """Those that were looked up in the completions of now stay when the stage ends."""
    run.keep(CONTEXTS, _looked_at(run))


def _looked_at(run: Run) -> str:
    return fingerprint(run.rows("SELECT problem_id, token_ids FROM completions WHERE correct ORDER BY ALL"))


def _pole(row: dict[str, Any]) -> Pole:
    return Pole(row["layer"], row["index"], row["sign"])


def _find(session: Session, poles: Collection[Pole]) -> list[dict[str, Any]]:
    import torch

    from ..lm.recorders import ChosenNeurons
    from ..lm.scoring import Given, score

    prompt, questions = session.prompt, {p.id: p.question for p in session.inputs.split.discovery}
    written = [
        row
        for row in session.run.rows(
            """SELECT problem_id, token_ids FROM completions WHERE condition = ? AND correct AND len(token_ids) > 0
               ORDER BY problem_id LIMIT ?""",
            [f"discovery.{prompt.name}", COMPLETIONS],
        )
        if row["problem_id"] in questions
    ]
    nothing = dict.fromkeys(("problem_id", "before", "token", "after", "coefficient"))  # has been looked for
    if not written:
        return [pole._asdict() | nothing for pole in poles]
    seen: dict[int, Tensor] = {}
    recorder = ChosenNeurons(session.loaded.anatomy, {Neuron(p.layer, p.index) for p in poles}, seen.__setitem__)
    texts = tuple(prompt.text(questions[row["problem_id"]]) for row in written)
    first = (frozenset({0}),) * len(written)  # nothing is asked of the scores
    score(session.engine, Given(texts, tuple(tuple(row["token_ids"]) for row in written), first, recorder))
    place = {neuron: i for i, neuron in enumerate(recorder.neurons)}
    highest = torch.stack([seen[i].max(dim=0).values for i in range(len(written))])  # (completions, neurons)
    lowest = torch.stack([-seen[i].min(dim=0).values for i in range(len(written))])
    rows = []
    for pole in sorted(poles):
        neuron = place[Neuron(pole.layer, pole.index)]
        best = (highest if pole.sign > 0 else lowest)[:, neuron]
        if not (best > 0).any():
            rows.append(pole._asdict() | nothing)
        for i in best.argsort(descending=True, stable=True)[:PER_POLE].tolist():
            if best[i] > 0:
                step = int((seen[i][:, neuron] * pole.sign).argmax())
                rows.append(_row(session, pole, written[i], step, float(seen[i][step, neuron])))
    return rows


def _row(session: Session, pole: Pole, written: dict[str, Any], step: int, coefficient: float) -> dict[str, Any]:
    ids, decode = written["token_ids"], session.loaded.tokenizer.decode
    return {
        **pole._asdict(),
        "problem_id": written["problem_id"],
        "before": decode(ids[max(0, step - BEFORE) : step]),
        "token": session.loaded.piece(ids[step]),
        "after": decode(ids[step + 1 : step + 1 + AFTER]),
        "coefficient": coefficient,
    }
