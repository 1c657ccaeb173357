"""Ready prompt files: used as written, with the cue that they themselves use."""

from __future__ import annotations

from pathlib import Path

import pytest

from cotscope.errors import PromptError
from cotscope.prompts.derive import DERIVED_NAMES
from cotscope.prompts.files import load_prompt_file, load_prompt_files

PLAIN = "Question: How many are 2 and 3?\n2 + 3 = 5.\nThe answer is 5."
CUED = "Question: How many are 2 and 3?\nLet’s think step by step\nSo 2 + 3 = 5.\nThe answer is 5."


def make(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize("end", ["", "\n", "\n\n", "\n \n\n\n"])
def test_the_prefix_ends_in_one_blank_line(tmp_path: Path, end: str) -> None:
    path = make(tmp_path / "plain.txt", PLAIN + end)
    prompt = load_prompt_file(path)
    assert (prompt.name, prompt.prefix, prompt.cue, prompt.source) == ("plain", f"{PLAIN}\n\n", "\n", str(path))
    assert prompt.text("Why?").endswith("The answer is 5.\n\nQuestion: Why?\n")


def test_the_cue_is_the_files_own(tmp_path: Path) -> None:
    straight = CUED.replace("’", "'")
    assert load_prompt_file(make(tmp_path / "a.txt", CUED)).cue == "\nLet’s think step by step\n"
    assert load_prompt_file(make(tmp_path / "b.txt", straight)).cue == "\nLet's think step by step\n"
    most = f"{straight}\n\n{CUED}\n\n{CUED}"
    assert load_prompt_file(make(tmp_path / "c.txt", most)).cue == "\nLet’s think step by step\n"
    ended = straight.replace("by step", "by step:")
    assert load_prompt_file(make(tmp_path / "d.txt", ended)).cue == "\nLet's think step by step:\n"


def test_words_inside_a_sentence_are_no_cue(tmp_path: Path) -> None:
    text = PLAIN.replace("2 + 3 = 5.", "Now Let's think step by step.")
    assert load_prompt_file(make(tmp_path / "a.txt", text)).cue == "\n"


def test_line_ends_and_byte_order_mark_of_windows(tmp_path: Path) -> None:
    data = b"\xef\xbb\xbf" + CUED.replace("\n", "\r\n").encode()
    prompt = load_prompt_file(make(tmp_path / "w.txt", data))
    assert prompt.prefix == f"{CUED}\n\n"
    assert prompt.cue == "\nLet’s think step by step\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        (" \n\n", "is empty"),
        (b"Question: caf\xe9", "is not UTF-8"),
        ("Q: How many?\nA: Question: 2", 'no line beginning with "Question:"'),
    ],
)
def test_a_file_of_another_form_is_refused(tmp_path: Path, text: str | bytes, words: str) -> None:
    path = make(tmp_path / "bad.txt", text)
    with pytest.raises(PromptError) as caught:
        load_prompt_file(path)
    assert words in str(caught.value) and str(path) in str(caught.value)


def test_a_missing_file_is_a_prompt_error(tmp_path: Path) -> None:
    with pytest.raises(PromptError, match="cannot be read"):
        load_prompt_file(tmp_path / "absent.txt")


def test_names_must_differ(tmp_path: Path) -> None:
    one, other = make(tmp_path / "one.txt", PLAIN), make(tmp_path / "other.txt", CUED)
    again = make(tmp_path / "one.md", CUED)
    assert [prompt.name for prompt in load_prompt_files([other, one])] == ["other", "one"]
    with pytest.raises(PromptError, match="two prompt files have the name 'one'"):
        load_prompt_files([one, other, again])


def test_a_derived_prompts_name_is_refused_only_if_asked(tmp_path: Path) -> None:
    path = make(tmp_path / "text_only.txt", CUED)
    assert load_prompt_files([path])[0].name == "text_only"
    with pytest.raises(PromptError, match="Rename the file"):
        load_prompt_files([path], taken=DERIVED_NAMES)
