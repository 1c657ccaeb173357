"""What is recorded of answers is kept apart by the roles that the answers' table says."""

from __future__ import annotations

from types import SimpleNamespace

from conftest import tiny_model

from cotscope.data.roles import ROLES, token_roles
from cotscope.measuring.generation import active_poles
from cotscope.records import Problem


def test_the_end_token_is_no_part_of_an_answer_in_words() -> None:
    """Without a full stop before it, "Friday" would run on into it."""
    loaded = tiny_model("qwen2")
    session = SimpleNamespace(loaded=loaded, config=SimpleNamespace(k=3))
    recorder = active_poles(session, [Problem("p", "When?", "Friday")], lambda tally: None)  # type: ignore[arg-type]
    said = loaded.encode("So. The answer is Friday")[1:]
    [end] = loaded.end_tokens
    assert recorder.label is not None
    labels = [ROLES[i] for i in recorder.label(0, [*said, end])]
    assert labels == [*token_roles(loaded, said, "Friday"), "elsewhere"] and labels.count("result") == len("Friday")
    assert [ROLES[i] for i in recorder.label(0, said)] == labels[:-1] and list(recorder.label(0, [])) == []
