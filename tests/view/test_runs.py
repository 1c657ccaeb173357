"""What the viewer says of runs: whole, broken, stale, going on; and that it reaches no other folder."""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from conftest import manifest_of
from made_runs import complete, did

from cotscope.errors import UserError
from cotscope.runs.folder import Run
from cotscope.view import served, studies
from cotscope.view.served import Served

TOKEN = {"x-cotscope-token": "the-token"}


def get(client: Any, path: str, status: int = 200) -> Any:
    answer = client.get(f"/api/{path}")
    assert answer.status_code == status, answer.text
    return answer.json()


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy of the made run in a folder of runs."""
    shutil.copytree(made, tmp_path / "runs")
    return tmp_path / "runs"


def test_a_folder_of_runs_and_a_run_are_both_served(made: Path, viewer: Any) -> None:
    for given in (made, made / "made"):
        [run] = get(viewer(given), "runs")["runs"]
        assert run["name"] == "made" and run["model"] == "tiny <b>" and run["done"] == 6
    assert get(viewer(made), "runs")["holders"] == [made.name]
    assert get(viewer(made / "made"), "runs")["holders"] == []


def test_runs_of_one_name_are_told_apart(made: Path, tmp_path: Path, viewer: Any) -> None:
    complete(tmp_path / "made")
    assert [r["name"] for r in get(viewer(made, tmp_path), "runs")["runs"]] == ["made", "made~2"]


def test_a_folder_that_is_gone_or_can_not_be_read_hides_no_other(folder: Path, viewer: Any) -> None:
    complete(folder.parent / "others" / "second")
    client = viewer(folder, folder.parent / "others")
    assert [r["name"] for r in get(client, "runs")["runs"]] == ["made", "second"]
    shutil.rmtree(folder.parent / "others")
    locked = folder / "locked"
    (locked / "tables").mkdir(parents=True)
    for place in (locked / "tables", locked):
        place.chmod(0)
        try:
            found = get(client, "runs")
        finally:
            place.chmod(0o700)
        assert "made" in [r["name"] for r in found["runs"]] and found["holders"] == [folder.name]
    assert get(client, "runs/made")["stages"]


def test_the_name_of_a_folder_that_is_gone_is_not_anothers(folder: Path, viewer: Any) -> None:
    """A link, or an open page that begins a study, would mean another folder without a word."""
    other = folder.parent / "others" / "runs"
    complete(other / "made")
    client = viewer(folder, other)
    assert [r["name"] for r in get(client, "runs")["runs"]] == ["made", "made~2"]
    assert get(client, "runs")["holders"] == ["runs", "runs~2"]
    shutil.rmtree(folder)
    assert [r["name"] for r in get(client, "runs")["runs"]] == ["made~2"] and get(client, "runs")["holders"] == ["runs~2"]


def test_to_list_many_runs_closes_none(folder: Path, viewer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The table of neurons of the one that is looked at is made once."""
    for i in range(served._OPEN + 1):
        shutil.copytree(folder / "made", folder / f"copy{i}")
    made = []

    class Counted(served.Neurons):
        def __init__(self, run: Run) -> None:
            made.append(run.folder.name)
            super().__init__(run)

    monkeypatch.setattr(served, "Neurons", Counted)
    client = viewer(folder)
    for path in ("runs/made/neurons", "runs", "runs/made/neurons"):
        get(client, path)
    assert made == ["made"]


@pytest.mark.parametrize(
    "name",
    ["..", "%2e%2e", "made%2f..%2f..", "..%2fmade", "%00", "made%00", "/etc", "", "%ff", "~", ".", "secret"],
)
def test_no_name_leads_elsewhere(folder: Path, viewer: Any, name: str) -> None:
    complete(folder.parent / "secret")
    os.symlink(folder.parent / "secret", folder / "link")
    client = viewer(folder)
    for path in (
        f"/api/runs/{name}",
        f"/api/runs/{name}/neurons",
        f"/api/runs/{name}/report.html",
        f"/api/runs/{name}/progress",
    ):
        answer = client.get(path)
        assert answer.status_code in (404, 405) or "runs" in answer.json(), path
        assert "secret" not in answer.text.replace("'secret'", "")
    assert client.get("/api/runs/link").status_code == 404


@pytest.mark.parametrize(
    "name", ["../served.py", "..%2f..%2fguard.py", "%2e%2e/__init__.py", "index.html/..", "", "nothing.js", "/etc/passwd"]
)
def test_no_static_path_leads_elsewhere(made: Path, viewer: Any, name: str) -> None:
    assert viewer(made).get(f"/static/{name}").status_code in (404, 405)


