"""Other ways to ask a judge: in the manner of Rai & Yao, with a template of one's own, and for a free name."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..concepts.lexicon import Candidate
from ..data.reading import decode, read_bytes
from ..errors import JudgeError
from .question import (
    DATA,
    Answer,
    ConceptForm,
    Form,
    Invalid,
    Message,
    described,
    parse_each,
    quoted,
    short,
    shown,
    text_field,
)
from .reading import after_thoughts

PAPER = """\
The following words are promoted by one neuron of a language model: {tokens}. {question} Begin with Yes or No, then explain."""
"""Rai & Yao 2024 (arXiv:2406.12288) in our words: what they show (the promoted tokens alone, blanks stripped, in one
line), the order (tokens, question, "yes or no" with an explanation), temperature 0 and 50 tokens are theirs; the
sentence and the concepts' questions are not."""
# "Yes or no?" repeats the question, "No doubt" is no "no": neither is a word.
_FIRST_WORD = re.compile(
    r"\W*+(yes|no)(?![\w-])(?!\s*+(?:,\s*+)?+(?:(?:[/|\\]|or\b|and\b)\W*+(?:yes|no)\b|doubt\b|wonder\b))", re.IGNORECASE
)


@dataclass(frozen=True)
class PaperForm:
    """A plain question about the promoted tokens alone, answered in prose that begins with yes or no.

    Attributes:
        questions: concept → its question.
        template: with `{tokens}` and `{question}`.
    """

    questions: Mapping[str, str]
    template: str = PAPER
    tokens_per_case: int = 50
    name: str = "paper"

    def messages(self, cases: Sequence[Candidate], complaint: str = "") -> list[Message]:
        [case] = cases
        tokens = ", ".join(quoted(shown(token.strip()))[1:-1] for token, _ in case.promoted)
        parts = {"{tokens}": tokens, "{question}": self.questions[case.concept]}
        # In one pass: a token may hold "{question}".
        text = re.sub(r"\{tokens\}|\{question\}", lambda found: parts[found[0]], self.template)
        system = {"role": "system", "content": "You are a helpful assistant."}
        return [system, {"role": "user", "content": text + (f"\n{complaint}" if complaint else "")}]

    def schema(self, cases: Sequence[Candidate], closed: bool) -> None:
        return None

    def parse(self, text: str, cases: Sequence[Candidate]) -> list[Answer | Invalid]:
        said = after_thoughts(text)
        if first := _FIRST_WORD.match(said):
            description = text_field({"text": said[first.end() :].lstrip(" ,.:;\n")}, "text")
            assert isinstance(description, str)
            return [Answer(first[1].lower() == "yes", None, description)]
        return [Invalid("the reply does not begin with yes or no")]


def concept_form(prompt: str, questions: Mapping[str, str], max_tokens: int | None = None) -> Form:
    """The form that `--judge-prompt` names: "cotscope", "paper" or a template file. Raises: JudgeError."""
    if prompt == "cotscope":
        return ConceptForm(questions, max_tokens or ConceptForm.tokens_per_case)
    most = max_tokens or PaperForm.tokens_per_case
    if prompt == "paper":
        return PaperForm(questions, tokens_per_case=most)
    template = _template(prompt)
    if "{tokens}" not in template or "{question}" not in template:
        raise JudgeError(f"the judge prompt {short(prompt, 200)} lacks a place", expected="{tokens} and {question} in its text")
    name = short(Path(prompt).stem, 60)
    # The name goes into the annotator's: a file is never taken for one of our own forms.
    name = f"{name} (file)" if name in ("cotscope", "paper", "naming") else name
    return PaperForm(questions, template, most, name)


def _template(prompt: str) -> str:
    """The text of a prompt file. Raises: JudgeError."""
    if not os.path.lexists(prompt.partition("\0")[0]):
        raise JudgeError("unknown judge prompt", expected="cotscope, paper or a text file", got=short(prompt, 200))
    raw = read_bytes(Path(prompt), "judge prompt", JudgeError)
    return decode(raw, f"judge prompt {prompt}", JudgeError).replace("\r\n", "\n")


NAMING = f"""\
You name what neurons of a language model stand for. {DATA}
Name the subject that most of the promoted tokens share: one to three English words, a noun last. If they share none, \
the name is "none"."""
_NAME = """\
{"description": "what the tokens have in common, in at most 15 words", "name": "one to three words"}"""


@dataclass(frozen=True)
class NamingForm:
    """Asks for a free name. A case's concept plays no part."""

    tokens_per_case: int = 200
    name: str = "naming"

    def messages(self, cases: Sequence[Candidate], complaint: str = "") -> list[Message]:
        [case] = cases
        text = f"Neuron (data): {described(case)}\n\nReply with one JSON object and nothing else:\n{_NAME}"
        text += f"\n{complaint}" if complaint else ""
        return [{"role": "system", "content": NAMING}, {"role": "user", "content": text}]

    def schema(self, cases: Sequence[Candidate], closed: bool) -> dict[str, Any]:
        longest = ({"maxLength": 120}, {"maxLength": 30}) if closed else ({}, {})
        parts = {"description": {"type": "string"} | longest[0], "name": {"type": "string"} | longest[1]}
        return {"type": "object", "properties": parts, "required": list(parts), "additionalProperties": False}

    def parse(self, text: str, cases: Sequence[Candidate]) -> list[Answer | Invalid]:
        return parse_each(text, cases, _named)


def _named(content: Mapping[str, Any], case: Candidate) -> Answer | Invalid:
    name, description = text_field(content, "name", 40), text_field(content, "description")
    if isinstance(name, Invalid):
        return name
    if isinstance(description, Invalid):
        return description
    if not re.search(r"\w", name):
        return Invalid('"name" is empty')
    return Answer(None, None, description, name=name.lower())


def group(name: str) -> str:
    """The concept that a name belongs to: its head word, the last one, in the singular; "none" stands alone.

    Names with one head ("unit price", "prices") become one concept. It is a rule about English nouns: it neither
    parts homonyms nor joins synonyms.
    """
    words = re.findall(r"[^\W_]+", name.lower())
    head = words[-1] if words else "none"
    if len(head) > 3 and head.endswith("ies"):
        return head[:-3] + "y"
    if len(head) > 4 and head.endswith(("sses", "xes", "ches", "shes")):
        return head[:-2]
    if len(head) > 3 and head.endswith("s") and not head.endswith(("ss", "us", "is")):
        return head[:-1]
    return head
