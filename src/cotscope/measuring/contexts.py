"""Where poles were most active in what the model wrote: one teacher-forced pass over a few discovery completions.

Reads: completions of discovery. Writes: `contexts`; a row without a token says that a pole has none.
"""

from __future__ import annotations

from collections.abc import Collection

import pyarrow as pa
import torch
from torch import Tensor

from ..concepts.lexicon import Context
from ..records import Neuron, Pole
from ..runs.session import Session

COMPLETIONS = 12
PER_POLE = 3
BEFORE, AFTER = 24, 8  # tokens shown on either side
SCHEMA = pa.schema(
    [("layer", pa.int16()), ("index", pa.int32()), ("sign", pa.int8()), ("problem_id", pa.string()), ("before", pa.string()),
     ("token", pa.string()), ("after", pa.string()), ("coefficient", pa.float64())]
)  # fmt: skip


def contexts(session: Session, poles: Collection[Pole]) -> dict[Pole, tuple[Context, ...]]:
    """The places where each pole's coefficient was largest, one per completion at most, the strongest first.

    The marked token is the one that the model was about to write. Poles whose coefficient never had their sign in the
    completions looked at have none. Kept in the run, so that only poles that are new run the model.
    """
    run = session.run
    known = run.rows("SELECT * FROM contexts") if (run.folder / "tables/contexts.parquet").exists() else []
    if missing := set(poles) - {_pole(row) for row in known}:
        known += _find(session, missing)
        run.write_rows("contexts", known, SCHEMA)
    found: dict[Pole, list[Context]] = {}
    for row in sorted(known, key=lambda row: -abs(row["coefficient"] or 0)):
        if row["token"] is not None:
            place = Context(row["before"], row["token"], row["after"], row["coefficient"])
            found.setdefault(_pole(row), []).append(place)
    return {pole: tuple(places) for pole, places in found.items()}


def _pole(row: dict) -> Pole:
    return Pole(row["layer"], row["index"], row["sign"])


def _find(session: Session, poles: Collection[Pole]) -> list[dict]:
    from ..lm.recorders import ChosenNeurons
    from ..lm.scoring import Given, score

    prompt, questions = session.prompts[0], {p.id: p.question for p in session.split.discovery}
    written = [
        row
        for row in session.run.rows(
            """SELECT problem_id, token_ids FROM completions WHERE condition = ? AND correct AND len(token_ids) > 0
               ORDER BY problem_id LIMIT ?""",
            [f"discover.{prompt.name}", COMPLETIONS],
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


def _row(session: Session, pole: Pole, written: dict, step: int, coefficient: float) -> dict:
    ids, decode = written["token_ids"], session.loaded.tokenizer.decode
    return {
        **pole._asdict(),
        "problem_id": written["problem_id"],
        "before": decode(ids[max(0, step - BEFORE) : step]),
        "token": session.loaded.piece(ids[step]),
        "after": decode(ids[step + 1 : step + 1 + AFTER]),
        "coefficient": coefficient,
    }
