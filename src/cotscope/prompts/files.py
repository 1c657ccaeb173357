"""Ready prompt files: exemplars as plain text, such as those of the paper's release, used exactly as written."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable
from pathlib import Path

from ..data.reading import decode, read_bytes
from ..errors import PromptError, shown
from ..records import Prompt

FORM = 'exemplars that begin with "Question: ..." on a line of its own and end in "The answer is N."'
LONGEST_NAME = 200
"""Bytes of a prompt's name in UTF-8: a table's file has it in its own name, which may have 255."""

_SEPARATORS = re.compile(r'[/\\:*?"<>|]')  # what some file system takes for something else than a name's character
_STEP_BY_STEP = re.compile(r"^Let.s think step by step[ \t]*+[.:,!…]*+[ \t]*+$", re.MULTILINE)  # reasoning behind it is no cue
_QUESTION = re.compile(r"^Question:", re.MULTILINE)
_BLANK_LINE = re.compile(r"\n[ \t]*\n")


def load_prompt_file(path: Path) -> Prompt:
    """Read a ready prompt; its name is the file's stem, less dots at its beginning (see `prompt_name`).

    The prefix is the file's text with one blank line at its end. Where the text has lines "Let's think step by step"
    (with any apostrophe, and punctuation alone behind it), the most frequent of them, exactly as written, is the cue;
    otherwise the cue is a newline.

    Raises:
        PromptError: the file cannot be read, is empty, too large or not UTF-8, no line begins with "Question:", or its
            name can't be a prompt's.
    """
    raw = read_bytes(path, "prompt file", PromptError)
    name = prompt_name(path)
    text = decode(raw, f"prompt file {path}", PromptError).replace("\r\n", "\n").replace("\r", "\n").rstrip()
    if not text:
        raise PromptError(f"prompt file {path} is empty", expected=FORM)
    if not _QUESTION.search(text):
        got = shown(text.split("\n", 1)[0])
        raise PromptError(f'prompt file {path} has no line beginning with "Question:"', expected=FORM, got=got)
    cues = Counter(_STEP_BY_STEP.findall(text))
    cue = f"\n{cues.most_common(1)[0][0]}\n" if cues else "\n"
    return Prompt(name, f"{text}\n\n", cue, str(path))


def blank_lines(prompt: Prompt) -> int:
    """How many blank lines stand within a prompt's worked examples: an answer that is written like those ends there."""
    first = _QUESTION.search(prompt.prefix)
    parts = _BLANK_LINE.split(prompt.prefix[first.start() :]) if first else []
    return sum(not _QUESTION.match(part) for part in parts if part.strip())


def prompt_name(path: Path) -> str:
    """The name of the prompt that a file holds: "a.v2" for `a.v2.txt`, "b" for `.b.txt`.

    It becomes a value of tables and part of their files' names, of which those that begin with a dot are not read, and those
    that end in one would mean all that begin so.

    Raises:
        PromptError: nothing is left of the name, it is too long, or has a character that no file's name should have.
    """
    name = path.stem.strip(".")
    got, remedy = shown(path.name), "Rename the file."
    if not name.strip():
        raise PromptError(f"prompt file {path} has no name", expected="a name before its ending", got=got, remedy=remedy)
    if found := _SEPARATORS.search(name):
        expected = f"a name without {found.group()}"
        raise PromptError(f"the name of prompt file {path} can't name a table", expected=expected, got=got, remedy=remedy)
    if (length := len(name.encode())) > LONGEST_NAME:
        expected = f"at most {LONGEST_NAME} bytes"
        raise PromptError(f"prompt file {path} has too long a name", expected=expected, got=str(length), remedy=remedy)
    return name


def load_prompt_files(paths: Iterable[Path], taken: Collection[str] = ()) -> tuple[Prompt, ...]:
    """Read several ready prompts, in the order given.

    Args:
        paths: the files.
        taken: names that are in use already, e.g. those of derived prompts.

    Raises:
        PromptError: as `load_prompt_file`, or two prompts would have one name. Names that differ only in capitals, or in
            how an accent is encoded, count as one: on some file systems they are.
    """
    others = {_alike(name): name for name in taken}
    prompts: dict[str, Prompt] = {}
    for path in paths:
        prompt = load_prompt_file(path)
        if other := prompts.get(_alike(prompt.name)):
            raise PromptError(
                f"two prompt files have the name {shown(prompt.name)}",
                expected="file names that differ, not in capitals alone",
                got=f"{other.source} and {path}",
                remedy="Rename one of them.",
            )
        if other_name := others.get(_alike(prompt.name)):
            meaning = f"prompt file {path} has the name of another prompt of this study"
            raise PromptError(meaning, expected=f"a name other than {shown(other_name)}", remedy="Rename the file.")
        prompts[_alike(prompt.name)] = prompt
    return tuple(prompts.values())


def _alike(name: str) -> str:
    """What two names share that some file system takes for one."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
