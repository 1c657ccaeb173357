"""What needs the token: whatever runs the model, and studies that are begun here."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Event
from typing import Any, Literal

from anyio import from_thread
from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from ..errors import UserError
from ..records import Pole
from ..runs.session import Session
from . import solutions
from .desk import Desk
from .neurons import pole_of
from .served import Served
from .similar import similar
from .solutions import Marks, Steps, Watched
from .studies import Studies
from .trying import MOST_TOKENS, Change, Stopped, base_of, edit_of, needs_model, write

log = logging.getLogger(__name__)
Tell = Callable[[dict[str, Any]], None]


class OnePole(BaseModel):
    """A pole; with sign 0 a neuron."""

    layer: int
    index: int
    sign: int = 0


class Wrote(BaseModel):
    """A completion, and what is asked of it: a pole's activity, or the active poles at one token."""

    problem: str
    condition: str
    beside: str = ""
    pole: OnePole | None = None
    token: int | None = Field(default=None, ge=0)


class Kept(BaseModel):
    """A list of poles that is to be an edit."""

    name: str = Field(min_length=1, max_length=120)
    poles: list[tuple[int, int, int]] = Field(min_length=1)
    factor: float = Field(default=0.0, allow_inf_nan=False)
    scope: Literal["all", "prompt", "generated"] = "all"


class Asked(BaseModel):
    """A question that the model is to answer, as it is and with a change."""

    question: str = Field(max_length=20_000)
    prompt: str
    change: Change = Change()
    tokens: int = Field(default=200, ge=1, le=MOST_TOKENS)


class NewStudy(BaseModel):
    """A study to begin in one of the folders that hold runs."""

    holder: str
    name: str
    model: str = Field(max_length=500)
    data: str = Field(max_length=500)
    limit: int


class Running:
    """What the server keeps of what runs."""

    def __init__(self, served: Served, desk: Desk, studies: Studies) -> None:
        self.served, self.desk, self.studies, self.watched = served, desk, studies, Watched()
        self.stop = Event()  # of what is being written now

    def study(self) -> dict[str, Any] | None:
        """The study that was begun last, and what its run is called in links: None before it has a folder."""
        state, folder = self.studies.state(), self.studies.folder
        return state and state | {"run": folder and self.served.name_of(folder)}

    @contextmanager
    def steps(self, name: str, asked: Wrote, condition: str, left: Callable[[], bool]) -> Iterator[tuple[Session, Steps]]:
        """The activity at each token of a completion, which the model is made to write again unless whoever asked `left`."""
        run = self.served.run(name)
        solutions.completion(run, condition, asked.problem)  # what is not there need not wait
        with self.desk.held(run.folder, "watching what was written", left=left) as (session, engine):
            row = solutions.completion(session.run, condition, asked.problem)  # as it is now: an evaluation may have ended
            yield session, self.watched.steps(session, engine, row, solutions.question(session.run, row)["question"])

    async def streamed(self, work: Callable[[Tell, Event], None]) -> AsyncIterator[bytes]:
        """What a thread tells, a line of JSON each. Who stops reading stops it."""
        loop, told, stop = asyncio.get_running_loop(), asyncio.Queue[dict[str, Any] | None](), Event()

        def tell(said: dict[str, Any] | None) -> None:
            with suppress(RuntimeError):  # the server has ended meanwhile
                loop.call_soon_threadsafe(told.put_nowait, said)

        def run() -> None:
            try:
                work(tell, stop)
            except UserError as error:
                tell({"error": str(error)})
            except Stopped:
                tell({"stopped": True})
            except Exception as error:
                log.exception("the viewer failed while the model wrote")
                tell({"error": f"the viewer failed ({type(error).__name__}); its terminal says where"})
            finally:
                tell(None)

        loop.run_in_executor(None, run)
        try:
            while (said := await told.get()) is not None:
                yield json.dumps(said).encode() + b"\n"
        finally:
            stop.set()


def _left(request: Request) -> Callable[[], bool]:
    """Whether whoever asked has closed the connection, as leaving a page does; asked in the thread that answers."""
    return lambda: from_thread.run(request.is_disconnected)


