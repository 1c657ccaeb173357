"""What counts as a reply: nothing that is damaged, doubtful or only thought aloud, however it is made; a seeded fuzzer."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fault_server import case, completion, says, serving
from test_client import QUESTIONS, asker

from cotscope.judge import client
from cotscope.judge.client import Patience, Request, _reply
from cotscope.judge.prompts import NamingForm, PaperForm
from cotscope.judge.question import Answer, ConceptForm, Form, Invalid
from cotscope.judge.wire import Damaged

FORM, PAPER, NAMING = ConceptForm(QUESTIONS), PaperForm(QUESTIONS), NamingForm()
POLE = case(1)
YES = {"description": "plus", "evidence": ["+"], "answer": "yes", "confidence": 0.9}
NO = {"description": "nothing", "evidence": [], "answer": "no", "confidence": 0.8}
yes, no = json.dumps(YES), json.dumps(NO)


def word(text: str, form: Form = FORM) -> bool | None:
    """What a reply says; None if it is no answer, for a reason that can be read."""
    [found] = form.parse(text, [POLE])
    if isinstance(found, Answer):
        return found.accepted
    assert 0 < len(found.reason) <= 300
    assert found.reason.isprintable()
    return None


NO_ANSWERS = {
    "an example in a reply that was cut": f'{{"example": {yes}, "answer": "no", "desc',
    "the same, with quotes of Python": f"{{'example': {yes}, 'answer': 'no'}}",
    "the same, with bare keys": f"{{example: {yes}, answer: no}}",
    "an entry of a list that was cut": f'{{"neurons": [{yes}, {no[:30]}',
    "an object behind a damaged one": f'{{"answer": "no" "confidence": 1, "example": {yes}}}',
    "two that differ": f"For example {yes}. I say: {no}",
    "a list of two that differ": f"[{no}, {yes}]",
    "a key twice": yes.replace('"answer"', '"answer": "no", "answer"'),
    "a key twice, with escapes": yes.replace('"answer"', '"\\u0061nswer": "no", "answer"'),
    "what is no JSON": yes[:-1] + ', "more": NaN}',
    "a number without end": yes[:-1] + f', "more": {"9" * 5000}}}',
    "only thoughts": f"<think>{yes}</think> I can't say.",
    "only thoughts, begun by the template": f"{yes}</think> I can't say.",
    "thoughts without end": f"<think> maybe {yes}",
    "a string of JSON": json.dumps(yes),
}


@pytest.mark.parametrize("kind", NO_ANSWERS)
def test_what_is_no_answer(kind: str) -> None:
    assert word(NO_ANSWERS[kind]) is None


@pytest.mark.parametrize("text", [
    f"{{{{note}}}} {no}", f"<think>{{broken {yes} or</think>{no}", f"{no} Neuron 2 (data): {{\"promoted\": [[", f"{no}\n{no}",
    f"{no} {{}}", no.replace("nothing", "a </think> b"), f"<think>hm</think>{no.replace('nothing', 'a </think> b')}",
    f"{no} {yes.replace('+', 'of another neuron')}", f"[{no}]", f"```json\n{no}\n```",
])  # fmt: skip
def test_what_is_one(text: str) -> None:
    assert word(text) is False


def test_the_first_word_of_the_paper_form() -> None:
    said = {"Yes or no? Hard to say.": None, "Yes/No": None, "no, or yes": None, "No doubt, yes.": None, "no-one": None,
            "yes, I think</think>Maybe": None, "<think>yes": None, "Yes, and they are plain.": True, "No: or hardly.": False,
            "yes</think>No.": False, "**No**": False}  # fmt: skip
    assert {text: word(text, PAPER) for text in said} == said


def test_several_neurons_in_one_reply() -> None:
    two = [case(1), case(2)]
    entries = [{"number": 1, **YES}, {"number": 2, **NO}]
    for text in (
        json.dumps({"neurons": entries})[:-1],
        json.dumps(entries),
        f"{json.dumps(entries[0])} {json.dumps(entries[1])}",
    ):
        assert all(isinstance(found, Invalid) for found in FORM.parse(text, two))
    for number in (0, 3, True, "2", None, 1.0):  # counted from 0, every "no" would be another neuron's
        strange = json.dumps({"neurons": [{"number": number, **NO}, {"number": 1, **NO}]})
        assert all(isinstance(found, Invalid) for found in FORM.parse(strange, two))
    other = json.dumps({"neurons": [entries[0], {"number": 2, **YES}]})
    first, second = FORM.parse(f"{json.dumps({'neurons': entries})} {other}", two)
    assert isinstance(first, Answer) and isinstance(second, Invalid)


MILLION = 1_000_000


@pytest.mark.parametrize("text", [
    *(piece * MILLION for piece in ("{", "{}", '{"', '{"a":', "{'", "{a", "{ ", "[", "*", '"')),
    *(begin + piece * MILLION for begin, piece in (("{", " "), ('{"', "\\"), ("{", "a"), ("<think>", "{"), ('{"a":"', "x"))),
    "</think>" * (MILLION // 8), '{"a' * MILLION + "</think>",
], ids=lambda text: text[:10])  # fmt: skip
def test_no_reply_takes_long(text: str) -> None:
    for form in (FORM, PAPER, NAMING):
        began = time.process_time()
        assert word(text, form) is None
        assert time.process_time() - began < 1


# -- the fuzzer -------------------------------------------------------------------------------------------------------

NUMBERS = ["-1", "1e308", "1e999", "-1e999", "NaN", "Infinity", "-Infinity", "9" * 5000, "01", "+1", ".5", "1."]
STRINGS = ['"x"', '""', '"\\ud800"', '"\\u0000"', '"\\', "'no'", '"NO WAY"', '"<|im_end|>"', f'"{"y" * 9000}"']
NESTED = ["[]", "{}", '["\\udfff"]', "[[[]]]", '{"a": [1]}', "[1]", '["+", null]', "[" * 5000 + "]" * 5000, '{"a":' * 5000]
STRANGE = ["null", "true", *NUMBERS, *STRINGS, *NESTED]
PIECES = '{}[]:,"\\ \n\t0123456789eE+-.abnoyesu\u202e\ud800\x00é'


def spoil(rng: random.Random, fields: dict[str, Any], other: str) -> str:
    """A reply that says what `fields` say, or nothing; `other` is a whole answer that says the opposite."""
    text = json.dumps(fields)
    kind = rng.randrange(10)
    if kind == 0:
        return rng.randbytes(rng.randrange(400)).decode(rng.choice(["utf-8", "latin-1", "utf-16"]), "replace")
    if kind == 1:
        return text[: rng.randrange(len(text) + 1)]
    if kind == 2:  # a wrong value
        key = rng.choice(list(fields))
        return text.replace(f'"{key}": {json.dumps(fields[key])}', f'"{key}": {rng.choice(STRANGE)}')
    if kind == 3:  # a key twice
        key, value = rng.choice(list(json.loads(other).items()))
        pair = f'"{key}": {json.dumps(value)}'
        return f"{text[:-1]}, {pair}}}" if rng.random() < 0.5 else f"{{{pair}, {text[1:]}"
    if kind == 4:
        return json.dumps({k: v for k, v in fields.items() if rng.random() < 0.8})
    if kind == 5:
        frame = rng.choice(["<think>{}</think>{}", "{}</think>{}", "<think>{}", "e.g. {} but {}", '{{"a": {}, {}',
                            "{{'a': {}}}", "{{a: {}", '["{}", {}'])  # fmt: skip
        return frame.format(other, text)
    if kind == 6:
        return rng.choice(['{"a":', "[", "{{", "<think>"]) * rng.randrange(1, 3000) + text
    if kind == 7:
        return text[:-1] + f', "more": {rng.choice(STRANGE)}}}'
    if kind == 8:
        return f"{text} {rng.choice(STRANGE)} {rng.choice(['', text])}"
    letters = list(text)
    for _ in range(rng.randrange(1, 6)):
        at = rng.randrange(len(letters))
        letters[at : at + rng.randrange(2)] = rng.choice(PIECES)
    return "".join(letters)


@pytest.mark.parametrize("seed", range(4))
def test_fuzzed_replies_never_raise_or_turn(seed: int) -> None:
    rng = random.Random(seed)
    answered = 0
    for _ in range(1500):
        said, other = rng.sample([YES, NO], 2)
        text = spoil(rng, said, json.dumps(other))
        found = word(text)
        assert found in (None, said["answer"] == "yes"), text[:500]
        answered += found is not None
        number = rng.choice([1, 2])
        words = FORM.parse(f'{{"neurons": [{text}, {json.dumps({"number": number, **said})}]}}', [POLE, case(2)])
        for i, one in enumerate(words, start=1):
            assert isinstance(one, Invalid) or (i == number and one.accepted == (said["answer"] == "yes")), text[:500]
            assert isinstance(one, Answer) or len(one.reason) <= 300
        for form in (PAPER, NAMING):
            word(text, form)
    assert 100 < answered < 1400


def spoiled_body(rng: random.Random) -> tuple[bytes, bool]:
    """The bytes of an endpoint's reply, and what they say if anything."""
    said, other = rng.sample([YES, NO], 2)
    text = spoil(rng, said, json.dumps(other)) if rng.random() < 0.4 else json.dumps(said)
    body = json.dumps(completion(text))
    kind = rng.randrange(6)
    key = rng.choice(
        ["id", "model", "choices", "usage", "index", "message", "content", "finish_reason", "prompt_tokens", "role"]
    )
    if kind == 0:
        body = body.replace(f'"{key}": ', f'"{key}": {rng.choice(STRANGE)}, "was": ', 1)
    elif kind == 1:
        body = body.replace(f'"{key}": ', f'"{key}": {rng.choice(STRANGE)}, "{key}": ', 1)
    elif kind == 2:
        body = body[: rng.randrange(len(body))]
    elif kind == 3:
        body = body.replace(rng.choice(["stop", "100", "10", "chat"]), rng.choice(STRANGE).strip('"'))
    raw = bytearray(body.encode("utf-8", "replace"))
    if kind == 4:
        at = rng.randrange(len(raw))
        raw[at : at + rng.randrange(3)] = rng.randbytes(rng.randrange(3))
    return bytes(raw), said["answer"] == "yes"


