"""Annotators by name: lexicon, llm, local, and what other packages add under the entry point `cotscope.annotators`."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from ..concepts.lexicon import Candidate
from ..errors import JudgeError, UserError
from ..records import Annotation
from .asking import Asker, Backend, Progress
from .budget import Budget, Prices
from .cache import Cache
from .client import DEFAULT_URL, Endpoint, Patience
from .lexicon import Annotator, LexiconAnnotator
from .prompts import concept_form
from .question import Answer, Form, Invalid

ENTRY_POINTS = "cotscope.annotators"
LOCAL_TOKENS = 1200  # a reply that fits the schema is never cut: a description of 160 characters, four tokens as evidence


@dataclass(frozen=True)
class JudgeOptions:
    """What the user asks of a judge.

    Attributes:
        model: its name at the endpoint, or, in the process, whatever `load_model` takes.
        prompt: "cotscope", "paper" or a template file with {tokens} and {question}.
        price_in, price_out: per million tokens.
        max_cost, max_calls: limits of this command.
        concurrency: calls at once.
        timeout: seconds to wait for a reply; a server on a CPU may answer calls one after another.
        poles_per_call: poles of one concept that share a call.
        max_tokens: to be generated per pole at most; None: the form's own.
        audit: decoys of either kind, and repeats; 0: none.
        naming: active poles, the strongest ones, to be named freely; 0: none.
        dtype: of a judge in the process.
    """

    model: str | None = None
    prompt: str = "cotscope"
    price_in: float | None = None
    price_out: float | None = None
    max_cost: float | None = None
    max_calls: int | None = None
    concurrency: int = Patience.concurrency
    timeout: float = Patience.timeout
    poles_per_call: int = 1
    max_tokens: int | None = None
    audit: int = 0
    naming: int = 0
    dtype: str = "auto"


@dataclass(frozen=True)
class Setting:
    """What an annotator is made from.

    Attributes:
        questions: concept → its question.
        cache: the file of replies.
    """

    questions: Mapping[str, str]
    options: JudgeOptions = JudgeOptions()
    cache: Path = Path("judge.sqlite")
    progress: Progress = field(default_factory=Progress)


class JudgeAnnotator:
    """Asks a language model. `name` says which one and how it is asked."""

    def __init__(self, kind: str, setting: Setting, backend: Backend, cache: Cache, budget: Budget) -> None:
        options = setting.options
        self.backend, self.cache, self.budget, self.setting = backend, cache, budget, setting
        tokens = options.max_tokens or (LOCAL_TOKENS if backend.schema_is_kept and options.prompt == "cotscope" else None)
        self.form = concept_form(options.prompt, setting.questions, tokens)
        self.per_call = options.poles_per_call
        if self.per_call > 1 and (backend.schema_is_kept or self.form.name != "cotscope"):
            raise JudgeError("--poles-per-call needs --annotator llm and --judge-prompt cotscope")
        self.name = f"{kind}:{backend.name}" + ("" if self.form.name == "cotscope" else f":{self.form.name}")
        self.from_cache = 0

    def annotate(self, found: Sequence[Candidate]) -> list[Annotation]:
        outcome = self.ask(self.form, found, self.per_call)
        return [self._annotation(case, outcome[i]) for i, case in enumerate(found)]

    def ask(self, form: Form, cases: Sequence[Candidate], per_call: int = 1) -> dict[int, Answer | Invalid]:
        """Ask in any form; case number → what came of it."""
        asker = Asker(self.backend, form, self.cache, self.budget, per_call, self.setting.progress)
        try:
            outcome = asker.ask(cases)
        finally:
            self.from_cache += asker.from_cache
        return {**outcome.answers, **outcome.failed}

    def _annotation(self, case: Candidate, word: Answer | Invalid) -> Annotation:
        if isinstance(word, Invalid):
            return Annotation(case.pole, case.concept, False, self.name, description=word.reason, status="failed")
        return Annotation(
            case.pole, case.concept, bool(word.accepted), self.name, word.evidence, word.confidence, word.description
        )

    @property
    def bill(self) -> dict[str, Any]:
        """What this command has used."""
        return {
            "model": self.backend.name, "prompt": self.form.name, "calls": self.budget.calls, "timed_out": self.budget.lost,
            "from_cache": self.from_cache, "tokens_in": self.budget.tokens_in, "tokens_out": self.budget.tokens_out,
            "cost": self.budget.cost,
        }  # fmt: skip


def _budget(options: JudgeOptions) -> Budget:
    if (options.price_in is None) != (options.price_out is None):
        raise JudgeError("one price is not enough", expected="--price-in and --price-out, per million tokens, or neither",
                         got="--price-in" if options.price_out is None else "--price-out")  # fmt: skip
    prices = None if options.price_in is None or options.price_out is None else Prices(options.price_in, options.price_out)
    return Budget(prices, options.max_cost, options.max_calls)


def _lexicon(setting: Setting) -> Annotator:
    return LexiconAnnotator()


def _llm(setting: Setting) -> Annotator:
    """Raises: JudgeError without an endpoint or a model."""
    url, key, options = os.environ.get("OPENAI_BASE_URL"), os.environ.get("OPENAI_API_KEY"), setting.options
    if not url and not key:
        raise JudgeError(
            "there is no endpoint to ask",
            expected="OPENAI_BASE_URL (a server) or OPENAI_API_KEY (of OpenAI), or both, in the environment",
            remedy="docs/judge.md has recipes; `--annotator local` needs no endpoint.",
        )
    if not options.model:
        raise JudgeError("the llm annotator needs a model", expected="--judge-model NAME, as the endpoint calls it")
    budget, cache = _budget(options), Cache(setting.cache)
    patience = Patience(options.timeout, concurrency=options.concurrency)
    # Servers on one's own machine take any key, but the client wants one.
    endpoint = Endpoint(options.model, url or DEFAULT_URL, key or "none", budget, cache, patience)
    return JudgeAnnotator("llm", setting, endpoint, cache, budget)


def _local(setting: Setting) -> Annotator:
    """Raises: JudgeError without a model; ModelError if it can't be loaded."""
    from ..lm.loading import load_model
    from .local import LocalModel

    if not setting.options.model:
        raise JudgeError("the local annotator needs a model", expected="--judge-model NAME, FOLDER or FILE.gguf")
    if setting.options.max_cost is not None:
        raise JudgeError("a model of this machine has no price", expected="--max-calls, or no limit", got="--max-cost")
    budget, cache = _budget(setting.options), Cache(setting.cache)
    backend = LocalModel(load_model(setting.options.model, dtype=setting.options.dtype), budget)
    return JudgeAnnotator("local", setting, backend, cache, budget)


BUILT_IN: dict[str, Callable[[Setting], Annotator]] = {"lexicon": _lexicon, "llm": _llm, "local": _local}


def make_annotator(name: str, setting: Setting) -> Annotator:
    """The annotator of this name.

    Raises: UserError if there is none; JudgeError as its maker does.
    """
    added = {point.name: point for point in entry_points(group=ENTRY_POINTS)}
    if name not in BUILT_IN and name not in added:
        raise UserError("unknown annotator", expected=" or ".join(dict.fromkeys([*BUILT_IN, *added])), got=name)
    return (BUILT_IN.get(name) or added[name].load())(setting)
