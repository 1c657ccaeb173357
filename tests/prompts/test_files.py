"""Ready prompt files: used as written, with the cue that they themselves use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cotscope.errors import PromptError
from cotscope.prompts.derive import DERIVED_NAMES
from cotscope.prompts.files import LONGEST_NAME, blank_lines, load_prompt_file, load_prompt_files
from cotscope.records import Prompt

PLAIN = "Question: How many are 2 and 3?\n2 + 3 = 5.\nThe answer is 5."
CUED = "Question: How many are 2 and 3?\nLet’s think step by step\nSo 2 + 3 = 5.\nThe answer is 5."


def short(value: object) -> str:
    """A parameter's place in a test's name."""
    return ascii(value)[:40]


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
        (b"Question: caf\xe9", "line 1: not UTF-8"),
        (PLAIN.encode("utf-16"), "not UTF-8; got UTF-16"),
        (PLAIN.encode("utf-16-le"), "line 1: no text"),
        (f"{PLAIN}\0", "line 3: no text; expected UTF-8; got a NUL character"),
        (PLAIN * 20_000, "is too large; expected at most 1 MiB"),
        ("x" * 10**6, 'no line beginning with "Question:"'),
        ("Q: How many?\nA: Question: 2", 'no line beginning with "Question:"'),
    ],
    ids=short,
)
def test_a_file_of_another_form_is_refused(tmp_path: Path, text: str | bytes, words: str) -> None:
    path = make(tmp_path / "bad.txt", text)
    with pytest.raises(PromptError) as caught:
        load_prompt_file(path)
    assert words in str(caught.value) and str(path) in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("my.prompt.v2.txt", "my.prompt.v2"),
        (".hidden.txt", "hidden"),  # tables' files that begin with a dot are not read
        ("..a.txt", "a"),
        (".txt", "txt"),
        ("été.txt", "été"),
        ("it's 100% {mine} [1].txt", "it's 100% {mine} [1]"),
        ("-x", "-x"),
        ("x" * LONGEST_NAME + ".txt", "x" * LONGEST_NAME),
    ],
    ids=short,
)
def test_the_name_is_the_stem_without_dots_before_it(tmp_path: Path, file: str, name: str) -> None:
    assert load_prompt_file(make(tmp_path / file, PLAIN)).name == name


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("a\nb.txt", "the path has a character that is no text"),
        ("a\x1bb.txt", "the path has a character that is no text"),
        ("a\udcffb.txt", "the path has a character that is no text"),
        ("a\0b.txt", "the path has a character that is no text"),
        ("..txt", "has no name"),
        ("....txt", "has no name"),
        (" .txt", "has no name"),
        ("a*b.txt", "expected a name without *"),
        ("a\\b.txt", "expected a name without \\"),
        ("a:b.txt", "expected a name without :"),
        ("x" * (LONGEST_NAME + 1) + ".txt", "too long a name; expected at most 200 bytes; got 201"),
        ("é" * 120 + ".txt", "too long a name; expected at most 200 bytes; got 240"),
        ("x" * 300 + ".txt", "can't be read; got File name too long"),
    ],
    ids=short,
)
def test_a_name_that_no_table_could_have_is_refused(tmp_path: Path, file: str, words: str) -> None:
    path = tmp_path / file
    if "\0" not in file and len(file) < 250:
        make(path, PLAIN)
    with pytest.raises(PromptError) as caught:
        load_prompt_file(path)
    assert words in str(caught.value)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 1000


def test_a_folder_and_a_pipe_are_no_prompts(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    for path, got in ((tmp_path, "a folder"), (tmp_path / "pipe.txt", "a pipe")):
        with pytest.raises(PromptError, match=f"can't be read; expected a regular file; got {got}"):
            load_prompt_file(path)


def test_a_missing_file_is_a_prompt_error(tmp_path: Path) -> None:
    with pytest.raises(PromptError, match="can't be read"):
        load_prompt_file(tmp_path / "absent.txt")


def test_names_must_differ(tmp_path: Path) -> None:
    one, other = make(tmp_path / "one.txt", PLAIN), make(tmp_path / "other.txt", CUED)
    again = make(tmp_path / "one.md", CUED)
    assert [prompt.name for prompt in load_prompt_files([other, one])] == ["other", "one"]
    with pytest.raises(PromptError, match="two prompt files have the name 'one'"):
        load_prompt_files([one, other, again])


@pytest.mark.parametrize("other", ["One.txt", "ONE.md", ".one.txt"])
def test_names_that_a_file_system_takes_for_one_are_refused(tmp_path: Path, other: str) -> None:
    (tmp_path / "other").mkdir()
    paths = [make(tmp_path / "one.txt", PLAIN), make(tmp_path / "other" / other, CUED)]
    with pytest.raises(PromptError, match="two prompt files have the name"):
        load_prompt_files(paths)
    with pytest.raises(PromptError, match="a name other than 'oNe'"):
        load_prompt_files(paths[1:], taken=["oNe"])


def test_accents_that_are_encoded_in_two_ways_are_one_name(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    one, other = make(tmp_path / "\u00e9.txt", PLAIN), make(tmp_path / "other" / "e\u0301.txt", PLAIN)
    with pytest.raises(PromptError, match="two prompt files"):
        load_prompt_files([one, other])


def test_a_derived_prompts_name_is_refused_only_if_asked(tmp_path: Path) -> None:
    path = make(tmp_path / "text_only.txt", CUED)
    assert load_prompt_files([path])[0].name == "text_only"
    with pytest.raises(PromptError, match="Rename the file"):
        load_prompt_files([path], taken=DERIVED_NAMES)


def test_reasoning_behind_the_cue_is_no_cue(tmp_path: Path) -> None:
    """The first exemplar's reasoning would be every question's."""
    path = tmp_path / "kojima.txt"
    path.write_text(
        "".join(f"Question: {q}?\nLet's think step by step. There are {q}.\nThe answer is {q}.\n\n" for q in (3, 4))
    )
    assert load_prompt_file(path).cue == "\n"
    path.write_text("Question: 3?\nLet's think step by step:\nThe answer is 3.\n")
    assert load_prompt_file(path).cue == "\nLet's think step by step:\n"


def test_blank_lines_within_an_example() -> None:
    text = "Solve these.\n\nQuestion: 1 + 2?\nSo 1 + 2 = 3.\nThe answer is 3.\n\nQuestion: 2?\n2.\n\n"
    assert blank_lines(Prompt("p", text, "\n")) == 0
    assert blank_lines(Prompt("p", text.replace("\nSo", "\n \nSo"), "\n")) == 1
    assert blank_lines(Prompt("p", "", "\n")) == 0
