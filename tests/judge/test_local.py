"""The judge in the process: on a random model, every reply is an answer, however hostile the tokens."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers
from conftest import FAMILIES
from test_question import HOSTILE, QUESTIONS, case
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from cotscope.errors import JudgeError
from cotscope.judge.annotators import LOCAL_TOKENS
from cotscope.judge.asking import Asker
from cotscope.judge.budget import Budget, LimitReached
from cotscope.judge.cache import Cache
from cotscope.judge.client import Request
from cotscope.judge.local import LocalModel
from cotscope.judge.prompts import NamingForm, PaperForm
from cotscope.judge.question import SYSTEM, Answer, ConceptForm
from cotscope.lm.families import anatomy
from cotscope.lm.loading import LoadedModel

pytestmark = pytest.mark.slow

FORM = ConceptForm(QUESTIONS, LOCAL_TOKENS)


def random_judge(family: str, seed: int, chat: bool = True) -> LoadedModel:
    """A tiny random model over bytes, with a chat template or without one."""
    vocabulary = {c: i for i, c in enumerate(["<pad>", "<bos>", "<|end|>", *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<|end|>", pad_token="<pad>"
    )
    if chat:
        fast.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}<|end|>\n{% endfor %}assistant: "
    name, settings = FAMILIES[family]
    settings = settings | {"vocab_size": len(vocabulary) + 5, "max_position_embeddings": 8192}
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(getattr(transformers, f"{name}Config")(**settings))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.3)
    return LoadedModel(f"{family}-{seed}", model.eval().requires_grad_(False), fast, anatomy(model))


@pytest.mark.slow
@pytest.mark.parametrize(("family", "chat"), [("qwen2", True), ("gemma2", False)])
def test_every_reply_is_an_answer(tmp_path: Path, family: str, chat: bool) -> None:
    cases = [case([token, "+", " add"], text=token) for token in HOSTILE if len(token) < 100]
    cases = cases if family == "qwen2" else cases[:5]  # the plain path is slow
    judge, budget = LocalModel(random_judge(family, 0, chat), Budget()), Budget()
    judge.budget = budget
    outcome = Asker(judge, FORM, Cache(tmp_path / "judge.sqlite"), budget).ask(cases)
    assert not outcome.failed
    assert budget.calls == len(cases)  # no repair was needed
    assert len({str(a) for a in outcome.answers.values()}) > (family == "qwen2")
    again = Asker(judge, FORM, Cache(tmp_path / "judge.sqlite"), Budget())
    assert again.ask(cases) == outcome
    assert again.budget.calls == 0


def test_rows_do_not_disturb_each_other() -> None:
    judge = LocalModel(random_judge("qwen2", 1), Budget())

    def replies(*requests: Request) -> list[str]:
        found = {}
        judge.ask(requests, found.__setitem__)
        return [found[i].text for i in range(len(requests))]

    plain = PaperForm(QUESTIONS, tokens_per_case=30)
    requests = [Request(tuple(FORM.messages([c])), FORM.schema([c], True), 900) for c in (case(["+"]), case(['"', "add"]))]
    requests += [Request(tuple(NamingForm().messages([case(["x"])])), NamingForm().schema([case(["x"])], True), 300),
                 Request(tuple(plain.messages([case(["+"])])), None, 30)]  # fmt: skip
    together = replies(*requests)
    assert together == [replies(request)[0] for request in requests]
    assert set(json.loads(together[2])) == {"description", "name"}
    [answer] = FORM.parse(together[1], [case(['"', "add"])])
    assert isinstance(answer, Answer)


def test_the_examples_of_the_instruction_may_be_written() -> None:
    """To the blank: a small model whose schema forbids what it was shown loses its thread."""
    judge = LocalModel(random_judge("qwen2", 3), Budget())
    lines = SYSTEM.splitlines()
    examples = [i for i, line in enumerate(lines) if line.startswith('{"description": "')]
    assert len(examples) == 3
    for i in examples:
        data = json.loads(lines[i - 1].partition(": ")[2])
        shown = case([token for token, _ in data["promoted"]])
        assert isinstance(FORM.parse(lines[i], [shown])[0], Answer)
        matcher = judge._matcher(Request((), FORM.schema([shown], True), 0))
        tokens = judge.loaded.encode(lines[i])
        assert matcher.try_consume_tokens(tokens) == len(tokens), lines[i]
        assert matcher.is_stopped()


def test_limits_of_a_local_judge(tmp_path: Path) -> None:
    loaded = random_judge("qwen2", 2)
    budget = Budget(max_calls=2)
    cases = [case([f"t{i}", "+"]) for i in range(4)]
    with pytest.raises(LimitReached, match="--max-calls 2"):
        Asker(LocalModel(loaded, budget), FORM, Cache(tmp_path / "judge.sqlite"), budget).ask(cases)
    assert budget.calls == 2
    more = Budget()
    outcome = Asker(LocalModel(loaded, more), FORM, Cache(tmp_path / "judge.sqlite"), more).ask(cases)
    assert len(outcome.answers) == 4
    assert more.calls == 2
    long = Asker(LocalModel(loaded, Budget()), ConceptForm(QUESTIONS, 9000), Cache(tmp_path / "judge.sqlite"), Budget())
    assert "longer than the judge's context" in long.ask(cases[:1]).failed[0].reason


@pytest.mark.parametrize(
    "template", ["{% for m in messages %}{{ m.content", "{{ unknown.part.of }}", "{{ 1 / 0 }}", "{% endfor %}"]
)
def test_a_chat_template_that_fails_is_one_line(tmp_path: Path, template: str) -> None:
    loaded = random_judge("qwen2", 2)
    loaded.tokenizer.chat_template = template
    with pytest.raises(JudgeError, match="the chat template of qwen2-2 can't be used; got ") as error:
        Asker(LocalModel(loaded, Budget()), FORM, Cache(tmp_path / "judge.sqlite"), Budget()).ask([case(["+"])])
    assert str(error.value).isprintable() and len(str(error.value)) < 400


def test_a_question_that_is_too_much_fails_alone(tmp_path: Path) -> None:
    """A template that writes too much, and a schema that llguidance does not take."""
    loaded = random_judge("qwen2", 2)
    plain = loaded.tokenizer.chat_template
    loaded.tokenizer.chat_template = "{{ 'x' * 100000 }}"
    outcome = Asker(LocalModel(loaded, Budget()), FORM, Cache(tmp_path / "judge.sqlite"), Budget()).ask([case(["+"])])
    assert "longer than the judge's context" in outcome.failed[0].reason
    loaded.tokenizer.chat_template = plain
    judge, replies = LocalModel(loaded, Budget()), {}
    schema = {"type": "string", "pattern": "(?=a)b"}
    judge.ask([Request(({"role": "user", "content": "x"},), s, 5) for s in (schema, {"enum": ["ab"]})], replies.__setitem__)
    assert "llguidance can't take the question" in replies[0].reason
    assert replies[1].text == '"ab"'
