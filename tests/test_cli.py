"""Bad input: one clear line, exit code 2, nothing lost."""

from __future__ import annotations

import argparse
import inspect
import json
import os
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from conftest import TinyStudy

import cotscope
from cotscope.cli import commands as cli
from cotscope.cli import main
from cotscope.errors import UserError
from cotscope.lm import cpu, reading
from cotscope.runs.config import StudyConfig
from cotscope.runs.files import held
from cotscope.runs.folder import Run
from cotscope.runs.session import Session
from cotscope.stages.registry import VERBS


def fails(capsys, *arguments: str, code: int = 2) -> str:
    assert main(list(arguments)) == code
    err = capsys.readouterr().err.strip().splitlines()
    assert err, "no message"
    assert err[-1].startswith("cotscope: error: "), err
    return err[-1]


def study(tiny_study: TinyStudy, out: Path, **changed: str) -> list[str]:
    options = dict(zip(*[iter(tiny_study.options())] * 2)) | {f"--{k.replace('_', '-')}": v for k, v in changed.items()}
    return ["study", *[x for pair in options.items() for x in pair], "--out", str(out)]


def test_bad_data(capsys, tiny_study: TinyStudy, tmp_path: Path) -> None:
    file = tmp_path / "d.jsonl"
    for content, words in (
        ("", "empty"),
        ('{"question": "a?", "answer": 1}\n{half', "line 2: not JSON"),
        ('{"question": "a?", "answer": "3 or 4"}\n', "line 1: the answer is no number"),
        ('{"id": "x", "question": "a?", "answer": 1}\n{"id": "x", "question": "b?", "answer": 1}\n', "id 'x'"),
    ):
        file.write_text(content)
        assert words in fails(capsys, *study(tiny_study, tmp_path / "r", data=str(file)))
    assert "nothing.jsonl" in fails(capsys, *study(tiny_study, tmp_path / "r", data="nothing.jsonl"))
    assert not (tmp_path / "r").exists()


def test_bad_model_prompt_and_concepts(capsys, tiny_study: TinyStudy, tmp_path: Path) -> None:
    assert "there is no model 'gpt-9'" in fails(capsys, *study(tiny_study, tmp_path / "r", model="gpt-9"))
    assert "nowhere.txt" in fails(capsys, *study(tiny_study, tmp_path / "r", prompt_file="nowhere.txt"))
    long = tmp_path / "long.txt"
    long.write_text("Question: x?\nThe answer is 1.\n" * 600)
    assert "prompt long is longer than the model's context; expected at most 8176" in fails(
        capsys, *study(tiny_study, tmp_path / "r", prompt_file=str(long))
    )
    concepts = tmp_path / "c.toml"
    concepts.write_text('name = "x"\ncolour = 3\n[[concept]]\nname = "a"\nseeds = ["1"]\n')
    assert "colour" in fails(capsys, *study(tiny_study, tmp_path / "r", concepts=str(concepts)))
    assert not (tmp_path / "r").exists()
    concepts.write_text('name = "x"\n[[concept]]\nname = "a"\nseeds = ["absent", "neither"]\n')
    line = fails(capsys, *study(tiny_study, tmp_path / "r", concepts=str(concepts)))
    assert "vocabulary" in line


def test_nothing_solved(capsys, tiny_study: TinyStudy, tmp_path: Path) -> None:
    file = tmp_path / "hard.jsonl"
    file.write_text("".join(json.dumps({"question": f"q{i}?", "answer": -987654321}) + "\n" for i in range(8)))
    line = fails(capsys, *study(tiny_study, tmp_path / "r", data=str(file), limit="4"))
    assert "no discovery problem was solved" in line
    assert "accuracy 0 of 4" in line
    assert "easier data" in line


