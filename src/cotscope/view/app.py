"""The viewer's server: what can be asked of it, and what it answers.

GET reads run folders. POST runs the model or begins a study, and needs the token (`guard.py`).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from importlib.resources import files
from typing import Annotated, Any

import duckdb
from fastapi import FastAPI, Query
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp

from .. import __version__
from ..errors import RunError, UserError
from ..lm.models import MODELS, installed_parts
from ..runs.files import json_values
from ..runs.stage import again_with
from ..stages.registry import VERB_OF
from . import overview, predictions, solutions
from .desk import Desk
from .guard import Door, Guard
from .neurons import Wanted, card, pole_of
from .running import Running, router
from .served import NotServedError, OpenRun, Served
from .studies import Studies

log = logging.getLogger(__name__)
_KINDS = {"html": "text/html", "js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}
# A report may come from somebody else: it gets an origin of its own, and no way to ask anybody for anything.
_REPORT = {"content-security-policy": "sandbox allow-scripts allow-popups allow-downloads; default-src 'none'; script-src "
           "'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'"}  # fmt: skip


class Json(JSONResponse):
    """JSON of whatever is in a run: NaN is null, half a character is escaped."""

    def render(self, content: Any) -> bytes:
        return json.dumps(json_values(content), allow_nan=False, separators=(",", ":")).encode()


def build(served: Served, door: Door) -> ASGIApp:
    """The server for some run folders, behind a door."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, default_response_class=Json)
    running = Running(served, Desk(), Studies())
    app.include_router(router(running), prefix="/api")
    _pages(app)
    _reads(app, served, running)
    _faults(app)
    return Guard(app, door)


def _pages(app: FastAPI) -> None:
    """The page and its parts: a list that is fixed when the server starts, so that no path leads elsewhere."""
    static = {entry.name: entry.read_bytes() for entry in files(__package__).joinpath("static").iterdir() if entry.is_file()}

    def page(name: str) -> Response:
        if name not in static:
            raise HTTPException(404, "there is no such page")
        return Response(static[name], media_type=f"{_KINDS[name.rpartition('.')[2]]}; charset=utf-8")

    app.get("/")(lambda: page("index.html"))
    app.get("/static/{name}")(page)


def _reads(app: FastAPI, served: Served, running: Running) -> None:
    @app.get("/api/runs")
    def runs() -> Any:
        return {
            "version": __version__,
            "runs": overview.listed(served),
            "holders": list(served.holders),
            "models": [m.name for m in MODELS.values() if len(installed_parts(m)) == len(m.packages)],
            "study": running.study(),
        }

    @app.get("/api/runs/{name}")
    def run(name: str) -> Any:
        try:
            return overview.overview(served.run(name))
        except RunError as error:
            return overview.remains(served.folder(name), error)

    @app.get("/api/runs/{name}/progress")
    def progress(name: str) -> Any:
        return overview.progress(served.run(name)) | {"study": running.study()}

    @app.get("/api/runs/{name}/report.html")
    def report(name: str) -> Response:
        if (path := overview.report_of(served.folder(name))) is None:
            raise HTTPException(404, "the run has no report")
        return Response(path.read_bytes(), media_type="text/html; charset=utf-8", headers=_REPORT)

    @app.get("/api/runs/{name}/neurons")
    def neurons(name: str, wanted: Annotated[Wanted, Query()]) -> Any:
        found = served.run(name).neurons
        return {"about": found.about} | found.page(wanted)

    @app.get("/api/runs/{name}/neurons/{layer}/{index}/{sign}")
    def neuron(name: str, layer: int, index: int, sign: int) -> Any:
        opened = served.run(name)
        return card(opened, pole_of(opened.manifest, layer, index, sign))

    @app.get("/api/runs/{name}/conditions")
    def conditions(name: str) -> Any:
        opened = served.run(name)
        return {"conditions": solutions.conditions(opened), "prompts": [p["name"] for p in opened.manifest["prompts"]]}

    @app.get("/api/runs/{name}/problems")
    def problems(name: str, condition: str, beside: str = "") -> Any:
        return solutions.problems(served.run(name), condition, beside)

    @app.get("/api/runs/{name}/solution")
    def solution(name: str, problem: str, condition: str, beside: str = "") -> Any:
        return _solution(served.run(name), problem, condition, beside)

    @app.get("/api/runs/{name}/predictions")
    def predicted(name: str, wanted: Annotated[predictions.Wanted, Query()]) -> Any:
        opened = served.run(name)
        return opened.predictions.page(wanted) | {"again": again_with("predict", opened.folder, VERB_OF).strip("`")}

    @app.get("/api/runs/{name}/model")
    def model(name: str) -> Any:
        return running.desk.state(served.run(name))


def _solution(run: OpenRun, problem: str, condition: str, beside: str) -> dict[str, Any]:
    """A problem, and what was written for it under one or two conditions, in words, those marked that the other has not.

    Where there is nothing to show beside the first, `fault` says why.
    """
    wrote, fault = [solutions.completion(run, condition, problem)], ""
    asked = solutions.question(run, wrote[0])
    if beside:
        try:
            wrote.append(solutions.answer_to(run, beside, problem, asked["question"]))
        except UserError as error:
            fault = str(error)
    parts = [solutions.words(each["text"]) for each in wrote]
    marked = solutions.differing(*parts) if len(parts) == 2 else ([],)
    sides = [
        {k: row[k] for k in ("condition", "prompt", "neuron_set", "finish", "flexible", "correct")}
        | {"words": words, "differs": differs, "tokens": len(row["token_ids"])}
        | {"stale": solutions.stale(run, row["condition"])}
        for row, words, differs in zip(wrote, parts, marked)
    ]
    return {"problem": asked, "sides": sides, "fault": fault}


def _faults(app: FastAPI) -> None:
    """Whatever goes wrong is one line of JSON."""

    def said(status: int, text: Callable[[Any], str]) -> Callable[[Request, Any], Response]:
        return lambda request, error: Json({"error": text(error)}, status)

    def bug(request: Request, error: Exception) -> Response:
        log.exception("the viewer failed at %s", request.url.path, exc_info=error)
        return Json({"error": f"the viewer failed ({type(error).__name__}); its terminal says where"}, 500)

    def http(request: Request, error: Any) -> Response:
        return Json({"error": str(error.detail)}, error.status_code)

    app.add_exception_handler(UserError, said(400, str))
    app.add_exception_handler(NotServedError, said(404, str))
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(duckdb.Error, said(409, lambda error: f"a table can't be read: {str(error).splitlines()[0]}"))
    app.add_exception_handler(RequestValidationError, said(422, _not_valid))
    app.add_exception_handler(Exception, bug)


def _not_valid(error: RequestValidationError) -> str:
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc'][1:])) or 'the request'}: {first['msg']}"