def check(found: Callable[[], Any], says_yes: bool) -> bool:
    """Whether it is an answer; and if so, the one that was given."""
    one = found()
    if isinstance(one, Answer):
        assert one.accepted == says_yes
        return True
    assert len(one.reason) <= 300 and one.reason.isprintable()
    return False


def test_fuzzed_bodies_never_raise() -> None:
    rng, request = random.Random(7), Request(({"role": "user", "content": "x"},), None, 10)
    answered = 0
    for _ in range(3000):
        raw, says_yes = spoiled_body(rng)
        try:
            reply = _reply(raw, request)
        except Damaged:
            continue
        assert 0 <= reply.tokens_in <= 10_000_000 and 0 <= reply.tokens_out <= 10_000_000
        reply.text.encode()
        answered += check(lambda text=reply.text: FORM.parse(text, [POLE])[0], says_yes)
    assert answered > 500


def test_fuzzed_bodies_over_the_wire(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "TOO_MANY_IN_VAIN", 10**9)
    rng = random.Random(11)
    bodies = [spoiled_body(rng) for _ in range(200)]
    with serving() as server:
        server.speak = lambda handler, body: says(bodies[poles(body)][0])(handler, body)
        patience = Patience(timeout=5, tries=1, concurrency=8)
        outcome = asker(server, tmp_path, patience=patience).ask([case(n) for n in range(200)])
    words = {**outcome.answers, **outcome.failed}
    assert sorted(words) == list(range(200))
    assert 20 < sum(check(lambda i=i: words[i], bodies[i][1]) for i in words) < 190


def poles(body: dict[str, Any]) -> int:
    return int(body["messages"][-1]["content"].partition('"pole-')[2].partition('"')[0])