def test_linked_reports_are_not_read(folder: Path, viewer: Any) -> None:
    (folder / "made" / "report.html").unlink(missing_ok=True)
    os.symlink("/etc/passwd", folder / "made" / "report.html")
    assert viewer(folder).get("/api/runs/made/report.html").status_code == 404
    assert "link" in get(viewer(folder), "runs/made")["fault"]


def test_overview(made: Path, viewer: Any) -> None:
    run = get(viewer(made), "runs/made")
    figures = {f["label"]: f["value"] for f in run["figures"]}
    assert figures["accuracy, nothing zeroed"] == "0.625 [0.525, 0.715]"
    assert figures["accuracy without matched neurons (mean)"] == "0.335"
    assert {s["name"]: s["status"] for s in run["stages"]}["ablate"] == "done"
    assert "lone \ud800 surrogate" in run["notes"]
    assert run["missing"] == [] and run["tables"]["poles"] == 12


def test_the_annotator_and_its_audit_stand_among_the_figures(folder: Path, viewer: Any) -> None:
    decoys = {"random": {"rate": 0.1, "n": 20, "accepted": 2, "ci": [0.03, 0.3]}, "repeat": {"rate": 1, "ci": [0.9, 1]}}
    judge = {"candidates": 24, "failed": 4, "accepted": 10, "decoys": decoys}
    did(folder / "made", "annotate", summary={"neurons": {"annotator": "llm: some"}, "judge": judge})
    with manifest_of(folder / "made") as manifest:
        manifest["stages"]["annotate"]["options"] = {"annotator": "llm"}
    run = get(viewer(folder), "runs/made")
    figures = {f["label"]: f["value"] for f in run["figures"]}
    assert figures["annotator"] == "llm: some" and figures["candidates that it accepted"] == "0.500"
    assert [v for label, v in figures.items() if label.startswith("decoys")] == ["0.100 [0.030, 0.300]"]
    assert run["options"]["annotate"] == {"annotator": "llm"}


def test_a_missing_table_is_named_and_the_rest_is_shown(folder: Path, viewer: Any) -> None:
    client = viewer(folder)
    get(client, "runs/made")
    (folder / "made/tables/poles.parquet").unlink()
    run = get(viewer(folder), "runs/made")
    states = {s["name"]: s["status"] for s in run["stages"]}
    assert run["missing"] == ["poles"] and states["discover"] == "stale" and run["tables"]["ablation"] == 5
    assert get(viewer(folder), "runs/made/neurons")["total"] == 0
    assert get(viewer(folder), "runs/made/neurons/2/3/-1")["annotations"]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"schema": 3}', "\x00\xff"])
def test_a_broken_manifest_is_said_and_what_is_left_is_listed(folder: Path, viewer: Any, content: str) -> None:
    (folder / "made/manifest.json").write_bytes(content.encode("latin-1"))
    client = viewer(folder)
    [run] = get(client, "runs")["runs"]
    assert run["fault"]
    left = get(client, "runs/made")
    assert left["fault"] and "tables/poles.parquet" in left["found"]
    for path in ("neurons", "conditions", "progress", "model"):
        assert get(client, f"runs/made/{path}", 400)["error"]


def test_a_folder_without_a_manifest_is_a_run_that_lost_it(folder: Path, viewer: Any) -> None:
    (folder / "made/manifest.json").unlink()
    assert "manifest.json" in get(viewer(folder), "runs")["runs"][0]["fault"]
    assert get(viewer(folder), "runs/made")["found"]


def test_figures_of_no_known_kind_are_a_fault_and_no_crash(folder: Path, viewer: Any) -> None:
    with manifest_of(folder / "made") as manifest:
        manifest["stages"]["ablate"]["summary"]["baseline"] = {"n": [], "accuracy": "<b>", "ci": 3}
    run = get(viewer(folder), "runs/made")
    assert any("can't be shown" in fault for fault in run["faults"]) and run["stages"] and run["tables"]