def test_folders(capsys, tiny_study: TinyStudy, tmp_path: Path) -> None:
    assert main(["discover", *study(tiny_study, tmp_path / "r")[1:]]) == 0
    assert "another study" in fails(capsys, *study(tiny_study, tmp_path / "r", limit="7"))
    with Run.open(tmp_path / "r").writing():
        assert "in use by another process" in fails(capsys, *study(tiny_study, tmp_path / "r"))
    line = fails(capsys, "ablate", str(tmp_path / "r"))
    assert "stage 'annotate', which 'keystones' builds on, has not run. Run `cotscope annotate" in line
    assert Run.open(tmp_path / "r").state("keystones").status == "missing"
    assert "is not a run folder" in fails(capsys, "report", str(tmp_path))
    assert "unknown annotator; expected lexicon or llm or local; got tarot" in fails(
        capsys, "annotate", str(tmp_path / "r"), "--annotator", "tarot"
    )


def test_a_run_that_another_process_holds(capsys, tiny_study: TinyStudy, tmp_path: Path) -> None:
    """It can be looked at, and nothing writes into it, a report neither."""
    folder = tmp_path / "r"
    assert main(["discover", *study(tiny_study, folder)[1:]]) == 0
    before = (folder / "report.html").read_bytes()
    capsys.readouterr()
    with held(folder):
        for verb in ("report", "annotate"):
            assert f"in use by another process; got process {os.getpid()}. Wait" in fails(capsys, verb, str(folder))
        assert main(["status", str(folder)]) == 0 and main(["tables", str(folder), "--to", str(tmp_path / "t")]) == 0
    assert (folder / "report.html").read_bytes() == before
    assert main(["report", str(folder)]) == 0


def test_a_run_from_within_its_folder(capsys, tiny_study: TinyStudy, tmp_path: Path, monkeypatch) -> None:
    folder = tmp_path / "r"
    assert main(["discover", *study(tiny_study, folder)[1:]]) == 0
    monkeypatch.chdir(folder)
    assert main(["annotate", "."]) == 0 and main(["status", "."]) == 0 and main(["report", "."]) == 0
    assert main(["tables", "."]) == 0
    assert (tmp_path / "r-csv" / "candidates.csv").is_file() and not list(folder.glob("*csv*"))


@pytest.mark.parametrize("what", ["data", "prompt", "concepts"])
def test_changed_input_is_noticed(capsys, tiny_study: TinyStudy, tmp_path: Path, what: str) -> None:
    source = Path(getattr(tiny_study, what))
    copy = tmp_path / source.name
    copy.write_text(source.read_text())
    option = {"data": "data", "prompt": "prompt_file", "concepts": "concepts"}[what]
    assert main(["discover", *study(tiny_study, tmp_path / "r", **{option: str(copy)})[1:]]) == 0
    assert main(["annotate", str(tmp_path / "r")]) == 0
    added = {
        "data": '{"question": "new?", "answer": 1}\n',
        "prompt": "\nQuestion: 1?\nThe answer is 1.\n",
        "concepts": "# x\n",
    }
    copy.write_text(copy.read_text() + added[what])
    verb = "annotate" if what == "concepts" else "measure"
    assert "not what it was when" in fails(capsys, verb, str(tmp_path / "r"))
    assert Run.open(tmp_path / "r").state("annotate").current  # what was done stays what it was


