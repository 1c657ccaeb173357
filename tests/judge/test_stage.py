"""The stage with a judge: its tables, its bill, its audit, going on, and what the user is told."""

from __future__ import annotations

import csv
import json
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from conftest import TinyStudy, hashes
from fault_server import KEY, FaultServer, serving

from cotscope.cli import main
from cotscope.judge import annotators
from cotscope.judge.prompts import NAMING
from cotscope.judge.question import SYSTEM
from cotscope.lm.engine import Engine
from cotscope.lm.recorders import ChosenNeurons
from cotscope.measuring.contexts import contexts
from cotscope.records import Annotation, Neuron, Pole
from cotscope.report.judge import MOST_WORDS, _says
from cotscope.runs.folder import Run
from cotscope.runs.session import Session
from cotscope.stats import wilson

pytestmark = pytest.mark.slow


def oracle(messages: list[dict[str, str]]) -> str:
    """Says yes where a third of the promoted tokens and more are digits of the kind that is asked about."""
    [line] = [line for line in messages[1]["content"].split("\n") if line.startswith("Neuron ")]
    tokens = [t for t, _ in json.loads(line.partition(": ")[2])["promoted"]]
    if messages[0]["content"] == NAMING:
        return json.dumps({"description": "d", "name": "Small digits" if "0" in tokens else "letter"})
    assert messages[0]["content"] == SYSTEM
    kind = "01234" if "'small'" in messages[1]["content"] else "56789"
    evidence = [t for t in tokens if t in kind]
    yes = len(evidence) >= 3
    return json.dumps({"description": f"{len(evidence)} digits", "evidence": evidence[:3] if yes else [],
                       "answer": "yes" if yes else "no", "confidence": 0.75})  # fmt: skip


GIVEN = ["--given", "2"]
SMALL = [*GIVEN, "--matched", "1", "--unmatched", "0", "--battery", "1", "--permuted", "0"]


@pytest.fixture(scope="module")
def discovered(tiny_study: TinyStudy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("judged") / "run"
    assert main(["discover", *tiny_study.options(), *GIVEN, "--out", str(out)]) == 0
    return out


@pytest.fixture
def folder(discovered: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(discovered, tmp_path / "run"))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FaultServer]:
    with serving() as running:
        running.oracle = oracle
        monkeypatch.setenv("OPENAI_BASE_URL", running.url)
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        monkeypatch.setenv("COTSCOPE_CACHE", str(tmp_path / "cache"))
        yield running


LLM = ["--annotator", "llm", "--judge-model", "judge-1"]


@pytest.mark.parametrize(
    ("accepted", "n", "ci", "said"),
    [
        (0, 5, [0.0, 0.434], "less readily than candidates is not shown (0 of 5, beside 40 of 100): its word on"),
        (3, 5, [0.231, 0.882], "is not shown (3 of 5, beside 40 of 100)"),
        (2, 20, [0.028, 0.301], ""),
        (3, 12, [0.12, 0.39], "more than one in ten poles with random tokens"),
    ],
)
def test_what_an_audit_of_few_says(accepted: int, n: int, ci: list[float], said: str) -> None:
    found = {"random": {"accepted": accepted, "n": n, "rate": accepted / n, "ci": ci}}
    told = _says({"candidates": 100, "failed": 0, "accepted": 40, "annotator": "judge", "decoys": found}, [])
    assert (said in told[0] and len(told) == 1) if said else not told


