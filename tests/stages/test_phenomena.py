"""The verdicts on phenomena where nothing is active: they are said, and no number of problems is asked for."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from cotscope.stages import correlate
from cotscope.stats.verdicts import TOO_FEW_PROBLEMS


@pytest.mark.parametrize("lost", [0, 12])
def test_where_nothing_is_active_no_more_problems_are_asked_for(monkeypatch: pytest.MonkeyPatch, lost: int) -> None:
    every = [f"p{i:03}" for i in range(240)]
    solved = {"full": dict.fromkeys(every, True), "text_only": {p: i >= lost for i, p in enumerate(every)}}
    none = {name: dict.fromkeys(every, 0.0) for name in solved}
    monkeypatch.setattr(correlate, "_per_problem", lambda session: (solved, {"activity": none}))
    permuted = {name: np.zeros(99) for name in solved}
    labels: Any = SimpleNamespace(permuted_activity=lambda *_: permuted)
    session: Any = SimpleNamespace(config=SimpleNamespace(seed=0), prompt=SimpleNamespace(name="full"))
    [row] = [r for r in correlate._phenomena(session, labels) if r["prompts"] == ["text_only"]]
    assert (row["verdict"], row["verdict_needs"]) == (TOO_FEW_PROBLEMS, None)
