"""A judge in the process: any model that cotscope can load, its reply constrained to the schema by llguidance.

Greedy. The instruction is run once and shared by all rows (`lm/engine.py`); at every step each row's logits are
masked to the tokens that its schema still allows, so that a reply is valid JSON of the right shape.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import JudgeError
from .budget import KEPT, Budget, LimitReached
from .cache import Reply
from .client import Keep, Request
from .question import Invalid, Message, short
from .wire import INSTALL

if TYPE_CHECKING:
    from torch import Tensor

    from ..lm.jobs import Row, Work
    from ..lm.loading import LoadedModel
    from ..lm.rows import Table

MOST_ROWS = 16


class LocalModel:
    """Answers requests with a loaded model.

    Args:
        loaded: the judge, which may be another model than the one under study.
        budget: what calls and tokens are booked to.

    Raises: JudgeError if llguidance is absent or can't read the model's tokenizer.
    """

    schema_is_kept = True

    def __init__(self, loaded: LoadedModel, budget: Budget) -> None:
        from ..lm.engine import Engine

        try:
            import llguidance.hf
        except ImportError as error:
            raise JudgeError("the local judge needs the llguidance package", remedy=INSTALL) from error
        self._llguidance = llguidance
        self.loaded, self.name, self.budget = loaded, loaded.name, budget
        self._engine = Engine(loaded)
        self._hash = loaded.weight_hash()
        width = loaded.model.config.get_text_config().vocab_size
        tokenizer: Any = loaded.tokenizer  # llguidance names a narrower class
        try:
            self._vocabulary = llguidance.hf.from_tokenizer(tokenizer, n_vocab=width, eos_token=sorted(loaded.end_tokens))
        except Exception as error:  # whatever a foreign tokenizer makes llguidance raise
            raise JudgeError(
                f"llguidance can't read the tokenizer of {loaded.name}", got=short(f"{type(error).__name__}: {error}", 200),
                remedy="Take another --judge-model, or serve this one and use --annotator llm.",
            ) from error  # fmt: skip

    @property
    def identity(self) -> dict[str, Any]:
        """What replies depend on, for the cache."""
        return {"weights": self._hash, "dtype": str(self.loaded.dtype), "chat": self._template or ""}

    def clean(self, text: str) -> str:
        """The text itself: nothing in the process has a secret."""
        return text

    def ask(self, requests: Sequence[Request], keep: Keep) -> None:
        """Answer the requests, several at a time; `keep` gets each reply as it ends. Raises: LimitReached."""
        most = self.budget.max_calls
        room = len(requests) if most is None else max(0, most - self.budget.calls)
        for limit in sorted({r.max_tokens for r in requests[:room]}):
            self._ask([i for i, r in enumerate(requests[:room]) if r.max_tokens == limit], requests, keep)
        if room < len(requests):
            raise LimitReached("the limit of calls is reached", got=f"--max-calls {most}", remedy=KEPT)

    def _ask(self, numbers: list[int], requests: Sequence[Request], keep: Keep) -> None:
        from ..lm.jobs import Job, Work
        from ..lm.rows import PlainTable, SharedTable

        limit = requests[numbers[0]].max_tokens
        prompts = {i: self._encode(requests[i].messages) for i in numbers}
        for i in numbers:
            if len(prompts[i]) + limit > self.loaded.context:
                keep(i, Invalid(f"the question is longer than the judge's context of {self.loaded.context} tokens"))
                del prompts[i]
            elif requests[i].schema is not None and (matcher := self._matcher(requests[i])).is_error():
                # llguidance has limits of its own, which very many or very strange tokens pass
                keep(i, Invalid(f"llguidance can't take the question: {matcher.get_error()}"))
                del prompts[i]
        if not prompts:
            return
        work = Work(0, Job(("",) * len(prompts), limit), list(prompts.values()))
        length = self._engine.check_length(work)
        rows = min(MOST_ROWS, len(prompts), self._engine.batch_rows(length))
        numbers = list(prompts)
        if self._engine.shares_prefix(length):
            self._engine.passes.share(work, work.ids)
            table: Table = SharedTable(self._engine.passes, rows, length - work.common)
        else:
            table = PlainTable(self._engine.passes, rows)
        self._write(table, work, {n: requests[i] for n, i in enumerate(numbers)}, lambda n, reply: keep(numbers[n], reply))

    def _write(self, table: Table, work: Work, requests: dict[int, Request], keep: Keep) -> None:
        """Let every row write its reply; those that have ended make room for others."""
        import torch

        matchers: dict[int, Any] = {}  # of the rows in the table
        device = self.loaded.model.device
        queue = deque(work.rows())
        tokens = torch.empty(0, dtype=torch.long, device=device)
        with torch.inference_mode(), self._engine.passes.hooks([work.job]):
            while queue or table.rows:
                before = len(table.rows)
                if (logits := table.admit(queue)) is not None:
                    new = table.rows[before:]
                    own = {row.number: requests[row.number] for row in new}
                    matchers |= {n: self._matcher(request) for n, request in own.items() if request.schema is not None}
                    tokens = torch.cat([tokens, self._choose(logits, new, matchers)])
                ended = []
                for slot, token in enumerate(tokens.tolist()):
                    row = table.rows[slot]
                    if (finish := self._take(row, token, matchers.get(row.number))) is not None:
                        text = self.loaded.tokenizer.decode(row.written, skip_special_tokens=True)
                        assert isinstance(text, str)
                        reply = Reply(text, len(work.ids[row.number]), len(row.written), finish)
                        self.budget.book(reply)
                        keep(row.number, reply)
                        matchers.pop(row.number, None)
                        ended.append(slot)
                if ended:
                    tokens = tokens[torch.tensor(table.drop(ended), dtype=torch.long, device=device)]
                if table.rows:
                    tokens = self._choose(table.decode(tokens), table.rows, matchers)

    def _matcher(self, request: Request) -> Any:
        matcher_of, schema = self._llguidance.LLMatcher, json.dumps(request.schema, ensure_ascii=False)
        # Blanks as in the instruction's examples: a small model loses its thread where it may not write them, and where
        # they are free it could write them for ever.
        spacing: Any = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
        return matcher_of(self._vocabulary, matcher_of.grammar_from_json_schema(schema, defaults=spacing))

    def _choose(self, logits: Tensor, rows: Sequence[Row], matchers: dict[int, Any]) -> Tensor:
        """The most likely token of each row (rows,) among those that its schema allows."""
        import torch

        from ..lm.select import argmax

        for i, row in enumerate(rows):
            if (matcher := matchers.get(row.number)) is not None:
                bits = np.frombuffer(matcher.compute_bitmask(), np.uint8)
                allowed = torch.from_numpy(np.unpackbits(bits, bitorder="little")[: logits.shape[1]].astype(bool))
                logits[i, : len(allowed)].masked_fill_(~allowed.to(logits.device), float("-inf"))
                logits[i, len(allowed) :] = float("-inf")
        return argmax(logits)

    def _take(self, row: Row, token: int, matcher: Any | None) -> str | None:
        """Append a row's next token; why the row ends with it, if it does."""
        if token in self.loaded.end_tokens:
            return "stop"
        row.written.append(token)
        if matcher is not None:
            matcher.consume_token(token)
            if matcher.is_error():  # a limit: what is written is no whole reply, and will be found to be none
                return "error"
            if matcher.is_stopped():
                return "stop"
        return "length" if len(row.written) >= row.work.job.max_new_tokens else None

    # -- the conversation as tokens -------------------------------------------------------------------------------

    @property
    def _template(self) -> str | None:
        return getattr(self.loaded.tokenizer, "chat_template", None)

    def _encode(self, messages: Sequence[Message]) -> list[int]:
        """With the model's chat template; without one, the messages as paragraphs."""
        if not self._template:
            return self.loaded.encode("\n\n".join(m["content"] for m in messages) + "\n\n")
        tokenizer = self.loaded.tokenizer
        try:
            text = tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
        except Exception:  # templates that know no system message raise what they like
            joined = [{"role": "user", "content": "\n\n".join(m["content"] for m in messages)}]
            try:
                text = tokenizer.apply_chat_template(joined, tokenize=False, add_generation_prompt=True)
            except Exception as error:
                raise JudgeError(
                    f"the chat template of {self.name} can't be used", got=short(f"{type(error).__name__}: {error}", 200),
                    remedy="Take another --judge-model, or serve this one and use --annotator llm.",
                ) from error  # fmt: skip
        return tokenizer(text, add_special_tokens=False)["input_ids"]