def test_a_judged_run(folder: Path, server: FaultServer, tmp_path: Path, capsys, tiny_study: TinyStudy) -> None:
    command = ["annotate", str(folder), *LLM, "--audit", "6", "--naming", "5", "--price-in", "1", "--price-out", "2"]
    assert main(command) == 0
    told = capsys.readouterr()
    run = Run.open(folder)
    said = run.rows("SELECT * FROM annotations")
    promoted = {(p["layer"], p["index"], p["sign"]): p["promoted"] for p in run.rows("SELECT * FROM poles")}
    assert len(said) == run.rows("SELECT count(*) AS n FROM candidates")[0]["n"]
    for row in said:
        kind = "01234" if row["concept"] == "small" else "56789"
        matches = [t for t in promoted[row["layer"], row["index"], row["sign"]] if t in kind]
        assert row["accepted"] == (len(matches) >= 3)
        assert row["description"] == f"{len(matches)} digits"
        assert set(row["evidence"]) <= set(matches)
        assert (row["confidence"], row["status"], row["annotator"]) == (0.75, "answered", "llm:judge-1")
    assert 0 < sum(r["accepted"] for r in said) < len(said)
    # Decoys and their figures, counted again from the words themselves.
    words = run.rows("SELECT * FROM judgements")
    kinds = Counter(w["kind"] for w in words)
    assert kinds["candidate"] == len(said)
    assert kinds["random"] == 6
    assert kinds["repeat"] <= 6
    judge = run.summary["judge"]
    for kind, decoys in judge["decoys"].items():
        accepted = sum(w["accepted"] for w in words if w["kind"] == kind)
        assert decoys == {"rate": accepted / kinds[kind], "n": kinds[kind], "accepted": accepted,
                          "ci": list(wilson(accepted, kinds[kind]))}  # fmt: skip
    assert judge["retest"]["agreement"] == 1
    assert judge["agreement"]["lexicon"]["n"] == kinds["candidate"] + kinds["random"] + kinds["other_concept"]
    bill = run.manifest["judge"]["llm:judge-1"]
    assert bill["calls"] == len(server.bodies) == len(words) + 5
    assert (bill["tokens_in"], bill["tokens_out"]) == (100 * bill["calls"], 10 * bill["calls"])
    assert bill["cost"] == pytest.approx(bill["calls"] * (100 * 1 + 10 * 2) / 1e6)
    names = run.rows("SELECT * FROM names")
    assert {(n["name"], n["concept"]) for n in names} <= {("small digits", "digit"), ("letter", "letter")}
    assert len(names) == 5
    assert f"{len(words)} calls, about " in told.err
    page = (folder / "report.html").read_text()
    assert 'id="decoys"' in page and 'id="names"' in page
    assert len(said) > MOST_WORDS and f"It gives all {len(said)} words the confidence 0.75" in page
    yes = sum(r["accepted"] for r in said)
    assert page.count("<td>yes</td>") == min(MOST_WORDS, yes)
    assert page.count("<td>no</td>") == min(MOST_WORDS, len(said) - yes)
    # The same command asks nothing; a study keeps the judge's word.
    before = len(server.bodies)
    assert main(command) == 0
    assert len(server.bodies) == before
    assert Run.open(folder).manifest["judge"]["llm:judge-1"]["calls"] == bill["calls"]
    assert main(["study", *tiny_study.options(), *SMALL, "--out", str(folder)]) == 0
    run = Run.open(folder)
    assert run.summary["neurons"]["annotator"] == "llm:judge-1"
    assert all(found.current for found in run.states().values()) and run.state("correlate").current
    assert len(server.bodies) == before
    for file in (*folder.rglob("*"), *(tmp_path / "cache").rglob("*")):
        assert not file.is_file() or KEY.encode() not in file.read_bytes()
    assert KEY not in told.err + told.out


def test_contexts_are_where_the_pole_was_most_active(folder: Path) -> None:
    session = Session.reopen(folder)
    run, loaded, prompt = session.run, session.loaded, session.prompt
    poles = [Pole(r["layer"], r["index"], r["sign"]) for r in run.rows("SELECT DISTINCT layer, index, sign FROM candidates")]
    found = contexts(session, poles[:9])
    assert sum(map(len, found.values())) >= 9
    seen: dict[int, torch.Tensor] = {}
    recorder = ChosenNeurons(loaded.anatomy, {Neuron(*p[:2]) for p in poles[:9]}, seen.__setitem__)
    asked = [prompt.text(p.question) for p in session.inputs.split.discovery]
    written = Engine(loaded).generate(asked, max_new_tokens=16, stop=prompt.stop, recorder=recorder)
    solved = {r["problem_id"] for r in run.rows("SELECT problem_id FROM completions WHERE correct")}
    for pole, places in found.items():
        column = recorder.neurons.index(Neuron(*pole[:2]))
        best = {}
        for i, problem in enumerate(session.inputs.split.discovery):
            if problem.id in solved:
                coefficients = seen[i][: len(written[i].token_ids), column] * pole.sign
                ids, step = written[i].token_ids, int(coefficients.argmax())
                best[float(coefficients.max())] = loaded.tokenizer.decode(ids[max(0, step - 24) : step + 9])
        highest = sorted(best, reverse=True)[: len(places)]
        assert [abs(c.coefficient) for c in places] == pytest.approx(highest, rel=1e-3)
        assert [c.before + c.token + c.after for c in places] == [best[value] for value in highest]
    with pytest.MonkeyPatch.context() as patch:  # kept: nothing runs again
        patch.setattr(Session, "loaded", None)
        assert contexts(session, poles[:9]) == found