def router(running: Running) -> APIRouter:
    """Its addresses."""
    routes, served, desk, studies = APIRouter(), running.served, running.desk, running.studies

    @routes.post("/runs/{name}/model")
    def load(name: str) -> Any:
        run = served.run(name)
        with desk.held(run.folder, "loading"):
            pass
        return desk.state(run)

    @routes.post("/runs/{name}/activity")
    def activity(name: str, asked: Wrote, request: Request) -> Any:
        marked, pole = served.run(name).neurons.marked(), asked.pole

        def side(condition: str) -> dict[str, Any]:
            with running.steps(name, asked, condition, _left(request)) as (session, steps):
                if pole is not None:
                    own = pole_of(session.run.manifest, pole.layer, pole.index, pole.sign)
                    return {"pieces": steps.pieces, "of_pole": steps.of_pole(own)}
                anatomy = session.loaded.anatomy
                marks = Marks(marked, (anatomy.layers, anatomy.width))
                counts = marks.count(steps.index, steps.coefficient).T.tolist()
                return {"pieces": steps.pieces, "active": dict(zip((*marks.concepts, ""), counts, strict=True))}

        sides, faults = list[dict[str, Any]](), list[UserError]()
        for condition in (asked.condition, *filter(None, [asked.beside])):
            try:
                sides.append(side(condition))
            except UserError as error:  # the other one is shown
                sides.append({"error": str(error)})
                faults.append(error)
        if len(faults) == len(sides):
            raise faults[0]
        differs = solutions.differing(*(s["pieces"] for s in sides)) if len(sides) == 2 and not faults else ([], [])
        return [side | {"differs": places} for side, places in zip(sides, differs)]

    @routes.post("/runs/{name}/token")
    def token(name: str, asked: Wrote, request: Request) -> Any:
        with running.steps(name, asked, asked.condition, _left(request)) as (_, steps):
            if asked.token is None or asked.token >= len(steps.pieces):
                raise UserError("the text has no such token", expected=f"below {len(steps.pieces)}", got=str(asked.token))
        return solutions.at_token(steps, asked.token, served.run(name).neurons)

    @routes.post("/runs/{name}/similar")
    def alike(name: str, pole: OnePole, request: Request) -> Any:
        run = served.run(name)
        own = pole_of(run.manifest, pole.layer, pole.index, pole.sign)
        with desk.held(run.folder, "comparing value vectors", left=_left(request)) as (session, _):
            return similar(session.loaded, own, session.config.projection)

    @routes.post("/runs/{name}/edit")
    def edit(name: str, kept: Kept) -> Response:
        run, chosen = served.run(name), {"by": "list", "run": name, "neurons": len({p[:2] for p in kept.poles})}
        targets = [Pole(*p) for p in kept.poles]
        if needs_model(run):
            with desk.held(run.folder, "hashing the weights") as (session, _):
                base = base_of(run, session)
        else:
            base = base_of(run)
        made = edit_of(kept.name, base, targets, kept.factor, kept.scope, chosen)
        return Response(made.text(), media_type="application/json")

    @routes.post("/runs/{name}/try")
    def try_it(name: str, asked: Asked) -> StreamingResponse:
        run = served.run(name)
        marked = run.neurons.marked()

        def work(tell: Tell, stop: Event) -> None:
            with desk.held(run.folder, "writing", wait=False) as (session, engine):
                anatomy, running.stop = session.loaded.anatomy, stop
                write(
                    session, engine, question=asked.question, prompt=asked.prompt, change=asked.change, tokens=asked.tokens,
                    marks=Marks(marked, (anatomy.layers, anatomy.width)), tell=tell, stop=stop,
                )  # fmt: skip

        return StreamingResponse(running.streamed(work), media_type="application/x-ndjson")

    @routes.post("/stop")
    def stop() -> Any:
        running.stop.set()
        return {"stopped": True}

    @routes.post("/studies")
    def begin(new: NewStudy) -> Any:
        if (folder := served.holders.get(new.holder)) is None:
            raise UserError("a study needs a folder that holds runs", expected="`cotscope view` of such a folder")
        studies.start(folder, new.name, model=new.model, data=new.data, limit=new.limit)
        return running.study()

    @routes.post("/studies/stop")
    def stop_study() -> Any:
        studies.stop()
        return running.study()

    return routes
