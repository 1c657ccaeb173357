"""What a run is, how far it has come and what it found, for the list of runs and for the page of one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..errors import RunError, UserError
from ..report.judge import DECOYS
from ..report.reading import showing
from ..report.terminal import headline
from ..report.text import number, with_interval
from ..runs.folder import Run
from ..runs.places import path_of
from ..runs.stage import again_with
from ..stages.registry import STAGES, VERB_OF
from .served import OpenRun, Served, writer_of

# What runs are compared by: words, the key of the figure, decimals, the key of its interval.
_FIGURES = (
    ("test problems", "baseline.n", 0, ""),
    ("accuracy, nothing zeroed", "baseline.accuracy", 3, "baseline.ci"),
    ("accuracy without the reasoning neurons", "ablation.reasoning.accuracy", 3, "ablation.reasoning.ci"),
    ("accuracy without those that have a counterpart", "ablation.comparable.accuracy", 3, "ablation.comparable.ci"),
    ("accuracy without matched neurons (mean)", "ablation.matched_mean.accuracy", 3, ""),
    ("accuracy without unmatched neurons (mean)", "ablation.unmatched_mean.accuracy", 3, ""),
    ("reasoning neurons", "neurons.total", 0, ""),
    ("candidates", "neurons.candidates", 0, ""),
    ("Spearman, activity and accuracy over prompts", "correlation.spearman", 2, "correlation.ci"),
)


def listed(served: Served) -> list[dict[str, Any]]:
    """Every run in a line: what it is, how far it has come; or what is wrong with it."""
    rows = list[dict[str, Any]]()
    for name, folder in served.folders_by_name().items():
        try:
            manifest = served.manifest(folder)
        except UserError as error:
            rows.append({"name": name, "folder": str(folder), "fault": str(error)})
            continue
        done = sum(record["status"] == "done" for record in manifest["stages"].values())
        rows.append({
            "name": name, "folder": str(folder), "begun": manifest["begun"], "model": manifest["model"]["name"],
            "data": manifest["data"]["source"], "test": manifest["data"]["test"], "done": done,
            "begun_stages": len(manifest["stages"]), "running": writer_of(folder) is not None,
            "doing": next((n for n, record in manifest["stages"].items() if record["status"] == "started"), ""),
        })  # fmt: skip
    return rows


def overview(run: OpenRun) -> dict[str, Any]:
    """All of a run's page. Figures of no known kind are left out; `faults` says so."""
    manifest = run.manifest
    kept = ("begun", "model", "data", "concepts", "prompts", "versions", "config", "command")
    summary, faults = run.summary, list[str]()

    def shown(make: Callable[[], Any]) -> Any:
        try:
            with showing(run.folder):
                return make()
        except RunError as error:
            faults.append(str(error))

    return {
        "folder": str(run.folder),
        "about": {key: manifest.get(key) for key in kept},
        "options": manifest["options"] | {name: record["options"] for name, record in manifest["stages"].items()},
        "stages": stages(run),
        "headline": shown(lambda: headline(summary)),
        "figures": shown(lambda: [*_figures(summary)]),
        "faults": faults,
        "summary": summary,
        "units": manifest["units"],
        "notes": run.notes,
        "missing": sorted(set(manifest["files"]) - run.whole),
        "tables": _tables(run),
        "report": _own_file(run.folder / "report.html"),
        "running": writer_of(run.folder) is not None,
    }


def remains(folder: Path, fault: RunError) -> dict[str, Any]:
    """What can still be shown of a folder whose manifest can't be read."""
    tables = folder / "tables"
    found = [] if tables.is_symlink() else [p for p in sorted(tables.glob("**/*.parquet")) if not p.is_symlink()]
    return {
        "folder": str(folder),
        "fault": str(fault),
        "found": [str(p.relative_to(folder)) for p in found[:200]],
        "report": _own_file(folder / "report.html"),
    }


def report_of(folder: Path) -> Path | None:
    """A run's report, if it is a file of its own."""
    path = folder / "report.html"
    return path if _own_file(path) else None


def _own_file(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def stages(run: Run) -> list[dict[str, Any]]:
    """What became of each stage, its finding, and which command makes it again."""
    rows, running = [], writer_of(run.folder) is not None
    for stage in STAGES:
        state, record = run.state(stage.name), run.manifest["stages"].get(stage.name, {})
        status = "started" if running and record.get("status") == "started" else state.status
        again = again_with(stage.name, run.folder, VERB_OF).strip("`") if status in ("stale", "stopped") else ""
        rows.append({
            "name": stage.name, "about": stage.about, "status": status, "why": state.why, "again": again,
            "seconds": record.get("seconds"), "finding": record.get("finding") or "",
        })  # fmt: skip
    return rows


def progress(run: Run) -> dict[str, Any]:
    """How far a run is, read from its manifest alone: its files are not hashed for it."""
    files, records = run.manifest["files"], run.manifest["stages"]
    written = [(path.stat().st_mtime, name) for name, path in _paths(run, files)]
    at, latest = max(written, default=(None, ""))
    return {
        "running": writer_of(run.folder) is not None,
        "stages": [
            {"name": stage.name, "status": records[stage.name]["status"] if stage.name in records else "missing",
             "seconds": records.get(stage.name, {}).get("seconds"), "finding": records.get(stage.name, {}).get("finding") or ""}
            for stage in STAGES
        ],
        "files": len(written),
        "completions": sum(files[name].get("rows") or 0 for _, name in written if name.startswith("completions/")),
        "latest": latest,
        "at": None if at is None else datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds"),
        "now": datetime.now(UTC).isoformat(timespec="seconds"),
    }  # fmt: skip


def _paths(run: Run, names: Mapping[str, Any]) -> Iterator[tuple[str, Path]]:
    for name in names:
        path = path_of(run.folder, name)
        if _own_file(path):
            yield name, path


def _tables(run: Run) -> dict[str, int]:
    """Rows by table."""
    rows: dict[str, int] = {}
    for name in sorted(run.whole):
        table = name.partition("/")[0]
        rows[table] = rows.get(table, 0) + int(run.manifest["files"][name].get("rows") or 0)
    return rows


def _figures(summary: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    for words, key, digits, ends in _FIGURES:
        if (value := _at(summary, key)) is not None:
            low, high = (_at(summary, ends) or (None, None)) if ends else (None, None)
            yield {"label": words, "value": with_interval(value, low, high, digits)}
    yield from _annotator(summary)
    if verdict := _at(summary, "damage.headline.verdict"):
        yield {"label": "verdict", "value": str(verdict)}


def _annotator(summary: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    """Who said which candidates are reasoning neurons, how readily, and of decoys how readily."""
    if name := _at(summary, "neurons.annotator"):
        yield {"label": "annotator", "value": str(name)}
    judge = summary.get("judge") or {}
    if answered := (judge.get("candidates") or 0) - (judge.get("failed") or 0):
        yield {"label": "candidates that it accepted", "value": number(judge["accepted"] / answered, 3)}
    for kind, words in DECOYS.items():
        if decoys := (judge.get("decoys") or {}).get(kind):
            low, high = decoys["ci"]
            rate = with_interval(decoys["rate"], low, high, 3)
            yield {"label": f"decoys that it accepted ({words})", "value": rate}


def _at(summary: Any, key: str) -> Any:
    """A figure by its path; None where it is not."""
    for part in key.split("."):
        summary = summary.get(part) if isinstance(summary, Mapping) else None
    return summary