def test_a_run_that_goes_on_is_seen_going_on(folder: Path, viewer: Any) -> None:
    client, run = viewer(folder), Run.open(folder / "made")
    assert not get(client, "runs/made/progress")["running"]
    with run.writing():
        now = get(client, "runs/made/progress")
        assert now["running"] and get(client, "runs")["runs"][0]["running"]
        before = now["files"]
        run.manifest["stages"]["damage"] = dict(run.manifest["stages"]["ablate"], status="started")
        run.save()
        assert {s["name"]: s["status"] for s in get(client, "runs/made/progress")["stages"]}["damage"] == "started"
        [row] = (s for s in get(client, "runs/made")["stages"] if s["name"] == "damage")
        assert row["status"] == "started" and not row["again"]
        with (folder / "made/.lock").open() as lock, pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)  # looking did not take the lock away
    assert before == len(run.manifest["files"])
    assert not get(client, "runs/made/progress")["running"]


def test_new_runs_appear(folder: Path, viewer: Any) -> None:
    client = viewer(folder)
    complete(folder / "another")
    assert [r["name"] for r in get(client, "runs")["runs"]] == ["another", "made"]


def test_what_is_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no folder"):
        Served([tmp_path / "none"])


class TestStudies:
    """Studies that are begun from the viewer."""

    @pytest.fixture
    def begun(self, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
        """The commands that were begun; each prints itself and ends."""
        commands: list[list[str]] = []
        popen = studies.subprocess.Popen

        def instead(command: list[str], **options: Any) -> Any:
            commands.append(command)
            return popen([sys.executable, "-c", "print('\x1b begun')"], **options)

        monkeypatch.setattr(studies.subprocess, "Popen", instead)
        return commands

    def new(self, folder: Path, **values: Any) -> dict[str, Any]:
        return {"holder": folder.name, "name": "first", "model": "m", "data": "builtin", "limit": 4} | values

    def test_a_study_is_begun_in_the_served_folder(self, folder: Path, viewer: Any, begun: list[list[str]]) -> None:
        client = viewer(folder)
        answer = client.post("/api/studies", json=self.new(folder, model="-m --out=/tmp"), headers=TOKEN)
        assert answer.status_code == 200
        [command] = begun
        assert command[1:4] == ["-m", "cotscope", "study"]
        assert command[4:] == ["--model=-m --out=/tmp", "--data=builtin", "--limit=4", f"--out={folder / 'first'}"]
        while (study := get(client, "runs")["study"])["code"] is None:
            pass
        assert study["code"] == 0 and "begun" in study["said"]

    @pytest.mark.parametrize(
        "values",
        [{"name": n} for n in ("../x", "a/b", "", ".hidden", "-x", "x\n", "x" * 99)]
        + [{"holder": "/tmp"}, {"holder": ".."}, {"limit": 0}, {"limit": 10**9}, {"model": " "}, {"data": "a\0b"}],
    )
    def test_nothing_else_is_begun(self, folder: Path, viewer: Any, begun: list[list[str]], values: dict[str, Any]) -> None:
        answer = viewer(folder).post("/api/studies", json=self.new(folder, **values), headers=TOKEN)
        assert answer.status_code == 400 and answer.json()["error"] and begun == []

    def test_its_run_has_the_name_that_it_is_served_by(self, folder: Path, viewer: Any, begun: list[list[str]]) -> None:
        """None before it has a folder; another than its folder's if a run of that name is served already."""
        others = folder.parent / "others"
        others.mkdir()
        client = viewer(folder, others)
        assert client.post("/api/studies", json=self.new(others, name="made"), headers=TOKEN).json()["run"] is None
        complete(others / "made")
        assert get(client, "runs")["study"]["run"] == "made~2"
        assert get(client, "runs/made/progress")["study"]["name"] == "made"

    def test_a_double_click_begins_one(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        popen, processes, begun = studies.subprocess.Popen, [], studies.Studies()

        def slow(command: list[str], **options: Any) -> Any:
            time.sleep(0.3)
            processes.append(popen([sys.executable, "-c", "import time; time.sleep(60)"], **options))
            return processes[-1]

        def click(_: int) -> str:
            try:
                begun.start(folder, "first", model="m", data="builtin", limit=4)
            except UserError as error:
                return str(error)
            return ""

        monkeypatch.setattr(studies.subprocess, "Popen", slow)
        with ThreadPoolExecutor(2) as pool:
            first, second = sorted(pool.map(click, range(2)))
        for process in processes:
            process.kill()
            process.wait()
        assert len(processes) == 1 and first == "" and "goes on" in second

    def test_no_study_without_a_folder_of_runs(self, folder: Path, viewer: Any, begun: list[list[str]]) -> None:
        answer = viewer(folder / "made").post("/api/studies", json=self.new(folder), headers=TOKEN)
        assert answer.status_code == 400 and begun == []