def test_limits_failures_and_going_on(folder: Path, server: FaultServer, capsys) -> None:
    assert main(["annotate", str(folder)]) == 0
    before = Run.open(folder).rows("SELECT * FROM annotations")
    capsys.readouterr()
    assert main(["annotate", str(folder), *LLM, "--max-calls", "3"]) == 2
    line = capsys.readouterr().err.strip().split("\n")[-1]
    assert line.startswith("cotscope: error: the limit of calls is reached; got --max-calls 3. Replies so far are kept")
    assert Run.open(folder).rows("SELECT * FROM annotations") == before
    assert Run.open(folder).state("annotate").current
    assert Run.open(folder).manifest["options"].get("annotate", {}) == {}
    assert Run.open(folder).manifest["judge"]["llm:judge-1"]["calls"] == 3
    wrong = []

    def sometimes(messages: list[dict[str, str]]) -> str:
        text = messages[1]["content"].split("\nYour last")[0]
        if not wrong and json.loads(oracle(messages))["answer"] == "yes":
            wrong.append(text)
        return "I can't say." if text in wrong else oracle(messages)

    server.oracle = sometimes
    assert main(["annotate", str(folder), *LLM]) == 0
    assert "1 of " in capsys.readouterr().err
    run = Run.open(folder)
    [failed] = run.rows("SELECT * FROM annotations WHERE status = 'failed'")
    assert not failed["accepted"]
    assert failed["description"]
    assert run.summary["judge"]["failed"] == 1
    assert any("got no usable reply" in note for note in run.notes)
    assert len(server.bodies) == len(before) + 1
    server.oracle = oracle
    assert main(["annotate", str(folder), *LLM]) == 0
    run = Run.open(folder)
    assert run.summary["judge"]["failed"] == 0
    assert not any("got no usable reply" in note for note in run.notes)
    assert len(server.bodies) == len(before) + 2


@pytest.mark.slow
def test_a_naming_that_fails_leaves_the_word_that_holds(folder: Path, server: FaultServer, capsys) -> None:
    """Though places in the texts were looked up for poles that are no candidates: they are kept for the next time."""
    assert main(["annotate", str(folder), *LLM]) == 0
    before, summary = hashes(folder), Run.open(folder).summary
    assert main(["annotate", str(folder), *LLM, "--naming", "1000", "--max-calls", "2"]) == 2
    assert "the limit of calls is reached" in capsys.readouterr().err
    run = Run.open(folder)
    assert run.state("annotate").current and run.summary == summary
    assert hashes(folder).items() >= before.items()
    looked = "SELECT DISTINCT layer, index, sign FROM contexts ORDER BY ALL"
    assert run.rows(looked) == run.rows("SELECT layer, index, sign FROM poles ORDER BY ALL")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Session, "loaded", None)
        assert main(["annotate", str(folder), *LLM, "--naming", "1000"]) == 0
    assert len(Run.open(folder).rows("SELECT * FROM names")) == len(run.rows(looked))
    assert len({tuple(r.values()) for r in run.rows("SELECT * FROM contexts")}) == len(run.rows("SELECT * FROM contexts"))


