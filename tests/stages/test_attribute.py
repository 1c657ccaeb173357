"""The stage that finds the neurons which results rest on, on a tiny model: its tables, against the engine and each other."""

from __future__ import annotations

import shutil
from pathlib import Path
from statistics import fmean

import pytest
from conftest import AsWritten, CharacterTokenizer, TinyStudy, as_if_written, assert_same, times, tiny_model
from scipy.stats import binomtest

from cotscope.cli import main
from cotscope.data.load import general_text
from cotscope.data.sums import LEVELS
from cotscope.errors import ModelError
from cotscope.lm.interventions import scale
from cotscope.measuring import attributing
from cotscope.measuring.selections import WAYS, attributions
from cotscope.measuring.solutions import reference_solutions, score_roles
from cotscope.measuring.trials import CALCULATES, NOT_SHOWN, RESTS
from cotscope.records import Neuron
from cotscope.runs.folder import Run
from cotscope.runs.session import Session
from cotscope.runs.tables import COMPLETIONS

pytestmark = pytest.mark.slow

FEW = ["--matched", "2", "--unmatched", "1", "--permuted", "0", "--given", "4", "--battery", "1"]
ASKED = ["--solutions", "4", "--checked", "12", "--controls", "19", "--sums", "2", "--skills", "1"]


