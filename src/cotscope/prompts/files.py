"""Ready prompt files: exemplars as plain text, such as those of the paper's release, used exactly as written."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable
from pathlib import Path

from ..errors import PromptError
from ..records import Prompt

FORM = 'exemplars that begin with "Question: ..." on a line of its own and end in "The answer is N."'
_STEP_BY_STEP = re.compile(r"^Let.s think step by step.*$", re.MULTILINE)
_QUESTION = re.compile(r"^Question:", re.MULTILINE)


def load_prompt_file(path: Path) -> Prompt:
    """Read a ready prompt; its name is the file's stem.

    The prefix is the file's text with one blank line at its end. Where the text has lines "Let's think step by step"
    (with any apostrophe), the most frequent of them, exactly as written, is the cue; otherwise the cue is a newline.

    Raises:
        PromptError: the file cannot be read, is empty or not UTF-8, or no line begins with "Question:".
    """
    try:
        text = path.read_text(encoding="utf-8-sig").rstrip()  # a byte order mark is no part of the prompt
    except OSError as error:
        raise PromptError(f"prompt file {path} cannot be read", got=error.strerror or str(error)) from error
    except UnicodeDecodeError as error:
        raise PromptError(f"prompt file {path} is not UTF-8", got=str(error), remedy="Save it as UTF-8.") from error
    if not text:
        raise PromptError(f"prompt file {path} is empty", expected=FORM)
    if not _QUESTION.search(text):
        got = repr(text.split("\n", 1)[0][:60])
        raise PromptError(f'prompt file {path} has no line beginning with "Question:"', expected=FORM, got=got)
    cues = Counter(_STEP_BY_STEP.findall(text))
    cue = f"\n{cues.most_common(1)[0][0]}\n" if cues else "\n"
    return Prompt(path.stem, f"{text}\n\n", cue, str(path))


def load_prompt_files(paths: Iterable[Path], taken: Collection[str] = ()) -> tuple[Prompt, ...]:
    """Read several ready prompts, in the order given.

    Args:
        paths: the files.
        taken: names that are in use already, e.g. those of derived prompts.

    Raises:
        PromptError: as `load_prompt_file`, or two prompts would have one name.
    """
    prompts: dict[str, Prompt] = {}
    for path in paths:
        prompt = load_prompt_file(path)
        if prompt.name in prompts:
            meaning = f"two prompt files have the name {prompt.name!r}"
            got = f"{prompts[prompt.name].source} and {path}"
            raise PromptError(meaning, expected="file names that differ", got=got, remedy="Rename one of them.")
        if prompt.name in taken:
            meaning = f"prompt file {path} has the name of another prompt of this study"
            raise PromptError(meaning, expected=f"a name other than {prompt.name!r}", remedy="Rename the file.")
        prompts[prompt.name] = prompt
    return tuple(prompts.values())
