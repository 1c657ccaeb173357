"""Conditions: a prompt, the problems of one split and an intervention; run once, then found in the run folder.

Every text that a study lets the model write comes from here, so all of them are graded, recorded and timed alike.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from .data.answers import is_correct, parse_flexible, parse_strict
from .numbers import format_number
from .records import Problem, Prompt
from .session import Session

if TYPE_CHECKING:
    from .lm.interventions import Intervention
    from .lm.recorders import PoleTally

log = logging.getLogger(__name__)

COMPLETIONS = pa.schema(
    [
        ("condition", pa.string()),
        ("prompt", pa.string()),
        ("neuron_set", pa.string()),
        ("split", pa.string()),
        ("problem_id", pa.string()),
        ("text", pa.string()),
        ("token_ids", pa.list_(pa.int32())),
        ("tokens", pa.int32()),
        ("finish", pa.string()),
        ("strict", pa.string()),
        ("flexible", pa.string()),
        ("correct_strict", pa.bool_()),
        ("correct", pa.bool_()),
    ]
)
ACTIVITY = pa.schema(
    [
        ("condition", pa.string()),
        ("problem_id", pa.string()),
        ("layer", pa.int16()),
        ("index", pa.int32()),
        ("sign", pa.int8()),
        ("steps", pa.int32()),
        ("update_size", pa.float64()),
        ("coefficient", pa.float64()),
    ]
)


def solve(
    session: Session,
    condition: str,
    prompt: Prompt,
    split_name: str,
    *,
    neuron_set: str = "none",
    intervention: Intervention | None = None,
    record: bool = False,
) -> None:
    """Run one condition, unless it has been run: write `completions/<condition>` and, recorded, `activity/…`.

    Args:
        condition: its name, unique in the run.
        split_name: "test" or "discovery".
        neuron_set: what is disrupted; "none" without an intervention.
        record: keep the active poles.
    """
    done = session.run.manifest["conditions"].get(condition)
    if done is not None and (done["recorded"] or not record):
        return
    problems: tuple[Problem, ...] = getattr(session.split, split_name)
    texts = [prompt.text(p.question) for p in problems]
    session.engine.shares_prefix(1)  # loads the model and checks its attention: no part of the condition's time
    began = time.monotonic()
    with session.bar(condition, len(problems), "problem") as bar:
        tokens = 0

        def progress(rows: int, written: int) -> None:
            nonlocal tokens
            tokens += written
            bar.set_postfix_str(f"{tokens / max(time.monotonic() - began, 1e-9):.0f} tok/s", refresh=False)
            bar.update(rows)

        arguments = {
            "max_new_tokens": session.config.max_new_tokens,
            "stop": prompt.stop,
            "intervention": intervention,
            "progress": progress,
        }
        if record:
            from .lm.recorders import ActivePoles

            ids = np.array([p.id for p in problems])
            with session.run.table_writer(f"activity/{condition}", ACTIVITY) as writer:
                recorder = ActivePoles(
                    session.loaded.anatomy,
                    session.config.k,
                    sink=lambda tally: writer.write_table(_activity(tally, condition, ids)),
                )
                completions = session.engine.generate(texts, recorder=recorder, **arguments)
        else:
            completions = session.engine.generate(texts, **arguments)
    seconds = time.monotonic() - began
    rows = []
    for problem, completion in zip(problems, completions, strict=True):
        strict, flexible = parse_strict(completion.text), parse_flexible(completion.text)
        rows.append(
            {
                "condition": condition,
                "prompt": prompt.name,
                "neuron_set": neuron_set,
                "split": split_name,
                "problem_id": problem.id,
                "text": completion.text,
                "token_ids": list(completion.token_ids),
                "tokens": completion.steps,
                "finish": completion.finish,
                "strict": None if strict is None else format_number(strict),
                "flexible": None if flexible is None else format_number(flexible),
                "correct_strict": is_correct(strict, problem.answer),
                "correct": is_correct(flexible, problem.answer),
            }
        )
    session.run.write_rows(f"completions/{condition}", rows, COMPLETIONS)
    written = sum(r["tokens"] for r in rows)
    session.run.manifest["conditions"][condition] = {
        "seconds": round(seconds, 2),
        "tokens": written,
        "rows": len(rows),
        "recorded": record,
    }
    session.run.save()
    recorded = [c for c in session.run.manifest["conditions"].values() if c["recorded"]]
    session.run.summarise("timing", {"generate_s": round(sum(c["seconds"] for c in recorded), 2)})
    right = sum(r["correct"] for r in rows)
    log.info("%s: %d of %d right, %d tokens in %.1f s", condition, right, len(rows), written, seconds)


def _activity(tally: PoleTally, condition: str, ids: np.ndarray) -> pa.Table:
    columns = {name: getattr(tally, name) for name in ACTIVITY.names[2:]}
    problem = pa.DictionaryArray.from_arrays(tally.row, ids).cast(pa.string())
    return pa.table({"condition": pa.repeat(condition, len(tally.row)), "problem_id": problem, **columns}, ACTIVITY)