@pytest.fixture(scope="module")
def finished(tiny_study: TinyStudy, tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("runs") / "attribute"
    assert main(["study", *tiny_study.options(), *FEW, "--out", str(out)]) == 0
    assert main(["attribute", str(out), *ASKED, "--by", "lexicon", "--by", "attribution"]) == 0  # the others: below
    return Run.open(out)


def test_every_neuron_is_attributed_and_zeroing_some_bears_it_out(finished: Run) -> None:
    columns = attributions(finished)
    layers, width = columns["result_margin"].shape
    assert (layers, width) == (3, 48)
    assert all(value.any() for value in columns.values())
    checks = finished.rows("SELECT * FROM attribution_checks")
    assert [c["drawn"] for c in checks] == ["largest"] * 6 + ["random"] * 6
    for c in checks:
        assert c["predicted"] == pytest.approx(columns["result_margin"][c["layer"], c["index"]], abs=1e-6)
    assert finished.summary["attribution"]["check"]["spearman"] > 0.6
    last = columns["result_margin"][-1] - columns["result_margin_direct"][-1]
    assert abs(last).max() < 1e-3 < abs(columns["result_margin"][-1]).max()


def test_the_ways_choose_as_many_and_their_figures_are_the_engines(finished: Run) -> None:
    rows = {r["neuron_set"]: r for r in finished.rows("SELECT * FROM selected")}
    assert {"lexicon", "attribution", "attribution, first 10"} <= rows.keys()
    assert rows["attribution"]["neurons"] == rows["lexicon"]["neurons"] == rows["lexicon"]["shared"]
    chosen: dict[str, list[Neuron]] = {}
    for r in finished.rows("SELECT * FROM selections ORDER BY selection, rank"):
        chosen.setdefault(r["selection"], []).append(Neuron(r["layer"], r["index"]))
    session = Session.reopen(finished.folder)
    with finished.writing():
        given = [s for s in reference_solutions(session) if s.results]
    for name, neurons in {**chosen, "attribution, first 10": chosen["attribution"][:10]}.items():
        zeroed = scale(session.loaded.anatomy, neurons, 0.0)
        after, before = (score_roles(session.engine, session.prompt, given, i) for i in (zeroed, None))
        for role in ("result", "elsewhere"):
            pairs = [(a[role], b[role]) for a, b in zip(after, before) if role in a]
            change = fmean(fmean(t.log_prob for t in a) - fmean(t.log_prob for t in b) for a, b in pairs)
            assert rows[name][role] == pytest.approx(change, abs=1e-3), name


def test_random_sets_share_layers_and_sizes_and_give_a_verdict(finished: Run) -> None:
    rows = {r["neuron_set"]: r for r in finished.rows("SELECT * FROM selected")}
    controls = {(r["selection"], r["control"]) for r in finished.rows("SELECT * FROM selection_scores WHERE part = 'all'")}
    for name in ("lexicon", "attribution"):
        assert rows[name]["controls"] == 19 == sum(s == name and c is not None for s, c in controls)
        assert 1 / 20 <= rows[name]["p_value"] <= 1 and rows[name]["verdict"] in (CALCULATES, RESTS, NOT_SHOWN)
        assert 0 < rows[name]["compared"] <= rows[name]["neurons"]
    few = rows["attribution, first 10"]
    assert (few["selection"], few["part"], few["neurons"], few["controls"]) == ("attribution", "first", 10, None)
    assert few["shared_by_chance"] is None and rows["attribution"]["shared_by_chance"] > 0, "no random sets were as few"
    assert {r["part"] for r in rows.values()} == {"all", "first"}


def test_sums_of_every_level_are_asked_and_generation_has_its_share(finished: Run) -> None:
    asked = finished.rows("SELECT level, count(*) AS n FROM selection_sums WHERE selection = 'none' GROUP BY ALL")
    assert {r["level"]: r["n"] for r in asked} == {level.name: 2 for level in LEVELS}
    rows = {r["neuron_set"]: r for r in finished.rows("SELECT * FROM selected")}
    assert {r["n"] for r in rows.values()} == {8}
    assert rows["attribution"]["controls_accuracy"] is not None and rows["lexicon"]["controls_accuracy"] is None
    assert "attribution" in finished.summary["selected"] and (finished.folder / "report.html").exists()


def test_sums_are_asked_of_the_model_without_the_neurons(
    finished: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Made sums: the model as it is writes the answers of the first four, without attribution's neurons those of two more."""
    out = Path(shutil.copytree(finished.folder, tmp_path / "run"))
    rows = finished.rows("SELECT * FROM selections WHERE selection = 'attribution'")
    session = Session.reopen(out)
    zeroed = scale(session.loaded.anatomy, [Neuron(r["layer"], r["index"]) for r in rows], 0.0)
    prompts = [f"{i} + {i + 3} =" for i in range(60)]
    written = [session.engine.generate(prompts, max_new_tokens=1, intervention=i) for i in (None, zeroed)]
    texts = [(p, a.text, b.text) for p, a, b in zip(prompts, *written, strict=True)]
    differ = [(p, a, b) for p, a, b in texts if a != b and a.isalnum() and b.isalnum()][:6]
    assert len(differ) == 6
    made = AsWritten("made", tuple((p, a if i < 4 else b) for i, (p, a, b) in enumerate(differ)))
    monkeypatch.setattr("cotscope.stages.attribute.load_sums", lambda items: (made,))
    few = ["--solutions", "4", "--checked", "0", "--controls", "0", "--sums", "6", "--skills", "1", "--no-generation"]
    assert main(["attribute", str(out), "--by", "attribution", *few]) == 0
    run = Run.open(out)
    [row] = run.rows("SELECT * FROM selected WHERE neuron_set = 'attribution'")
    assert (run.summary["selected"]["sums"]["sums"], row["sums"]) == pytest.approx((4 / 6, 2 / 6))
    assert row["sums_p"] == pytest.approx(binomtest(2, 6).pvalue)


def test_what_is_done_is_not_done_again(finished: Run, tiny_study: TinyStudy, tmp_path: Path) -> None:
    before = times(finished.folder, "attributions", "selection_scores", "completions")
    assert main(["attribute", str(finished.folder), *ASKED, "--no-generation"]) == 0
    assert times(finished.folder, "attributions", "selection_scores", "completions") == before
    rows = Run.open(finished.folder).rows("SELECT * FROM selected")
    assert {r["accuracy"] for r in rows} == {None}, "what was written may be of other neurons"
    assert main(["attribute", str(finished.folder), *ASKED, "--generation"]) == 0
    assert times(finished.folder, "completions") == {n: t for n, t in before.items() if n.startswith("completions")}
    assert None not in {r["accuracy"] for r in Run.open(finished.folder).rows("SELECT * FROM selected")}


def test_without_a_solution_there_is_one_line(
    finished: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(attributing, "solved", lambda *asked: ())
    before = finished.manifest["stages"]["attribute"]["status"]
    assert main(["attribute", str(finished.folder), *ASKED, "--solutions", "5"]) == 2
    assert "no discovery problem has a solution to attribute" in capsys.readouterr().err.splitlines()[-1]
    assert Run.open(finished.folder).manifest["stages"]["attribute"]["status"] == before == "done"


def test_a_cpu_attributes_in_float32_or_not_at_all(
    finished: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = []

    def full(session: Session, beside: int = 0, float32: bool = False) -> None:
        asked.append(float32)
        raise ModelError("it does not fit into memory a second time")

    monkeypatch.setattr(attributing, "differentiable", full)
    assert main(["attribute", str(finished.folder), *ASKED, "--solutions", "3"]) == 2
    assert asked == [True] and "does not fit" in capsys.readouterr().err.splitlines()[-1]


def test_where_the_data_has_answers_only_the_models_right_solutions_are_attributed(finished: Run, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(finished.folder, out)
    written = finished.rows("SELECT * FROM completions WHERE split = 'discovery'")
    assert finished.summary["attribution"]["solutions"] < len(written)
    right = [r | {"text": "So 1 + 2 = 3.\nThe answer is 3.", "correct": True} for r in written]
    [part] = {r["condition"] for r in written}
    as_if_written(out, COMPLETIONS, right, part)
    few = ["--solutions", "20", "--checked", "0", "--controls", "0", "--sums", "1", "--skills", "1", "--no-generation"]
    assert main(["attribute", str(out), "--by", "attribution", *few]) == 0
    assert Run.open(out).summary["attribution"]["solutions"] == len(written)


def test_the_model_need_not_have_written_without_neurons_before(tiny_study: TinyStudy, tmp_path: Path) -> None:
    out = str(tmp_path / "run")
    assert main(["discover", *tiny_study.options(), "--given", "2", "--out", out]) == 0
    assert main(["annotate", out]) == 0
    assert main(["ablate", out, "--outcomes", "solutions", *FEW[:6], "--battery", "1"]) == 0
    few = ["--by", "lexicon", "--solutions", "2", "--checked", "0", "--controls", "0", "--sums", "1", "--skills", "1"]
    assert main(["attribute", out, *few]) == 0
    run = Run.open(tmp_path / "run")
    assert run.summary["selected"]["accuracy"]["n"] == run.summary["selected"]["lexicon"]["n"] == 8
    assert run.state("ablate").status == "missing" and run.state("damage").current


def test_ways_can_be_named_and_unknown_ones_are_one_line(
    finished: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(finished.folder, out)
    assert main(["attribute", str(out), "--by", "nothing"]) == 2
    assert "unknown way of choosing" in capsys.readouterr().err.splitlines()[-1]
    assert main(["attribute", str(out), *ASKED, "--no-generation", "--by", "lexicon"]) == 0
    assert [r["selection"] for r in Run.open(out).rows("SELECT * FROM selected")] == ["lexicon"]
    before = times(out, "selection_scores", "completions")
    assert before.keys() >= times(finished.folder, "selection_scores", "completions").keys(), "what others asked for stays"
    assert main(["attribute", str(out), *ASKED, "--by", "lexicon", "--by", "attribution", "--generation"]) == 0
    assert times(out, "selection_scores", "completions") == before
    assert_same(Run.open(out).rows("SELECT * FROM selected"), finished.rows("SELECT * FROM selected"))
    assert main(["attribute", str(out), *ASKED, "--controls", "1", "--by", "all", "--no-generation"]) == 0
    rows = {r["neuron_set"]: r for r in Run.open(out).rows("SELECT * FROM selected")}
    chosen = {r["selection"] for r in rows.values()}
    assert set(WAYS) - {"words"} <= chosen <= set(WAYS) and all(r["neurons"] > 0 for r in rows.values())


def test_calibrate_asks_of_attributions_neurons_too(finished: Run, tmp_path: Path) -> None:
    """A rule that never says “matters” has to be found out; what it says of them is no part of its rate."""
    out = tmp_path / "run"
    shutil.copytree(finished.folder, out)
    assert main(["calibrate", str(out), "--runs", "1", "--problems", "2"]) == 0
    run = Run.open(out)
    rows = {r["run"]: r for r in run.rows("SELECT * FROM calibration")}
    assert set(rows) == {"study_0", "attribution_0", "occurring_0"}
    assert 0 < rows["attribution_0"]["compared"] <= rows["attribution_0"]["neurons"]
    [chosen] = run.rows("SELECT count(*) AS n FROM selections WHERE selection = 'attribution'")
    assert rows["attribution_0"]["neurons"] == chosen["n"]
    assert run.summary["placebo"]["by_kind"]["attribution"]["runs"] == 1 and run.summary["placebo"]["runs"] == 0
    assert "chosen by attribution" in (out / "report.html").read_text()
    sql = "SELECT * FROM selections WHERE selection = 'attribution' ORDER BY rank"
    before, neurons = times(out, "calibration_runs"), run.rows(sql)
    few = ["--solutions", "2", "--no-generation", "--by", "attribution", "--controls", "0"]
    assert main(["attribute", str(out), *ASKED, *few]) == 0
    assert Run.open(out).rows(sql) != neurons
    assert main(["calibrate", str(out), "--runs", "1", "--problems", "2"]) == 0
    after = times(out, "calibration_runs")
    assert {name for name in before if before[name] != after[name]} == {"calibration_runs/attribution_0"}, "of other neurons"


def test_the_general_text_begins_as_every_text_does() -> None:
    """With the tokenizer's start token, where it has one: a model that never saw a text without is in an odd state there."""
    model = tiny_model("llama")
    first, text = attributing._prose(model)
    whole = model.encode(general_text("choosing"))
    assert first == model.encode("") == [1] and text == whole[-len(text) :] and len(first) + len(text) == model.context
    model.tokenizer = type("Bare", (CharacterTokenizer,), {"__call__": lambda self, text: {"input_ids": [9] * len(text)}})()
    first, text = attributing._prose(model)
    assert len(first) == 1 and len(text) == model.context - 1
