"""`cotscope view`: look at runs in a browser, and let their model write again."""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from ..errors import UserError
from ..report.text import visible

PORT = 8717


def add(command: Callable[[str, str], argparse.ArgumentParser]) -> None:
    """Offer it."""
    sub = command("view", "look at runs in a browser: neurons, solutions token by token, questions of your own")
    sub.add_argument("runs", nargs="*", type=Path, metavar="RUN", help="run folders, or folders that hold some (default runs)")
    sub.add_argument("--port", type=int, default=PORT, metavar="N", help=f"where it listens; 0: any free one (default {PORT})")
    sub.add_argument("--host", default="127.0.0.1", metavar="HOST", help="where it listens (default 127.0.0.1)")
    sub.add_argument(
        "--beyond-this-machine",
        action="store_true",
        help="allow a --host that other machines reach; whoever has the printed address can run the model",
    )


def run(arguments: argparse.Namespace) -> None:
    """Serve until Ctrl-C."""
    try:
        import fastapi  # noqa: F401
        import uvicorn
    except ImportError as error:
        raise UserError("the viewer needs packages that are not installed", remedy="pip install 'cotscope[view]'") from error
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing that is begun here fetches anything
    from ..view.app import build
    from ..view.guard import Door, is_loopback
    from ..view.served import Served

    if not is_loopback(arguments.host) and not arguments.beyond_this_machine:
        raise UserError(
            f"--host {arguments.host} can be reached from other machines", expected="127.0.0.1",
            remedy="Leave it out; or add --beyond-this-machine if that is meant, in a network that you trust.",
        )  # fmt: skip
    served = Served(arguments.runs or [Path("runs")])
    listener = _listening(arguments.host, arguments.port)
    door = Door(arguments.host, listener.getsockname()[1])
    host = f"[{door.host}]" if ":" in door.host else door.host
    address = f"http://{host}:{door.port}/?token={door.token}"
    if not is_loopback(door.host):
        print("cotscope: warning: other machines can reach this viewer. Whoever learns its address reads all runs and runs the "
              "model; nothing is encrypted.", file=sys.stderr)  # fmt: skip
    runs = list(served.folders_by_name())
    if arguments.json:
        print(json.dumps({"address": address, "runs": runs}), flush=True)
    else:
        print(f"{len(runs)} runs: {visible(', '.join(runs)) or 'none yet'}\nOpen {address}\nCtrl-C ends it.", flush=True)
    config = uvicorn.Config(build(served, door), log_level="warning", access_log=False, server_header=False,
                            timeout_graceful_shutdown=2)  # fmt: skip
    with suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[listener])


def _listening(host: str, port: int) -> socket.socket:
    """A socket that listens there. Raises: UserError if it can't."""
    try:
        if port > 65535:  # which would wrap around
            raise OverflowError(f"port {port} is above 65535")
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(64)
    except (OSError, OverflowError, UnicodeError) as error:  # UnicodeError: a host's name that can be none
        raise UserError(f"can't listen at {host}, port {port}", got=str(error), remedy="Give another --port.") from error
    return listener