def test_people(folder: Path, server: FaultServer, tmp_path: Path, capsys) -> None:
    labels = tmp_path / "labels.csv"
    assert main(["annotate", str(folder), *LLM, "--audit", "4"]) == 0
    annotations = Run.open(folder).rows("SELECT * FROM annotations")
    before, options = hashes(folder), Run.open(folder).manifest["options"]
    assert main(["annotate", str(folder), "--export", str(labels), "--audit", "4"]) == 0
    assert hashes(folder) == before and Run.open(folder).state("annotate").current
    with labels.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    words = {f"c-{w['id']}": w for w in Run.open(folder).rows("SELECT * FROM judgements")}  # no number to a spreadsheet
    assert {r["id"] for r in rows} == set(words)
    for i, row in enumerate(rows):  # a person who disagrees about every tenth
        row["answer"] = "yes" if words[row["id"]]["accepted"] ^ (i % 10 == 0) else "no"
    with labels.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    assert main(["annotate", str(copy), "--annotator", "lexicon", "--audit", "3", "--judge-model", "x"]) == 0
    assert any("The lexicon asks nobody: --judge-model, --audit" in note for note in Run.open(copy).notes)
    for beside in (["--import", str(labels)], ["--annotator", "lexicon"]):
        assert main(["annotate", str(folder), "--export", str(tmp_path / "no.csv"), *beside]) == 2
        assert "does nothing beside 'export_to' (--export)" in capsys.readouterr().err and not (tmp_path / "no.csv").exists()
    assert main(["annotate", str(folder), "--import", str(labels)]) == 0
    run = Run.open(folder)
    assert run.rows("SELECT * FROM annotations") == annotations
    assert run.state("annotate").current and run.manifest["options"] == options
    assert {n for n, h in hashes(folder).items() if before.get(n) != h} == {"audit", *(
        n for n in run.whole if n.startswith("judgements/people")
    )}  # fmt: skip
    people = run.summary["judge"]["agreement"]["people"]
    kept = [i for i, row in enumerate(rows) if words[row["id"]]["kind"] != "repeat"]
    assert people["n"] == len(kept)
    assert people["same"] == sum(i % 10 != 0 for i in kept)
    assert people["ci"][0] <= people["kappa"] <= people["ci"][1]
    some = [row for row in rows if words[row["id"]]["kind"] not in ("candidate", "repeat")][-1:]  # the last decoy alone
    labels.write_text("id,answer\n" + "".join(f"{row['id'][2:]},{row['answer']}\n" for row in some))  # as an older file has it
    assert main(["annotate", str(folder), "--import", str(labels)]) == 0
    labels.write_text("id,answer\n0123456789ab,yes\n")
    assert main(["annotate", str(folder), "--import", str(labels)]) == 2
    assert "is not of this run" in capsys.readouterr().err


def test_bad_input_is_one_clear_line(folder: Path, server: FaultServer, monkeypatch, capsys) -> None:
    def fails(*options: str) -> str:
        assert main(["annotate", str(folder), *options]) == 2
        line = capsys.readouterr().err.strip().split("\n")[-1]
        assert line.startswith("cotscope: error: ")
        return line

    assert "needs a model" in fails("--annotator", "llm")
    assert "does not know the model; got gpt-9" in fails("--annotator", "llm", "--judge-model", "gpt-9")
    assert "unknown judge prompt" in fails(*LLM, "--judge-prompt", "nothing.txt")
    assert "--max-cost needs prices" in fails(*LLM, "--max-cost", "1")
    assert "one price is not enough" in fails(*LLM, "--max-cost", "1", "--price-in", "2.5")
    assert "--poles-per-call needs" in fails(*LLM, "--judge-prompt", "paper", "--poles-per-call", "2")
    assert "--naming needs a model" in fails("--naming", "3")
    assert "there is no model" in fails("--annotator", "local", "--judge-model", "gpt-9")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-wrong-key-000000")
    line = fails(*LLM)
    assert "refuses the key (status 401)" in line
    assert "sk-wrong" not in line
    monkeypatch.delenv("OPENAI_BASE_URL")
    monkeypatch.delenv("OPENAI_API_KEY")
    assert "there is no endpoint to ask; expected OPENAI_BASE_URL" in fails(*LLM)
    server.oracle = lambda messages: '{"description": "", "evidence": [], "answer": "no", "confidence": 1}'
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    assert "accepted none of" in fails(*LLM)
    assert Run.open(folder).state("annotate").status == "stopped"


def test_other_packages_add_annotators(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Coin:
        name = "coin"

        def annotate(self, found):
            return [Annotation(c.pole, c.concept, i % 2 == 0, self.name) for i, c in enumerate(found)]

    class Point:
        name = "coin"

        @staticmethod
        def load():
            return lambda setting: Coin()

    monkeypatch.setattr(annotators, "entry_points", lambda group: [Point] if group == "cotscope.annotators" else [])
    assert main(["annotate", str(folder), "--annotator", "coin", "--audit", "2"]) == 0
    run = Run.open(folder)
    assert run.summary["neurons"]["annotator"] == "coin"
    assert set(run.summary["judge"]["decoys"]) >= {"random"}
