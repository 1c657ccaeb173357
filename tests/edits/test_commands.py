"""`cotscope edit`, `apply` and `export` on a tiny model's run: what they make, and the one line where they can't."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections import Counter
from pathlib import Path

import pytest
import torch
import transformers
from conftest import TinyStudy, as_if_written, hashes

import cotscope
from cotscope.cli import main
from cotscope.data.rows import question_key
from cotscope.edits.edit import Base, Edit
from cotscope.errors import EditError
from cotscope.lm.engine import Engine
from cotscope.lm.loading import DTYPES, load_model
from cotscope.measuring.choosing import Choice, choose, choose_poles, reservation
from cotscope.records import Neuron, Pole
from cotscope.runs.files import fingerprint
from cotscope.runs.folder import Run
from cotscope.runs.options import DTYPES as OFFERED
from cotscope.runs.session import Session
from cotscope.runs.tables import ANNOTATIONS

pytestmark = pytest.mark.slow

FEW = ["--matched", "2", "--unmatched", "1", "--permuted", "0", "--given", "4", "--battery", "1"]
ASKED = ["--solutions", "4", "--checked", "2", "--controls", "1", "--sums", "1", "--skills", "1", "--no-generation"]
TEXTS = ("Question: What is 12 and 3?\n", "x")


@pytest.fixture(scope="module")
def run(tiny_study: TinyStudy, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A study's; of the ways of choosing only attribution and lexicon have been run."""
    out = tmp_path_factory.mktemp("edits") / "run"
    assert main(["discover", *tiny_study.options(), "--out", str(out)]) == 0
    assert main(["annotate", str(out)]) == 0
    assert main(["ablate", str(out), *FEW[:4], "--outcomes", "accuracy"]) == 0
    assert main(["attribute", str(out), *ASKED, "--by", "attribution", "--by", "lexicon"]) == 0
    return Run.open(out)


