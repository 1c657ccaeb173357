"""A run's results as files for other programs: its tables, and its accuracies as lm-evaluation-harness writes them."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from itertools import chain, count
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from ..errors import RunError
from ..report.reading import Reading
from ..runs.files import json_text, json_values, replacing, write_text
from ..runs.folder import Run
from ..runs.progress import matches
from ..runs.tables import TABLES
from .neuronpedia import write_sources
from .task import write_task


def export(run: Run, kind: str, to: Path | None = None) -> tuple[list[Path], dict[str, str]]:
    """Write what of a run is current in one of the formats of `exchange.FORMATS`.

    Args:
        to: the folder to write into; None: `export-<format>` in the run folder's parent, after its name.

    Returns: the files or folders that were written; the tables that are there but left out, and why (their stage is stale).

    Raises: RunError if there is nothing to write, or the folder is there and not empty.
    """
    to = to or run.folder.resolve().parent / f"{run.folder.resolve().name}-{kind}"
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise RunError(f"{to} is in the way", expected="a new or an empty folder", remedy="Give another --to, or remove it.")
    was_there = to.exists()
    try:
        made, left = _write(run, kind, to)
    except BaseException:  # half of it would be in the way of the next try
        for path in list(to.iterdir()) if to.exists() else []:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        if to.exists() and not was_there:
            to.rmdir()
        raise
    if not made:
        raise RunError(f"{run.folder} has no current table", remedy="`cotscope status` says why.")
    return made, left


def _write(run: Run, kind: str, to: Path) -> tuple[list[Path], dict[str, str]]:
    if kind == "lm-eval-task":
        return write_task(run, to)
    reading = Reading(run)
    if kind == "neuronpedia":
        made = write_sources(reading, to)
    elif kind == "lm-eval":
        made = [_write_lm_eval(reading, to)]
    else:
        made = [_write_table(reading, name, kind, to) for name in TABLES if reading.has(name)]
    return made, left_out(run, reading)


def left_out(run: Run, reading: Reading) -> dict[str, str]:
    """The tables of a run that are not current, all or a part of them, and why."""
    left: dict[str, str] = {}
    for stage, state in reading.states.items():
        if not state.current:
            for name in run.manifest["stages"][stage]["wrote"] or run.manifest["stages"][stage]["writes"]:
                table = name.partition("/")[0]
                if table in TABLES and any(matches(f, [name]) for f in run.manifest["files"]):
                    left.setdefault(table, f"stage {stage} is {state.status}" + (f" ({state.why})" if state.why else ""))
    return left


def _write_table(reading: Reading, name: str, kind: str, to: Path) -> Path:
    """One table as one file, its parts together. CSV has no lists: those are JSON in it."""
    path = to / f"{name}.{kind}"
    content = reading.table(name)
    with replacing(path) as temporary:
        if kind == "parquet":
            pa.parquet.write_table(content, temporary, compression="zstd")
        elif kind == "csv":
            pa.csv.write_csv(_flat(content), temporary)
        else:
            with temporary.open("w", encoding="utf-8", newline="\n") as file:
                file.writelines(_json_lines(content))
    return path


def _json_lines(content: pa.Table) -> Iterator[str]:
    """A JSON list, a row on each line."""
    before = "["
    for batch in content.to_batches(10_000):
        for row in batch.to_pylist():
            yield f"{before}\n{json.dumps(json_values(row), ensure_ascii=False)}"
            before = ","
    yield "[]\n" if before == "[" else "\n]\n"


def _flat(content: pa.Table) -> pa.Table:
    """The table with its lists as JSON texts."""
    for i, field in enumerate(content.schema):
        if pa.types.is_list(field.type):
            texts = [None if v is None else json.dumps(v, ensure_ascii=False) for v in content.column(i).to_pylist()]
            content = content.set_column(i, field.name, pa.array(texts, pa.string()))
    return content


# -- lm-eval ------------------------------------------------------------------------------------------------------------------


def _write_lm_eval(reading: Reading, to: Path) -> Path:
    path = to / "results.json"
    write_text(path, json_text(lm_eval(reading)))
    return path


def lm_eval(reading: Reading) -> dict[str, Any]:
    """Accuracies in the shape of lm-evaluation-harness's results file (EleutherAI/lm-evaluation-harness,
    `lm_eval/evaluator.py: evaluate` and `loggers/evaluation_tracker.py`).

    A prompt, and a set that is zeroed, is a task; its metric is `exact_match` under the harness's two filters, as its GSM8K
    task has them: the strict and the flexible parser. The standard error is that of a mean of 0s and 1s.

    Raises: RunError if no accuracy has been measured.
    """
    model, data = reading.manifest["model"], reading.manifest["data"]
    rows = list(_tasks(reading))
    if not rows:
        raise RunError(f"{reading.folder} has no current accuracies", remedy="Run `cotscope measure` first.")
    tasks = [name for name, _, _ in rows]
    metrics = [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}]
    seed = reading.manifest["config"].get("seed", 0)
    return {
        "results": {name: {"alias": name} | _metrics(row) for name, row, _ in rows},
        "group_subtasks": {name: [] for name in tasks},
        "configs": {
            name: {"task": name, "dataset_path": data["source"], "test_split": "test", "output_type": "generate_until",
                   "num_fewshot": row.get("exemplars"), "metric_list": metrics, "metadata": {"version": 1.0} | more}
            for name, row, more in rows
        },
        "versions": dict.fromkeys(tasks, 1.0),
        "n-shot": {name: row.get("exemplars") for name, row, _ in rows},
        "higher_is_better": {name: {"exact_match": True} for name in tasks},
        "n-samples": {name: {"original": row["n"], "effective": row["n"]} for name, row, _ in rows},
        "config": {
            "model": "cotscope", "model_args": f"pretrained={model['name']},dtype={model['dtype']}",
            "model_num_parameters": model["parameters"], "model_dtype": model["dtype"], "model_sha": model["weight_sha256"],
            "batch_size": model["rows_per_batch"], "limit": data["test"], "random_seed": seed,
        },
        "model_source": "cotscope",
        "model_name": model["name"],
        "date": reading.manifest["begun"],
        "cotscope_version": reading.manifest["versions"].get("cotscope"),
        "transformers_version": reading.manifest["versions"].get("transformers"),
    }  # fmt: skip


def _tasks(reading: Reading) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Name, row with accuracies, and what is special to it: each prompt, then each set zeroed under the first prompt.

    A name that is taken, by a prompt of another family or one called `without_reasoning`, is followed by a number.
    """
    taken = set[str]()
    for row, name, more in _named(reading):
        free = next(n for n in chain([name], (f"{name}_{i}" for i in count(2))) if n not in taken)
        taken.add(free)
        yield free, row, more


def _named(reading: Reading) -> Iterator[tuple[dict[str, Any], str, dict[str, Any]]]:
    for row in reading.rows("prompts"):
        yield row, f"cotscope_{row['prompt']}", {"family": row["family"], "kind": row["kind"]}
    for row in reading.rows("ablation"):
        if row["kind"] != "none":
            more = {"neuron_set": row["neuron_set"], "kind": row["kind"], "neurons": row["neurons"]}
            yield row, f"cotscope_without_{row['neuron_set']}", more


def _metrics(row: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for column, name in (("accuracy_strict", "strict-match"), ("accuracy", "flexible-extract")):
        p, n = row[column], row["n"]
        error = math.sqrt(p * (1 - p) / (n - 1)) if p is not None and n > 1 else "N/A"
        found |= {f"exact_match,{name}": p, f"exact_match_stderr,{name}": error}
    return found
