"""Run folders made by hand: what the report must show is known, and holds whatever a model would never say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from cotscope.report.build import write_report
from cotscope.runs.folder import Run
from cotscope.runs.progress import digest, matches
from cotscope.runs.tables import TABLES
from cotscope.stages.registry import BY_NAME

VOID = {"meta", "br", "link", "img", "input", "hr"}
HOSTILE = [
    "<script>alert(1)</script>", "</svg>", "</style>", "<img src=x onerror=alert(1)>", "\x00", "\x1b[31m", "\u202eabc",
    "\ufffd", "\"quoted\" 'token'", "中文", "   ", "\n", " add", "x" * 500, "\u0301", "", "{{ 7*7 }}", "&lt;", "\t",
    "\u2028", "\"><img onerror=alert(4)>",
]  # fmt: skip
PROMPTS = ["full", "text_only", "formulas_only", "wrong_results_out_of_domain", "</svg><script>alert(2)</script>"]
CONCEPTS = ["addition", "<script>alert(3)</script>"]
STUDY: dict[str, Any] = {
    "versions": {"cotscope": "0.1.0", "torch": "2.8.0"},
    "model": {"name": "tiny <b>", "weight_sha256": "ab" * 32, "parameters": 5_000_000, "layers": 6, "neurons_per_layer": 64,
              "dtype": "float32", "dtype_why": "asked for", "kernels": "pytorch", "device": "cpu", "rows_per_batch": 8},
    "data": {"source": "https://example.org/data.jsonl", "sha256": "cd" * 32, "test": 96, "discovery": 90, "tuning": 0,
             "duplicates": [["q1<i>", "q2"]], "halved": True},
    "concepts": {"source": "c.toml", "sha256": "ef" * 32},
    "config": {"k": 10, "seed": 0, "nested": {"<u>": "\u202e"}},
    "prompts": [{"name": name, "source": "derived", "sha256": "01" * 32, "tokens": 700} for name in PROMPTS],
}  # fmt: skip


class Page(HTMLParser):
    """What the tests ask of a page: its elements, attributes and text, and that elements are closed in order."""

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.figures: set[float] = set()
        self.chips: list[str] = []
        self.in_chip = False
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "data":
            self.figures.add(float(dict(attrs)["value"] or "nan"))
        if tag == "bdi" and "chip" in (dict(attrs).get("class") or ""):
            self.chips.append("")
            self.in_chip = True

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        self.in_chip &= tag != "bdi"

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data
        if self.in_chip:
            self.chips[-1] += data


def read(folder: Path) -> Page:
    """The report of a run folder, written and read."""
    path = write_report(Run.open(folder))
    assert path == folder / "report.html"
    return Page(path.read_text(encoding="utf-8"))


def did(
    folder: Path,
    stage: str,
    tables: Mapping[str, Sequence[dict[str, Any]]] | None = None,
    summary: Mapping[str, Mapping[str, Any]] | None = None,
    finding: str = "",
) -> None:
    """As if a stage had run: its record says done, and holds what it wrote; more can be added by another call.

    Args:
        tables: a table's name, or that of a part (`prompts/study`) → its rows.
        summary: section → figures.
    """
    run, found = Run.open(folder), BY_NAME[stage]
    record = run.manifest["stages"].setdefault(
        stage,
        {"status": "done", "seconds": 61.26, "options": {}, "after": [s for s in found.after if s in run.manifest["stages"]],
         "beside": [], "read": {}, "summary": {}, "notes": [],
         **{which: [str(p).format(first=PROMPTS[0]) for p in getattr(found, which)] for which in ("reads", "writes")}},
    )  # fmt: skip
    record["finding"] = finding or record.get("finding", "")
    run.manifest["units"].update(found.units)
    for name, rows in (tables or {}).items():
        assert matches(name, record["writes"]), f"{stage} does not write {name}"
        table, _, part = name.partition("/")
        run.write(TABLES[table], rows, part)
    for section, values in (summary or {}).items():
        record["summary"].setdefault(section, {}).update(values)
    for each in run.manifest["stages"].values():  # what was changed here is what all have read and written
        each["wrote"] = {n: f["sha256"] for n, f in run.manifest["files"].items() if matches(n, each["writes"])}
        each["read"] = {p: digest(run.manifest, p, run.whole) for p in each["reads"]}
    run.save()
    run.write_summary()


def rows_of(folder: Path, table: str) -> list[dict[str, Any]]:
    """What is in a table."""
    return Run.open(folder).rows(f'SELECT * FROM "{table}"')


def discovered(folder: Path) -> Path:
    """A run of which only `discover` has run."""
    run = Run.create(folder, STUDY, {})
    run.manifest["command"] = ["cotscope", "study", "--model", "tiny"]
    run.manifest["notes"] += ["A note with \x1b and <em>.", "lone \ud800 surrogate"]
    run.summarise("model", {"name": "tiny <b>", "parameters": 5_000_000})
    run.save()
    pole = {"layer": 2, "problems": 9, "mean_update_size": 2.0, "mean_coefficient": 0.5}
    pole |= {"promoted_scores": [1.0], "suppressed": ["x"], "suppressed_scores": [1.0]}
    poles = [pole | {"index": i, "sign": 1 - i % 2 * 2, "steps": 1234 - i, "promoted": HOSTILE} for i in range(12)]
    where = [{"layer": 2, "index": i, "sign": 1 - i % 2 * 2} for i in range(12)]
    candidates = [key | {"concept": c, "matches": 2, "evidence": ["add", "中文"]} for c in CONCEPTS for key in where]
    did(folder, "discover", {"poles": poles, "candidates": candidates}, {"neurons": {"candidates": 24}}, "found <i>12</i>")
    return folder


def complete(folder: Path, reasoning: float = 0.104, matched: tuple[float, ...] = (0.27, 0.4)) -> Path:
    """A run of which every stage has run that the headline rests on."""
    discovered(folder)
    did(
        folder, "annotate",
        {"annotations": [{"layer": 2, "index": i, "sign": 1 - i % 2 * 2, "concept": c, "accepted": i != 11,
                          "annotator": "lexicon"} for c in CONCEPTS for i in range(12)]},
        {"neurons": {"total": 11, "poles": 11, "by_concept": dict.fromkeys(CONCEPTS, 11)}},
    )  # fmt: skip
    sets = [("none", "none", 0.625), ("reasoning", "reasoning", reasoning), ("unmatched-0", "unmatched", 0.58)]
    sets += [(f"matched-{i}</svg>", "matched", value) for i, value in enumerate(matched)]
    did(
        folder, "sets",
        {
            "sets": [{"neuron_set": "reasoning", "kind": "reasoning", "layer": 2, "index": i} for i in range(11)],
            "matching": [
                {"neuron_set": "matched-0", "kind": "matched", "target": "reasoning", "mean_update_size": 2.0,
                 "mean_steps": 50.0, "target_mean_update_size": 2.5, "target_mean_steps": 100.0}
            ],
        },
    )  # fmt: skip
    did(
        folder, "ablate",
        {
            "ablation": [
                {"neuron_set": name, "kind": kind, "neurons": 11, "correct": 10, "n": 96, "accuracy": value,
                 "low": value - 0.05, "high": value + 0.05, "perplexity": 43.5, "accuracy_strict": value}
                for name, kind, value in sets
            ],
        },
        {
            "baseline": {"accuracy": 0.6251, "ci": [0.5252, 0.7153], "n": 96, "prompt": "full"},
            "ablation": {
                "reasoning": {"accuracy": reasoning, "ci": [0.0577, 0.1811], "perplexity": 43.94, "neurons": 11},
                "matched_mean": {"accuracy": sum(matched) / len(matched), "perplexity": 46.36},
                "unmatched_mean": {"accuracy": 0.5812, "perplexity": 44.21}, "none": {"perplexity": 43.52},
                "matched_each": [{"accuracy": v, "perplexity": 45.0, "seed": i} for i, v in enumerate(matched)],
                "p_value": 1 / (len(matched) + 1),
            },
        },
    )  # fmt: skip
    did(
        folder, "measure",
        {"prompts/study": [
            {"family": "study", "kind": name, "prompt": name, "n": 96, "correct": 50 - i, "accuracy": 0.6 - i / 10,
             "low": 0.5 - i / 10, "high": 0.7 - i / 10, "accuracy_strict": 0.3, "tokens_per_problem": 60.5,
             "poles_per_token": 3.0 - i / 4, "strength_per_token": 7.0, "distinct_poles": 600}
            for i, name in enumerate(PROMPTS)
        ]},
        {"prompts": {name: {"fixed_activity": None} for name in PROMPTS}},
    )  # fmt: skip
    did(
        folder, "correlate",
        {"phenomena": [
            {"phenomenon": "without <formulas>", "prompts": ["full", "text_only"], "n": 96, "accuracy_change": -0.302,
             "accuracy_low": -0.4, "accuracy_high": -0.2, "accuracy_p": 0.0002, "accuracy_p_holm": 0.0008,
             "activity_change": -0.51, "activity_low": -0.7, "activity_high": -0.31, "verdict": "as claimed"}
        ]},
        {"correlation": {"spearman": 0.8123, "ci": [-0.1234, 0.9876], "p_value": 0.0456, "prompts": 5}},
    )  # fmt: skip
    return folder


def predicted(folder: Path, count: int = 120, summary: Mapping[str, Any] | None = None) -> Path:
    """Let a made run have predicted `count` answers to hostile questions, of which the even ones are right, by two ways; the
    second can't tell them. Of `other` data it holds no texts."""
    names = [f"{HOSTILE[i % len(HOSTILE)]}#{i}" for i in range(count)]
    ways = {"reasoning": lambda i: (count - i if i % 2 else count + count - i) / (2 * count), "confidence": lambda i: i / count}
    area = {"auroc": 1.0, "low": 0.9, "high": 1.0, "n": count, "templates": 9, "accuracy": 0.5, "brier": 0.1}
    about = {"condition": "prediction.study", "family": "prediction", "prompt": "full", "neuron_set": "none", "split": "study"}
    did(
        folder, "predict",
        {
            "predicted": [{"data": "study", "problem_id": n, "question": f"How many {n}?", "answer": str(i)}
                          for i, n in enumerate(names)],
            "completions/prediction.study": [
                about | {"problem_id": n, "text": f"It is {n}.", "token_ids": [], "finish": "stop",
                         "flexible": str(i + i % 2), "correct": i % 2 == 0} for i, n in enumerate(names)
            ],
            "predictions": [
                {"data": data, "predictor": way, "problem_id": n, "template": i % 9, "correct": i % 2 == 0, "probability": p(i)}
                for data in ("study", "other<i>") for way, p in ways.items() for i, n in enumerate(names)
            ],
            "predictors": [
                {"data": data, "predictor": "reasoning", "kind": "activity"} | area for data in ("study", "other<i>")
            ] + [{"data": "study", "predictor": "confidence", "kind": "baseline", **area, "auroc": 0.5, "low": 0.4, "high": 0.6,
                  "difference": 0.5, "difference_low": 0.4, "difference_high": 0.6, "p_value": 0.001, "p_holm": 0.001}],
            "coverage": [{"data": "study", "predictor": "reasoning", "coverage": t / 10, "accuracy": 1 - t / 20}
                         for t in range(1, 11)],
        },
        {} if summary is None else {"prediction": summary},
    )  # fmt: skip
    return folder