@pytest.fixture(scope="module")
def half(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An edit file: a negative factor of the neurons that attribution chose."""
    path = tmp_path_factory.mktemp("half") / "half.json"
    assert main(["edit", str(run.folder), "--by", "attribution", "--factor", "-0.8", "--to", str(path)]) == 0
    return path


def made(capsys: pytest.CaptureFixture[str], run: Run, to: Path, *arguments: str) -> Edit:
    capsys.readouterr()
    before = hashes(run.folder)
    assert main(["edit", str(run.folder), *arguments, "--to", str(to), "--json"]) == 0
    edit, said = Edit.read(to), json.loads(capsys.readouterr().out)
    told = {k: v for k, v in edit.chosen.items() if k != "questions"}
    assert said == {"edit": str(to), "neurons": len(edit.neurons)} | told
    assert hashes(run.folder) == before
    return edit


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """A command's last line, when it ends with 2."""
    capsys.readouterr()
    try:
        code = main([str(a) for a in arguments])
    except SystemExit as wrong:  # argparse
        code = int(wrong.code or 0)
    out, err = capsys.readouterr()
    assert code == 2 and "Traceback" not in err and not out
    assert err.strip().splitlines()[-1].startswith("cotscope: error: ")
    return err.strip().splitlines()[-1]


def accepted(run: Run, where: str = "true") -> tuple[set[Pole], set[Neuron]]:
    """Those that the annotator accepted and that are no keystones, by the tables."""
    rows = run.rows(
        f"""SELECT DISTINCT layer, index, sign FROM annotations WHERE accepted AND {where}
            AND (layer, index) NOT IN (SELECT (layer, index) FROM keystones WHERE keystone)"""
    )
    poles = {Pole(r["layer"], r["index"], r["sign"]) for r in rows}
    return poles, {Neuron(p.layer, p.index) for p in poles}


# -- edit ----------------------------------------------------------------------------------------------------------------


def test_reasoning_neurons(run: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    poles, neurons = accepted(run)
    edit = made(capsys, run, tmp_path / "all.json", "--factor", "0.25")
    assert edit.factors == dict.fromkeys(neurons, (0.25, 0.25)) and len(neurons) > 3
    assert edit.name == "all" and edit.scope == "all" and not edit.offsets and not edit.measured
    session = Session.reopen(run.folder)
    assert edit.base == Base(session.config.model, session.loaded.weight_hash(torch.bfloat16), 3, 48)
    assert edit.chosen["by"] == "reasoning" and edit.chosen["neurons"] == len(neurons)

    edit = made(capsys, run, tmp_path / "few.json", "--factor", "0", "--first", "3", "--scope", "generated", "--name", "my own")
    assert list(edit.factors) == sorted(neurons)[:3] and edit.name == "my own" and edit.scope == "generated"
    assert edit.chosen["first"] == 3

    edit = made(capsys, run, tmp_path / "poles.json", "--factor", "-2", "--poles")
    assert edit.factors == {n: (-2.0 if Pole(*n, 1) in poles else 1.0, -2.0 if Pole(*n, -1) in poles else 1.0) for n in neurons}


def test_the_function_makes_what_the_command_makes(run: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for i, (words, given) in enumerate(
        (
            ([], {}),
            (
                ["--first", "3", "--scope", "generated", "--name", "my own"],
                {"first": 3, "scope": "generated", "name": "my own"},
            ),
            (["--concept", "small", "--random", "1"], {"concepts": ("small",), "random": 1}),
            (["--poles"], {"poles": True}),
        )
    ):
        there = made(capsys, run, tmp_path / "there" / f"e{i}.json", "--factor", "0.5", *words)
        here = cotscope.edit(run, tmp_path / f"e{i}.json", 0.5, **given)
        assert here == there == Edit.read(tmp_path / f"e{i}.json")
    assert not capsys.readouterr().out
    for wrong, said in (
        ({"colour": "red"}, "there is no option 'colour'"),
        ({"by": "magic"}, "unknown way of choosing"),
        ({"scope": "some"}, "unknown scope"),
    ):
        with pytest.raises(cotscope.UserError, match=said):
            cotscope.edit(run.folder, tmp_path / "wrong.json", 0.5, **wrong)
    with pytest.raises(cotscope.UserError, match="expected finite numbers"):
        cotscope.edit(run.folder, tmp_path / "wrong.json", float("nan"))
    with pytest.raises(cotscope.UserError, match="exists already"):
        cotscope.edit(run.folder, tmp_path / "e0.json", 0.5)
    assert not (tmp_path / "wrong.json").exists()


def test_one_concepts_neurons(run: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    found = {}
    for name in ("small", "large"):
        _, neurons = accepted(run, f"concept = '{name}'")
        found[name] = made(capsys, run, tmp_path / f"{name}.json", "--factor", "0", "--concept", name)
        assert set(found[name].factors) == neurons and neurons
    both = made(capsys, run, tmp_path / "both.json", "--factor", "0", "--concept", "small", "--concept", "large")
    assert set(both.factors) == {*found["small"].factors, *found["large"].factors} > set(found["small"].factors)


def test_neurons_of_some_layers(run: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    _, neurons = accepted(run, "true")
    edit = made(capsys, run, tmp_path / "some.json", "--factor", "0", "--layers", "1-2")
    assert set(edit.factors) == {n for n in neurons if 1 <= n.layer <= 2} < neurons and edit.chosen["layers"] == [1, 2]
    for wrong in ("2-1", "x", "1-", "-1", "1"):
        with pytest.raises(SystemExit):
            main(["edit", str(run.folder), "--factor", "0", "--layers", wrong, "--to", str(tmp_path / "x.json")])
        assert "expected two layers, as in 0-7" in capsys.readouterr().err


def test_a_ways_neurons_in_its_order(run: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    rows = run.rows("SELECT layer, index FROM selections WHERE selection = 'attribution' ORDER BY rank")
    order = [Neuron(r["layer"], r["index"]) for r in rows]
    assert order != sorted(order)
    edit = made(capsys, run, tmp_path / "e.json", "--by", "attribution", "--first", "5", "--factor", "1.5")
    assert set(edit.factors) == set(order[:5]) and edit.chosen["by"] == "attribution"
    whole = made(capsys, run, tmp_path / "f.json", "--by", "attribution", "--factor", "1.5")
    assert set(whole.factors) == set(order)


@pytest.mark.parametrize("by", ["reasoning", "attribution", "lexicon"])
def test_random_neurons_in_their_place(run: Run, by: str) -> None:
    """None that was chosen, among the first or not, is in their control. A layer may have too few others for all."""
    session = Session.reopen(run.folder)
    (chosen, _), (whole, _) = choose(session, Choice(by, first=6)), choose(session, Choice(by))
    assert len(whole) > len(chosen) == 6
    drawn = [choose(session, Choice(by, first=6, random=seed))[0] for seed in (1, 1, 2, 3)]
    assert drawn[0] == drawn[1] and (by != "attribution" or len({tuple(sorted(d)) for d in drawn}) > 1)
    for neurons in drawn:
        assert not {*neurons} & {*whole} and 5 <= len({*neurons}) == len(neurons) <= 6
        assert not Counter(n.layer for n in neurons) - Counter(n.layer for n in chosen)
    every, said = choose(session, Choice(by, random=2))
    assert drawn[2] == every[: len(drawn[2])] and not {*every} & {*whole}
    assert said["random"] == 2 and said["neurons"] == len(every)


def test_an_edit_keeps_the_problems_that_its_neurons_were_found_with(run: Run) -> None:
    """Another run, too, must not test on them."""
    session = Session.reopen(run.folder)
    discovery = [fingerprint(question_key(p.question)) for p in session.inputs.split.discovery]
    for choice in (Choice("reasoning"), Choice("attribution", first=3, random=1)):
        assert choose(session, choice)[1]["questions"] == sorted(set(discovery))
    assert choose_poles(session, Choice("reasoning"))[1]["questions"] == sorted(set(discovery))


def test_that_keystones_were_not_looked_for_is_said(
    tiny_study: TinyStudy, capsys: pytest.CaptureFixture[str], tmp_path: Path, run: Run
) -> None:
    assert "keystones" not in choose(Session.reopen(run.folder), Choice("reasoning"))[1]
    out = tmp_path / "run"
    assert main(["discover", *tiny_study.options(), "--out", str(out)]) == 0 and main(["annotate", str(out)]) == 0
    capsys.readouterr()
    assert main(["edit", str(out), "--factor", "0", "--to", str(tmp_path / "e.json")]) == 0
    assert "keystones were not looked for among these neurons: `cotscope ablate` finds them" in capsys.readouterr().out
    assert Edit.read(tmp_path / "e.json").chosen["keystones"] == "not looked for"


def test_that_there_are_fewer_is_said(run: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    few = len(choose(Session.reopen(run.folder), Choice("reasoning"))[0])
    assert main(["edit", str(run.folder), "--factor", "0", "--first", "1234", "--to", str(tmp_path / "e.json")]) == 0
    assert f"there are {few} such neurons, and not 1,234" in capsys.readouterr().out
    assert reservation({"first": few, "neurons": few}) == reservation({"neurons": 1}) == ""
    # Of poles so many poles are taken, which are of fewer neurons where both of one are among them.
    assert reservation({"first": 50, "poles": 50, "neurons": 47}) == ""
    assert reservation({"first": 50, "poles": 49, "neurons": 47}) == "there are 49 such poles, and not 50"
    poles, chosen = choose_poles(Session.reopen(run.folder), Choice("reasoning", first=2))
    assert (chosen["poles"], chosen["first"], len(poles)) == (2, 2, 2)


def test_what_cannot_be_chosen(run: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    to = tmp_path / "e.json"
    for arguments, words in (
        (["--by", "tarot"], "unknown way of choosing; expected reasoning or lexicon"),
        (["--by", "contrast"], f"no neurons chosen by contrast. Run `cotscope attribute {run.folder} --by contrast`"),
        (["--concept", "huge"], "no accepted neuron is of this concept; expected large or small; got 'huge'"),
        (["--by", "lexicon", "--poles"], "poles are of reasoning neurons, and random ones are not drawn"),
        (["--by", "lexicon", "--concept", "small"], "concepts are of reasoning neurons"),
        (["--poles", "--random", "3"], "poles are of reasoning neurons, and random ones are not drawn"),
        (["--first", "0"], "--first"), (["--random", "-1"], "--random"), (["--scope", "some"], "--scope"),
        (["--factor", "nan"], "expected a finite number; got nan"), (["--factor", "1e999"], "finite"),
        (["--factor", "x"], "finite"),
        (["--factor", "1e39"], "breaks the model"), (["--name", " "], "needs a name"),
    ):  # fmt: skip
        assert words in refused(capsys, "edit", run.folder, "--factor", "0", *arguments, "--to", to), arguments
        assert not to.exists()
    to.write_text("mine")
    assert "exists already" in refused(capsys, "edit", run.folder, "--factor", "0", "--to", to)
    assert to.read_text() == "mine"
    assert "is not a run folder" in refused(capsys, "edit", tmp_path, "--factor", "0", "--to", tmp_path / "n.json")
    assert "--factor" in refused(capsys, "edit", run.folder, "--to", tmp_path / "n.json")
    (tmp_path / "file").write_text("x")
    assert "can't be used" in refused(capsys, "edit", run.folder, "--factor", "0", "--to", tmp_path / "file" / "n.json")


def test_stale_neurons_are_not_chosen(run: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = Path(shutil.copytree(run.folder, tmp_path / "run"))
    rows = run.rows("SELECT * FROM annotations")
    as_if_written(out, ANNOTATIONS, rows[1:], unread=("attribute",))
    said = refused(capsys, "edit", out, "--by", "attribution", "--factor", "0", "--to", tmp_path / "e.json")
    assert "what attribute found is stale" in said and "`cotscope attribute" in said
    assert main(["edit", str(out), "--factor", "0", "--to", str(tmp_path / "e.json")]) == 0


def test_before_anything_was_annotated(tiny_study: TinyStudy, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["discover", *tiny_study.options(), "--out", str(tmp_path / "run")]) == 0
    said = refused(capsys, "edit", tmp_path / "run", "--factor", "0", "--to", tmp_path / "e.json")
    assert "no neurons are chosen by reasoning" in said and "cotscope annotate" in said


# -- apply ---------------------------------------------------------------------------------------------------------------


def by_engine(edit: Edit, texts: tuple[str, ...], count: int) -> list[dict[str, str]]:
    loaded = load_model(edit.base.model, dtype="float32")
    written = [Engine(loaded).generate(texts, max_new_tokens=count, intervention=i)
               for i in (None, edit.intervention(loaded.anatomy))]  # fmt: skip
    return [{"text": t, "base": b.text, "edited": e.text} for t, b, e in zip(texts, *written, strict=True)]


def test_texts_go_on_with_and_without(half: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    expected = by_engine(Edit.read(half), TEXTS, 9)
    assert all(row["base"] != row["edited"] for row in expected)
    capsys.readouterr()
    assert main(["apply", str(half), *TEXTS, "--tokens", "9", "--dtype", "float32", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == expected
    assert main(["apply", str(half), *TEXTS, "--tokens", "9", "--dtype", "float32"]) == 0
    out = capsys.readouterr().out
    assert all(f"--- {name}\n{row[name]}" in out for row in expected for name in row)
    assert main(["apply", str(half), TEXTS[0], "--tokens", "9", "--json", "--dtype", "float32", *TEXTS[1:]]) == 0
    assert json.loads(capsys.readouterr().out) == expected
    assert main(["apply", str(half), "--tokens", "9", "--json", "--dtype", "float32", *TEXTS]) == 0  # argparse of 3.11 does not
    assert json.loads(capsys.readouterr().out) == expected
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"x\n\n  \nWhat is it?\n")))
    assert main(["apply", str(half), "--tokens", "9", "--dtype", "float32", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == by_engine(Edit.read(half), ("x", "What is it?"), 9)


def test_the_dtypes_that_are_offered_are_those_that_models_are_loaded_in() -> None:
    assert tuple(DTYPES) == OFFERED


def test_a_base_is_found_from_another_folder(half: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """However its folder was spelled where the edit was made; a name and a hub id stay as they are."""
    folder, loaded = Path(Edit.read(half).base.model), Session.reopen(run.folder, quiet=True).loaded
    monkeypatch.chdir(folder.parent)
    for spelled in (folder.name, f"./{folder.name}", str(folder)):
        assert Base.of(loaded, spelled).model == os.path.abspath(folder)
    for name in ("qwen2.5-coder-0.5b", "owner/name"):
        assert Base.of(loaded, name).model == name


def test_a_base_that_was_moved(half: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    edit = Edit.read(half)
    moved = shutil.copytree(edit.base.model, tmp_path / "moved")
    Edit(edit.name, Base(str(tmp_path / "gone"), *list(vars(edit.base).values())[1:]), edit.factors).write(tmp_path / "e.json")
    for words in (("apply", tmp_path / "e.json", "x"), ("export", tmp_path / "e.json", "--to", tmp_path / "made")):
        said = refused(capsys, *words)
        assert "is not where it was; got no " in said and "/gone. Say where it is: --model MODEL." in said
    arguments = ["--tokens", "3", "--dtype", "float32", "--json"]
    assert main(["apply", str(tmp_path / "e.json"), "x", "--model", str(moved), *arguments]) == 0
    assert json.loads(capsys.readouterr().out) == by_engine(edit, ("x",), 3)


def test_what_cannot_be_applied(
    half: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "no.json").write_text("[]")
    assert "is no edit file" in refused(capsys, "apply", tmp_path / "no.json", "x")
    assert "there is no edit file" in refused(capsys, "apply", tmp_path / "none.json", "x")
    assert "--tokens" in refused(capsys, "apply", half, "x", "--tokens", "0")
    assert "context" in refused(capsys, "apply", half, "x" * 9000, "--dtype", "float32")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b" \n")))
    assert "there is no text to go on with" in refused(capsys, "apply", half)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"What?\ncaf\xe9\n")))
    assert "standard input, line 2: not UTF-8" in refused(capsys, "apply", half)
    assert "a text is no UTF-8" in refused(capsys, "apply", half, "caf\udce9")
    from folders import make_folder

    other = make_folder(tmp_path / "other")
    assert "edit half is for another model" in refused(capsys, "apply", half, "x", "--model", other, "--dtype", "float32")


def test_in_float16_it_is_the_same_base_though_small_weights_are_others(half: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["apply", str(half), "x", "--dtype", "float16", "--tokens", "2"]) == 0
    edit = Edit.read(half)
    model = transformers.AutoModelForCausalLM.from_pretrained(edit.base.model, dtype=torch.float16)
    with pytest.raises(EditError, match="for another model.*take bfloat16 or float32"), edit.applied(model):
        pass  # whose files nobody knows


# -- export --------------------------------------------------------------------------------------------------------------


def test_an_exported_model(half: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    capsys.readouterr()
    assert main(["export", str(half), "--to", str(tmp_path / "made"), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said == {"model": str(tmp_path / "made"), "bytes": sum(f.stat().st_size for f in (tmp_path / "made").iterdir())}
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "made")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "made")
    assert model.dtype == torch.float32  # as the base's files
    for row in by_engine(Edit.read(half), TEXTS, 9):
        ids = tokenizer(row["text"], return_tensors="pt").input_ids
        out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=9, do_sample=False, pad_token_id=0)
        assert tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True) == row["edited"]
    assert "exists already" in refused(capsys, "export", half, "--to", tmp_path / "made")


def test_what_cannot_be_exported(half: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    edit = Edit.read(half)
    for scope, words in (("prompt", "it holds for prompt tokens only"), ("generated", "`cotscope apply` runs")):
        Edit(edit.name, edit.base, edit.factors, scope=scope).write(tmp_path / "e.json")
        assert words in refused(capsys, "export", tmp_path / "e.json", "--to", tmp_path / "made")
    Edit(edit.name, edit.base, edit.factors, {Neuron(0, 1): 0.5}).write(tmp_path / "e.json")
    assert "no bias" in refused(capsys, "export", tmp_path / "e.json", "--to", tmp_path / "made")
    assert "--to" in refused(capsys, "export", half)
    (tmp_path / "file").write_text("x")
    assert "can't be used" in refused(capsys, "export", half, "--to", tmp_path / "file" / "made")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["e.json", "file"]


# -- in Python -----------------------------------------------------------------------------------------------------------


def test_the_same_in_python(run: Run, half: Path, tmp_path: Path) -> None:
    mine = Path(shutil.copytree(run.folder, tmp_path / "run"))
    shutil.copyfile(half, tmp_path / "e.json")
    done = cotscope.evaluate(mine, edit=[str(tmp_path / "e.json")], solutions=2, skills=1)
    [measured] = cotscope.Edit.read(tmp_path / "e.json").measured
    [row] = done.rows("SELECT * FROM evaluations")
    assert measured["accuracy"] == row["accuracy"] and measured["n"] == row["n"] == 8 and row["edit"] == "half"


def test_features_of_neuronpedia_name_the_poles(capsys: pytest.CaptureFixture[str], run: Run, tmp_path: Path) -> None:
    assert main(["tables", str(run.folder), "--format", "neuronpedia", "--to", str(tmp_path / "out")]) == 0
    [source, *_] = sorted((tmp_path / "out").glob("*/*-cotscope-neg"))
    edit = made(capsys, run, tmp_path / "edit.json", "--features", str(source), "--factor", "0")
    layer = int(source.name.split("-")[0])
    rows = run.rows("SELECT index FROM poles WHERE layer = ? AND sign = -1", [layer])
    assert edit.factors == {Neuron(layer, r["index"]): (1.0, 0.0) for r in rows}
    assert edit.chosen == {"by": "features", "file": source.name, "neurons": len(rows)}
    first = made(capsys, run, tmp_path / "first.json", "--features", str(source), "--first", "2", "--factor", "0")
    assert len(first.neurons) == 2
    for more in (["--by", "attribution"], ["--concept", "small"], ["--poles"], ["--random", "1"]):
        asked = ["edit", run.folder, "--features", source, *more, "--factor", 0, "--to", tmp_path / "no.json"]
        assert "--features names the neurons; expected no --by" in refused(capsys, *asked)
    (tmp_path / "far.jsonl").write_text('{"layer": "4000", "index": "1"}\n')
    asked = ["edit", run.folder, "--features", tmp_path / "far.jsonl", "--factor", 0, "--to", tmp_path / "no.json"]
    assert "is of a neuron that its base has not" in refused(capsys, *asked)
