"""What goes out to other programs is what the run holds, and comes back; what is stale stays behind and is named."""

from __future__ import annotations

import csv
import gzip
import json
import math
import os
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import TinyStudy
from made_runs import CONCEPTS, HOSTILE, complete, did

import cotscope
from cotscope.cli import main
from cotscope.data.answers import is_correct, parse_flexible, parse_number
from cotscope.data.numbers import format_number
from cotscope.edits.edit import Base, Edit
from cotscope.errors import RunError, UserError
from cotscope.exchange import FORMATS
from cotscope.exchange import tables as exchange_tables
from cotscope.exchange import task as exchange_task
from cotscope.exchange.against import differences
from cotscope.exchange.neuronpedia import HOOK, read_features
from cotscope.exchange.tables import export
from cotscope.records import Neuron, Pole
from cotscope.report.reading import Reading
from cotscope.runs.folder import Run
from cotscope.runs.session import Session
from cotscope.runs.tables import TABLES
from cotscope.stages.registry import STAGES


def example(kind: pa.DataType) -> Any:
    """A value of a column's type: texts are hostile."""
    if pa.types.is_list(kind):
        return [example(kind.value_type), None] if pa.types.is_string(kind.value_type) else [example(kind.value_type)]
    if pa.types.is_boolean(kind):
        return True
    if pa.types.is_integer(kind):
        return 1
    return 0.25 if pa.types.is_floating(kind) else '<script>\n"a",\x00\u202e中文'


@pytest.fixture
def full(tmp_path: Path) -> Path:
    """A run in which every table that a stage writes has a row of values and one of nulls."""
    folder = complete(tmp_path / "run")
    for stage in STAGES:
        names = dict.fromkeys(str(w).partition("/")[0] for w in stage.writes if str(w).partition("/")[0] in TABLES)
        rows = {
            f"{name}/{_part(stage, name)}" if TABLES[name].part else name: [
                {f.name: example(f.type) for f in TABLES[name].schema},
                dict.fromkeys(TABLES[name].schema.names),
            ]
            for name in names
        }
        did(folder, stage.name, rows)
    return folder


def _part(stage: Any, table: str) -> str:
    """A part of a table that the stage may write."""
    pattern = next(str(w) for w in stage.writes if str(w).partition("/")[0] == table).format(first="full")
    part = pattern.partition("/")[2]
    return part + "x" if part.endswith(".") else part or "x"


def content(run: Run, table: str) -> list[dict[str, Any]]:
    return run.rows(f'SELECT * FROM "{table}"')


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["csv", "parquet", "json"])
def test_every_table_goes_out_whole(full: Path, tmp_path: Path, kind: str) -> None:
    run = Run.open(full)
    made, left = export(run, kind, tmp_path / "out")
    names = {t.name for t in TABLES.values() if run.has(t)}
    assert {p.name for p in made} == {f"{name}.{kind}" for name in names} and not left
    assert len(names) > 40
    for path in made:
        rows = content(run, path.stem)
        if kind == "parquet":
            assert pq.read_table(path).schema.equals(TABLES[path.stem].schema)
            found = pq.read_table(path).to_pylist()
        elif kind == "json":
            found = json.loads(path.read_text(encoding="utf-8"))
        else:
            with path.open(encoding="utf-8", newline="") as file:
                found = [
                    {k: read(v, TABLES[path.stem].schema.field(k).type) for k, v in row.items()} for row in csv.DictReader(file)
                ]
        assert found == rows, path.name


def read(text: str, kind: pa.DataType) -> Any:
    """A cell of a CSV file as a value of its column's type."""
    if text == "":
        return None
    if pa.types.is_string(kind):
        return text
    return json.loads(text)