def test_a_run_keeps_its_kernels(
    capsys, caplog, tiny_study: TinyStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "r"
    assert main(["discover", *study(tiny_study, folder)[1:]]) == 0
    assert main(["annotate", str(folder)]) == 0
    run = Run.open(folder)
    assert run.manifest["model"]["kernels"] == "pytorch"  # of sizes that compiled ones don't multiply
    run.manifest["model"]["kernels"] = "compiled"  # as if it had begun on a machine that has them
    run.save()
    line = fails(capsys, "measure", str(folder))
    assert "compiled kernels" in line
    assert Run.open(folder).state("annotate").current
    monkeypatch.setattr(reading, "on_device", lambda device: "cuda")  # as if it went on on a GPU, which has none
    assert main(["measure", str(folder)]) == 0
    assert "the run began on another device (cpu): on this one (cuda)" in caplog.text
    run = Run.open(folder)
    run.manifest["model"] |= {"device": "cuda", "kernels": "pytorch"}  # as if it had begun there
    run.save()
    monkeypatch.undo()
    assert main(["discover", *study(tiny_study, folder)[1:]]) == 0


def test_a_run_keeps_its_dtype(capsys, tiny_study: TinyStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `auto` came to when it began, with its reason, on whichever machine it goes on."""
    command = ["discover", *study(tiny_study, tmp_path / "r", dtype="auto")[1:]]
    for here in ("float32", "bfloat16"):
        monkeypatch.setattr(cpu, "choose_dtype", lambda device=None, here=here: cpu.Choice(here, "it is fast here"))
        assert main(command) == 0
        assert "in float32 (it is fast here), pytorch kernels" in capsys.readouterr().out
        model = Run.open(tmp_path / "r").manifest["model"]
        assert (model["dtype"], model["dtype_why"]) == ("float32", "it is fast here")
    assert Session.reopen(tmp_path / "r").loaded.dtype_name == "float32"


@pytest.mark.parametrize(("error", "code", "words"), [
    (KeyboardInterrupt(), 130, "the same command goes on"),
    (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB."), 2, "the GPU's memory is not enough"),
    (OSError(28, "No space left on device", "x.parquet"), 2, "x.parquet can't be used; got no space left on the device"),
])  # fmt: skip
def test_interrupts(capsys, monkeypatch, error: BaseException, code: int, words: str) -> None:
    def stop(_: object) -> None:
        raise error

    monkeypatch.setattr(cli, "_run", stop)
    assert main(["models"]) == code
    assert words in capsys.readouterr().err


def test_every_example_of_help_parses() -> None:
    parser = cli.build_parser()
    [commands] = (a.choices for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    for name in commands:
        example = cli.example(name)
        assert parser.parse_args(example.split()[1:]).command == name
        assert example in commands[name].format_help()


@pytest.mark.parametrize("wrong", [["--limit", "0"], ["--k", "x"], ["--first-layer-fraction", "1"], ["--seed", "-1"]])
def test_wrong_numbers(capsys, wrong: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["study", "--out", "r", *wrong])
    assert caught.value.code == 2
    [line] = capsys.readouterr().err.strip().splitlines()
    assert wrong[0] in line
    assert "expected a" in line


def test_models_are_listed(capsys) -> None:
    assert main(["models", "--json"]) == 0
    listed = {m["name"]: m for m in json.loads(capsys.readouterr().out)}
    assert set(listed) == {"qwen2.5-coder-0.5b", "qwen2.5-coder-1.5b", "gemma-3-270m", "smollm2-135m"}
    assert main(["models"]) == 0
    assert "cotscope models --install NAME" in capsys.readouterr().out


def test_help_states_the_defaults_that_hold() -> None:
    """Of every option of every command: what its help says, and what holds without it, are the same."""
    parser = cli.build_parser()
    [commands] = (a.choices for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    stated = set()
    for name, sub in commands.items():
        stages = cli.IN_STUDY if name == "study" else VERBS.get(name, ())
        begins = (StudyConfig,) if name in ("study", "discover") else ()
        holds = {f.name: f for c in (*begins, *(s.options for s in stages)) for f in fields(c)}
        for action in sub._actions:
            if (f := holds.get(action.dest)) is None:
                continue
            said = re.findall(r"\(default:? ([^,)]+)", action.help % {})
            where = f"{name} {action.option_strings}"
            if isinstance(f.default, bool | tuple):
                assert not said and (not f.default or f"--no-{f.name}" in action.option_strings), where
            elif f.default is None:
                assert len(said) <= 1, where  # in words, if at all
            elif not isinstance(f.default, float) or f.metadata["kind"] != "share":
                assert said == [f"{f.default:g}" if isinstance(f.default, float) else str(f.default)], where
                stated.add(f.name)
            if f.metadata["choices"]:
                assert f.default in f.metadata["choices"] and action.choices == f.metadata["choices"], where
    assert len(stated) >= 25
    assert "0.1875" in {f.name: f for f in fields(StudyConfig)}["first_layer_fraction"].metadata["help"]
    assert StudyConfig().first_layer_fraction == 0.1875


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """A command in a process of its own."""
    command = [sys.executable, "-m", "cotscope", *arguments]
    return subprocess.run(command, capture_output=True, env=os.environ | environment)


def test_the_version(capsys) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"cotscope {cotscope.__version__}\n"


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (["measure", "RUN", "--prompts", "nothing"], "--prompts: invalid choice: 'nothing' (choose from 'study', 'variants'"),
        (["measure", "RUN", "--prompts"], "--prompts: expected at least one argument"),
        (["measure", "RUN", "--colour", "red"], "unrecognized arguments: --colour red"),
        (["measure", "RUN", "\x1b[2J\n"], "unrecognized arguments: "),
        (["measure"], "required: RUN"),
        (["study"], "required: --out"),
        (["paint"], "invalid choice: 'paint'"),
        ([], "required: COMMAND"),
        (["ablate", "RUN", "--by", "set", "--outcomes", "colours"], "--outcomes: invalid choice: 'colours'"),
        (["study", "--out", "r", "--dtype", "int8"], "--dtype: invalid choice: 'int8'"),
        (["annotate", "RUN", "--max-cost", "nan"], "--max-cost: expected an amount, 0 or more; got nan"),
        (["study", "--out", "r", "--seed", str(2**53)], "expected a whole number, 0 or more and below 2^53"),
        (["study", "--out", "r", "--seed", "9" * 5000], "expected a whole number, 0 or more and below 2^53"),
    ],
)
def test_wrong_commands_are_one_line(capsys, wrong: list[str], words: str) -> None:
    with pytest.raises(SystemExit) as caught:
        main(wrong)
    assert caught.value.code == 2
    [line] = capsys.readouterr().err.strip().split("\n")
    assert words in line and line.isprintable() and len(line) < 400


def test_words_that_choose_nothing_together(capsys, tmp_path: Path) -> None:
    line = fails(capsys, "ablate", str(tmp_path), "--by", "operation", "--outcomes", "accuracy")
    assert "--by operation --outcomes accuracy" in line or "chooses nothing together" in line
    assert "chooses nothing together" in fails(capsys, "ablate", str(tmp_path), "--by", "set", "--outcomes", "keystones")


@pytest.mark.slow
def test_an_option_of_what_does_not_run_is_refused(tiny_study: TinyStudy, tmp_path: Path, capsys) -> None:
    folder = tmp_path / "r"
    assert main(["discover", *study(tiny_study, folder)[1:]]) == 0
    for words in (["ablate", "--by", "operation", "--matched", "2"], ["measure", "--prompts", "study", "--variants", "4"],
                  ["measure", "--variant-limit", "8"]):  # fmt: skip
        line = fails(capsys, words[0], str(folder), *words[1:])
        assert "which does not run with these options" in line and f"'{words[-2].strip('-').replace('-', '_')}'" in line


@pytest.mark.slow
def test_the_largest_seed(tiny_study: TinyStudy, tmp_path: Path) -> None:
    seed = 2**53 - 1
    few = ["--matched", "1", "--unmatched", "1", "--permuted", "1", "--given", "2", "--battery", "1", "--variants", "1"]
    folder = tmp_path / "r"
    assert main([*study(tiny_study, folder, seed=str(seed)), *few, "--sweep", "--sweep-battery", "1"]) == 0
    assert Run.open(folder).manifest["config"]["seed"] == seed
    assert main(["calibrate", str(folder), "--runs", "1", "--problems", "1"]) == 0


@pytest.mark.parametrize("option", ["limit", "k", "seed", "variants", "matched", "projection", "concepts", "sentences"])
@pytest.mark.parametrize("value", ["x", -1, 2.5, None, [1], {}, True, 2**53])
def test_options_from_python_are_checked_too(tmp_path: Path, option: str, value: object) -> None:
    fine = {"projection": (), "concepts": ("x",), "sentences": (True,)}.get(option, ())
    if value in fine and type(value) in map(type, fine):
        return
    with pytest.raises(UserError, match=f"option '{option}' can't have this value; expected") as caught:
        cotscope.study(tmp_path / "r", **{option: value})
    assert len(str(caught.value)) < 400
    assert not (tmp_path / "r").exists()


def test_each_command_is_a_function_of_its_name() -> None:
    """And stays one: importing what is inside the package turns none into a module."""
    for name in ("study", *VERBS, "edit", "steer", "tune", "status", "export"):
        assert inspect.isfunction(getattr(cotscope, name)), name


def test_unknown_options_from_python(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no option 'colour'"):
        cotscope.study(tmp_path / "r", colour="red")


def test_a_path_from_python_may_be_a_path(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent\.jsonl"):
        cotscope.study(tmp_path / "r", data=tmp_path / "absent.jsonl")


C_LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "latin-1"}


@pytest.mark.slow
def test_another_encoding_is_not_kept_twice(tiny_study: TinyStudy, tmp_path: Path) -> None:
    """What is written under a locale without UTF-8 is what is written under one with it."""
    prompt, concepts, folder = tmp_path / "größe 中.txt", tmp_path / "c.toml", tmp_path / "läufe"
    prompt.write_text(Path(tiny_study.prompt).read_text(), encoding="utf-8")
    concepts.write_text(Path(tiny_study.concepts).read_text().replace('"small"', '"klein ü"'), encoding="utf-8")
    command = ["discover", *study(tiny_study, folder, prompt_file=str(prompt), concepts=str(concepts))[1:]]
    first = run(*command, **C_LOCALE)
    assert first.returncode == 0, first.stderr
    manifest = (folder / "manifest.json").read_bytes()
    named = json.loads(manifest.decode("utf-8"))
    assert [p["name"] for p in named["prompts"]] == ["größe 中"]
    assert str(folder) in named["command"] and str(prompt) in named["command"]
    assert "größe 中".encode() in manifest and "gröÃ".encode() not in manifest
    [note] = named["stages"]["discover"]["notes"]  # it rests on few problems, under this prompt
    assert note.endswith("under größe 中.")
    for runs in (main, lambda words: run(*words, **C_LOCALE).returncode):  # it goes on, and nothing is encoded again
        assert runs(["annotate", str(folder)]) == 0
        assert runs(command) == 0
        again = json.loads((folder / "manifest.json").read_bytes())
        assert again["prompts"] == named["prompts"] and again["files"].keys() >= named["files"].keys()
        assert again["stages"]["discover"]["notes"] == [note]
        assert "klein ü" in json.loads((folder / "summary.json").read_bytes())["neurons"]["by_concept"]
    shown = run("status", str(folder), **C_LOCALE)
    assert shown.returncode == 0 and b"Traceback" not in shown.stderr


@pytest.mark.slow
def test_a_folder_whose_name_is_no_utf8(tiny_study: TinyStudy, tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path) + b"/l\xe4ufe"
    command = [sys.executable, "-m", "cotscope", "discover", *study(tiny_study, Path("x"))[1:-1]]
    out = subprocess.run([*command, folder], capture_output=True)
    assert out.returncode == 2
    assert b"can't be a run folder; expected a path in UTF-8" in out.stderr and b"Traceback" not in out.stderr
    assert not os.path.exists(folder)


@pytest.mark.parametrize("verb", ["status", "report", "tables", "ablate", "apply", "study", "edit"])
def test_a_name_that_is_too_long(capsys, tmp_path: Path, verb: str) -> None:
    long = str(tmp_path / ("x" * 300))
    command = {"study": ["--data", "builtin:4", "--out", long], "edit": [str(tmp_path), "--factor", "0", "--to", long]}.get(
        verb, [long]
    )
    line = fails(capsys, verb, *command)
    assert "name" in line and len(line) < 1000