def test_what_is_stale_is_left_out_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = complete(tmp_path / "run")
    (folder / "tables" / "annotations.parquet").unlink()
    assert main(["tables", str(folder), "--format", "csv", "--to", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"poles.csv", "candidates.csv"}
    assert "left out: ablation, since stage ablate is stale (stage sets is stale)" in said
    assert main(["tables", str(folder), "--to", str(tmp_path / "out")]) == 2
    assert "is in the way; expected a new or an empty folder" in capsys.readouterr().err
    assert main(["tables", str(folder), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["left_out"]["annotations"] == "stage annotate is stale (annotations changed)"
    assert Path(found["written"][0]).parent == tmp_path / "run-csv"


def test_an_empty_run_has_nothing_to_write(tmp_path: Path) -> None:
    folder = complete(tmp_path / "run")
    (folder / "tables" / "poles.parquet").unlink()
    for kind in (k for k in FORMATS if k != "lm-eval-task"):  # which is of problems, not of tables
        with pytest.raises(RunError, match="no current"):
            export(Run.open(folder), kind, tmp_path / kind)
        assert not list((tmp_path / kind).rglob("*.*"))


def test_poles_go_to_neuronpedia_and_come_back(tmp_path: Path) -> None:
    folder = complete(tmp_path / "run")
    place = {"problem_id": "p", "before": "<b>", "token": HOSTILE[0], "after": "", "coefficient": -2.5}
    did(folder, "annotate", {"contexts/x": [{"layer": 2, "index": 1, "sign": -1} | place]})
    written = {"condition": "discovery.full", "family": "discovery", "prompt": "full", "neuron_set": "none", "tokens": 6170}
    right = [written | {"correct": correct} for correct in (True, True, False)]
    did(folder, "discover", {"completions/discovery.full": right})
    made, _ = export(Run.open(folder), "neuronpedia", tmp_path / "np")
    assert [p.relative_to(tmp_path / "np").as_posix() for p in made] == ["tiny-b/2-cotscope-pos", "tiny-b/2-cotscope-neg"]
    rows = {p: lines(p) for p in sorted((tmp_path / "np").rglob("*.jsonl*"))}
    features = rows[made[0] / "features" / "batch-0.jsonl.gz"]
    assert [f["index"] for f in features] == ["0", "2", "4", "6", "8", "10"]
    assert features[0]["pos_str"] == HOSTILE and features[0]["modelId"] == "tiny-b" and features[0]["hookName"] == HOOK
    assert features[0]["frac_nonzero"] == 0.1 and features[0]["maxActApprox"] is None  # 1,234 of 12,340 tokens
    [active] = rows[made[1] / "activations" / "batch-0.jsonl.gz"]
    assert (active["tokens"], active["values"], active["maxValueTokenIndex"]) == (["<b>", HOSTILE[0], ""], [0.0, 2.5, 0.0], 1)
    explained = rows[made[1] / "explanations" / "batch-0.jsonl.gz"]
    assert {e["description"] for e in explained} == set(CONCEPTS)
    assert len({e["id"] for e in explained}) == len(explained)
    [source] = rows[made[0] / "source.jsonl"]
    assert source["id"] == "2-cotscope-pos" and source["setName"] == "cotscope-pos" and source["modelId"] == "tiny-b"
    # Every row refers to one that is there.
    for path, found in rows.items():
        if path.suffix == ".gz":
            about = path.parent.parent
            assert {f["layer"] for f in found} == {lines(about / "source.jsonl")[0]["id"]} == {about.name}
    assert read_features(made[0]) == [Pole(2, i, 1) for i in range(0, 12, 2)]
    assert sorted(read_features(tmp_path / "np")) == sorted(Pole(2, i, 1 - i % 2 * 2) for i in range(12))
    again, _ = export(Run.open(folder), "neuronpedia", tmp_path / "np2")
    assert [p.read_bytes() for p in sorted(again[0].rglob("*.gz"))] == [p.read_bytes() for p in sorted(made[0].rglob("*.gz"))]


def lines(path: Path) -> list[dict[str, Any]]:
    text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return [json.loads(line) for line in text.decode().splitlines()]


def test_features_of_others_are_neurons(tmp_path: Path) -> None:
    path = tmp_path / "list.jsonl"
    path.write_text(
        '{"modelId": "gpt2", "layer": "6", "index": "12", "hookName": null}\n\n'
        '{"layer": "6-mlp-x", "index": 3, "hookName": "blocks.6.mlp.hook_post"}\n'
    )
    assert read_features(path) == [Neuron(6, 12), Neuron(6, 3)], "in the file's order"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "names no neurons"),
        (b"[1]\n", "line 1 is no feature"),
        (b'{"layer": "x-1", "index": 3}', "no feature"),
        (b'{"layer": "6-res-jb", "index": 3}', "line 1 is no neuron"),
        (b'{"modelId": "gpt2", "layer": "2-x", "index": 3}', "no neuron"),
        (b'{"layer": "1", "index": "-3"}', "no feature"),
        (b"{", "no JSON"),
        (b"[" * 100_000, "no JSON"),
        (b"\xff\xfe", "can't be read"),
        (b'{"layer": "6-res-jb", "index": 3, "hookName": "hook_resid_pre"}', "is no neuron; expected a hookName that ends"),
        (b'{"layer": "6-res-jb", "index": 3, "hookName": null}', "is no neuron"),
        (b'{"layer": "6-cotscope-neg", "index": 3}\n{"layer": "6", "index": 4}', "names neurons and poles"),
    ],
)  # fmt: skip
def test_what_is_no_feature_file(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "features.jsonl"
    path.write_bytes(content)
    with pytest.raises(UserError, match=said):
        read_features(path)
    os.mkfifo(pipe := tmp_path / "pipe")
    with pytest.raises(UserError, match="expected a regular file"):
        read_features(pipe)
    path = tmp_path / "features.jsonl.gz"
    path.write_bytes(gzip.compress(content)[:-9])
    with pytest.raises(UserError):
        read_features(path)


def test_accuracies_as_the_harness_writes_them(tmp_path: Path) -> None:
    folder = complete(tmp_path / "run")
    [path], _ = export(Run.open(folder), "lm-eval", tmp_path / "lm")
    found = json.loads(path.read_text())
    tasks = found["results"].keys()
    assert {"cotscope_full", "cotscope_without_reasoning"} <= tasks and "cotscope_without_none" not in tasks
    for key in ("configs", "versions", "n-shot", "higher_is_better", "n-samples", "group_subtasks"):
        assert found[key].keys() == tasks, key
    full = found["results"]["cotscope_full"]
    assert full["exact_match,flexible-extract"] == 0.6 and full["exact_match,strict-match"] == 0.3
    assert full["exact_match_stderr,flexible-extract"] == pytest.approx((0.24 / 95) ** 0.5)
    assert found["config"]["model_dtype"] == "float32" and found["n-samples"]["cotscope_full"] == {
        "original": 96,
        "effective": 96,
    }


def test_prompts_of_one_name_are_tasks_of_their_own(tmp_path: Path) -> None:
    folder = complete(tmp_path / "run")
    row = Run.open(folder).rows("SELECT * FROM prompts")[0]
    names = [("perturbed", "full", 0.6), ("files", "full", 0.5), ("files", "without_reasoning", 0.4)]
    did(folder, "measure", {"prompts/study": [row | {"family": f, "prompt": name, "accuracy": p} for f, name, p in names]})
    [path], _ = export(Run.open(folder), "lm-eval", tmp_path / "lm")
    found = json.loads(path.read_text())["results"]
    assert [found[f"cotscope_{n}"]["exact_match,flexible-extract"] for n in ("full", "full_2", "without_reasoning")] == [
        0.6,
        0.5,
        0.4,
    ]
    assert "cotscope_without_reasoning_2" in found


def test_what_was_stopped_is_not_in_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = complete(tmp_path / "run")
    whole, _ = export(Run.open(folder), "csv", tmp_path / "whole")
    real, written = exchange_tables._write_table, list[str]()

    def stop(reading: Reading, name: str, kind: str, to: Path) -> Path:
        if written:
            raise KeyboardInterrupt
        written.append(name)
        return real(reading, name, kind, to)

    with monkeypatch.context() as m:
        m.setattr(exchange_tables, "_write_table", stop)
        with pytest.raises(KeyboardInterrupt):
            export(Run.open(folder), "csv", tmp_path / "out")
    made, _ = export(Run.open(folder), "csv", tmp_path / "out")
    assert written and [p.name for p in made] == [p.name for p in whole]


def test_what_a_notebook_shows(tmp_path: Path) -> None:
    run = Run.open(complete(tmp_path / "run"))
    html = run._repr_html_()
    assert "tiny &lt;b&gt;" in html and "<b>discover" not in html and "found &lt;i&gt;12&lt;/i&gt;" in html
    base = Base("<img src=x>", "ab", 6, 64)
    edit = Edit("<b>\u202e", base, {Neuron(1, i): (0.5, -1.0) for i in range(12)}, chosen={"by": "</table>"})
    many = replace(edit, chosen={"by": "all", "questions": ["ab" * 32] * 400, "concepts": ["addition"]})
    assert "by all, questions (400), concepts [&#x27;addition&#x27;]" in many._repr_html_()
    html = edit._repr_html_()
    assert "Edit &lt;b&gt;\\u202e" in html and "2 more" in html and "<img" not in html and html.count("</table>") == 1
    assert Neuron(3, 4)._repr_html_() == "<span>layer 3, neuron <b>4</b></span>"
    assert Pole(3, 4, -1)._repr_html_() == "<span>layer 3, neuron <b>4</b>, −</span>"


def test_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run.open(complete(tmp_path / "run"))
    pytest.importorskip("pandas")
    assert (
        cotscope.poles(run)["sign"].tolist() == run.frame("SELECT sign FROM poles ORDER BY layer, index, sign")["sign"].tolist()
    )
    edit = Edit("e", Base("m", "0" * 64, 4, 9), {Neuron(1, 2): (2.0, 0.5)}, {Neuron(0, 3): 0.25})
    assert edit.frame().to_dict("records") == [
        {"layer": 0, "index": 3, "positive": 1.0, "negative": 1.0, "offset": 0.25},
        {"layer": 1, "index": 2, "positive": 2.0, "negative": 0.5, "offset": 0.0},
    ]
    assert list(run.frame("candidates").columns) == TABLES["candidates"].schema.names
    assert run.frame("SELECT count(*) AS n FROM poles WHERE sign = ?", [1])["n"].tolist() == [6]
    for name in [m for m in sys.modules if m.split(".")[0] == "pandas"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises((UserError, ImportError)):
        run.frame("candidates")


# -- two runs ---------------------------------------------------------------------------------------------------------


def again(folder: Path, to: Path) -> Path:
    shutil.copytree(folder, to)
    return to


@pytest.mark.slow
def test_a_run_is_the_same_as_itself(full: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tables", str(full), "--against", str(again(full, tmp_path / "other"))]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    assert last == f"0 of {len(lines)} tables differ." and all(line.endswith("the same") for line in lines)
    assert {line.partition(":")[0] for line in lines} == set(TABLES) - {"problems"}


def test_nothing_is_no_difference(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of two runs without a table that holds, nothing is said to be the same."""
    for name in ("a", "b"):
        (complete(tmp_path / name) / "tables" / "poles.parquet").unlink()
    command = ["tables", str(tmp_path / "a"), "--against", str(tmp_path / "b")]
    assert main(command) == 2
    assert "neither run has a table that is current" in capsys.readouterr().err
    assert main([*command, "--to", str(tmp_path / "c")]) == 2
    assert "--against writes nothing" in capsys.readouterr().err
    assert main(["tables", str(tmp_path / "a"), "--tolerance", "0.1"]) == 2
    assert "--tolerance is for --against" in capsys.readouterr().err


@pytest.mark.slow
def test_what_differs_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = complete(tmp_path / "run")
    row = {f.name: example(f.type) for f in TABLES["poles"].schema}
    rows = [row | {"index": i, "mean_coefficient": x} for i, x in ((1, 0.25), (1, 0.5), (2, None), (3, math.nan))]
    did(folder, "discover", {"poles": rows})
    other = again(folder, tmp_path / "other")
    changed = [
        rows[1] | {"mean_coefficient": 0.75}, rows[0], rows[2],
        rows[3] | {"index": 4, "mean_coefficient": 2.0}, rows[3] | {"promoted_scores": [0.5]},
    ]  # fmt: skip
    did(other, "discover", {"poles": changed})
    [found] = [d for d in differences(Run.open(folder), Run.open(other)) if d.table == "poles"]
    assert (found.rows, found.other_rows, found.only, found.other_only) == (4, 5, 0, 1)
    assert found.apart == {"mean_update_size": 0, "mean_coefficient": 0.25, "promoted_scores": 0.25, "suppressed_scores": 0}
    assert not found.same(1.0)
    did(other, "discover", {"poles": [rows[2] | {"mean_coefficient": 1.0}, *changed[:2], rows[3]]})
    [found] = [d for d in differences(Run.open(folder), Run.open(other)) if d.table == "poles"]
    assert found.apart is not None and found.apart["mean_coefficient"] == math.inf and not found.same(1e9)
    did(other, "discover", {"poles": [changed[0], *rows[:1], *rows[2:]]})
    for tolerance, code in (("0.2", 1), ("0.3", 0)):
        words = ["tables", str(folder), "--against", str(other), "--tolerance", tolerance]
        if code:
            with pytest.raises(SystemExit) as ended:
                main(words)
            assert ended.value.code == 1
            assert "poles: 4 rows, mean_coefficient apart by up to 0.25" in capsys.readouterr().out
        else:
            assert main(words) == 0
    (other / "tables" / "poles.parquet").unlink()
    [found] = [d for d in differences(Run.open(folder), Run.open(other)) if d.table == "poles"]
    assert str(found) == "poles: only the first has it" and not found.same(math.inf)


# -- a task of lm-evaluation-harness -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_task_asks_what_the_run_asks(
    tiny_study: TinyStudy, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    yaml = pytest.importorskip("yaml")
    folder = tmp_path / "my run"
    assert main(["discover", *tiny_study.options(), "--out", str(folder)]) == 0
    assert main(["tables", str(folder), "--format", "lm-eval-task", "--to", str(tmp_path / "task")]) == 0
    task = yaml.safe_load((tmp_path / "task/cotscope_my_run.yaml").read_text())
    rows = [json.loads(line) for line in Path(task["dataset_kwargs"]["data_files"]["test"]).read_text().splitlines()]
    session = Session.reopen(folder, quiet=True)
    test, prompt = session.inputs.split.test, session.prompt
    assert [(r["id"], r["prompt"]) for r in rows] == [(p.id, prompt.text(p.question)) for p in test]
    assert all(is_correct(parse_number(r["answer"]), p.answer) for r, p in zip(rows, test, strict=True))
    assert task["generation_kwargs"] == {"until": list(prompt.stop), "do_sample": False, "max_gen_toks": 16}
    assert [f["name"] for f in task["filter_list"]] == ["strict-match", "flexible-extract"]
    written = exchange_task.format_number  # one third is a text that no pattern finds whole
    monkeypatch.setattr(exchange_task, "format_number", lambda a: "1/3" if a == test[0].answer else written(a))
    left = sum(p.answer == test[0].answer for p in test)
    capsys.readouterr()
    assert main(["tables", str(folder), "--format", "lm-eval-task", "--to", str(tmp_path / "again")]) == 0
    assert f"left out: problems, since the answers of {left} are no decimals" in capsys.readouterr().out
    assert len((tmp_path / "again/cotscope_my_run.jsonl").read_text().splitlines()) == len(test) - left


@pytest.mark.parametrize("number", ["8", "-3", "1,234", "2.5", "1,234,567.25", "12.0", "0", "2.50", "0.050", "100"])
@pytest.mark.parametrize("text", ["So 3 + 5 = {}.\nThe answer is {}.", "The answer is ${}.\n", "7 and 9. the answer is {}"])
def test_the_harness_finds_what_cotscope_finds(number: str, text: str) -> None:
    """With its filters and what it ignores, as its `exact_match` compares."""
    said = text.replace("{}", number)

    def plain(value: str) -> str:
        for pattern in exchange_task.IGNORED:
            value = re.sub(pattern, "", value)
        return value

    for pattern in (exchange_task.STRICT, exchange_task.FLEXIBLE):
        found = re.findall(pattern, said)[-1]
        assert plain(found) == plain(format_number(parse_flexible(said)))  # type: ignore[arg-type]
