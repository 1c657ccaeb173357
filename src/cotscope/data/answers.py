"""Reading the number, or the words, that a text gives as its answer, and comparing them with the right ones.

Numbers are exact (`Fraction`) and have no unit: "15%" is 15, "$5" is 5. No function here raises on any string, and each
takes time linear in its length.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

from .numbers import DASHES, format_number

MAX_DIGITS = 4300
"""Longest number that is read, in digits: what Python's `int()` takes by default. A longer one counts as no number.

So does one of as many decimals: the denominator of its fraction has one digit more."""

RELATIVE_TOLERANCE = Fraction(1, 10_000)
"""How far a rounded answer may be off, as a part of the right one (see `is_correct`)."""

_FLOAT_PLACES = 21  # as `repr` writes one that needs no exponent

_WORDS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty",
)  # fmt: skip
_VALUES = {word: Fraction(value) for value, word in enumerate(_WORDS)}

# A dash after a letter, digit, closing bracket, percent sign or another dash joins or subtracts; it is no sign. "negative" is
# one, "minus" where it can't subtract: at the beginning, after "is" and "=".
# Possessive quantifiers and bounded look-ahead keep the scan linear; the one plain repetition, of ",ddd", gives back at
# most one group, since any earlier one is followed by a comma.
_NUMBER = re.compile(
    rf"""
    (?P<minus>(?<![\w)\]%{DASHES}])[{DASHES}]|(?<!\w)(?i:negative)[ ]|(?:^|(?<=^[ ])|(?<=\bis[ ])|(?<==[ ]))(?i:minus)[ ])?
    (?:[$€£¥][ ]?(?P<inner>[{DASHES}])?)?
    (?:
        (?P<latex_mixed>[0-9]{{1,9}}+)?\\[dt]?frac(?:
            \{{(?P<over>[0-9]{{1,9}}+)\}}\{{(?P<under>(?=0*+[1-9])[0-9]{{1,9}}+)\}}|(?P<above>[0-9])(?P<below>[1-9]))
      | (?:(?P<mixed>[0-9]{{1,9}}+)[ ])?
        (?P<numerator>[0-9]{{1,9}}+)/(?P<denominator>(?=0*+[1-9])[0-9]{{1,9}}+)(?![0-9/]|[.,][0-9])
      | (?P<whole>[0-9]{{1,3}}(?:,[0-9]{{3}})+(?![0-9])|[0-9]++)(?:\.(?P<decimals>[0-9]++))?
      | (?<![0-9])\.(?P<only_decimals>[0-9]++)
    )
    """,
    re.VERBOSE,
)
OTHERWISE = re.compile(r"(?-i:[KMB])\b|e[+-]?[0-9]|[²³¹¼-¾⅐-⅞]", re.IGNORECASE)
"""What makes another number of the one in digits before it: "5K" (but "5m" may be metres), "3.2e5", "3½"."""
_EXPONENT = re.compile(r"[0-9]e[+-]?\Z", re.IGNORECASE)
# What LaTeX writes in numbers: "1{,}200", "1\,200", "\$5".
_LATEX = (re.compile(r"(?<=[0-9])(?:\{,\}|,?\\[,!])(?=[0-9])"), re.compile(r"\\(?=\$)"))
# Number words that stand together ("twenty five", "one hundred", "two-thirds") are one number, which is not read. The
# first is of ASCII letters (?a): regardless of case, "ſ" is an s and "ı" an i, but no word of `_VALUES` has them.
_WORD = "|".join(sorted(_WORDS, key=len, reverse=True))
_WORD_RUN = re.compile(
    rf"(?<![\w-])(?P<word>(?a:{_WORD}))\b"
    rf"(?P<more>(?:[\s-](?:{_WORD}|hundred|thousand|million|billion|dozen|and\sa\shalf)\b"
    r"|[\s-](?:half|halves|thirds?|(?:four|fif|six|seven|eigh|nin|ten)ths?|quarters?(?=\sof\b))(?=\s(?:of|an?|the)\b|[.,;:!?)]|\s*\Z)"
    r"|-\w++)*+)",
    re.IGNORECASE,
)
# "####" without a number directly after it is a Markdown heading.
_PHRASE = re.compile(rf"\bthe\s++answer\s++is\b|####(?=[ \t]*+[$€£¥{DASHES}.0-9])", re.IGNORECASE)
_ARTICLES = {"the", "a", "an"}
_UNSURE = {"or", "not", "no", "never", "neither", "nor", "cannot"}
_AROUND = ".,;:!?\"'`()[]{}*_=…“”‘’«»。，、；：！？（）「」"
_MARKUP = re.compile(r"\\(?:boxed|fbox|text|math)(?:bf|it|rm|sf|tt)?[ ]?\{([^{}]*+)\}")
"""LaTeX around words: "\\boxed{\\text{Paris}}"."""
_MATHS = re.compile(r"\\[()\[\]]|\$\$?([^$\n]++)\$\$?")
_NOTHING = re.compile("")
_SENTENCE_END = re.compile(r"""[\n。！？]|[.!?](?=[\s"')\]*]|\Z)""")
# In words: the full stops of "St. Louis", "J. K. Rowling" and "U.S. Navy" end nothing; that of "B. It follows" does.
_END_OF_WORDS = re.compile(
    r"""[\n。！？]|[!?](?=[\s"')\]*]|\Z)
    |(?<!\bSt)(?<!\bMt)(?<!\bDr)(?<!\bMr)(?<!\bMs)(?<!\bMrs)(?<!\bProf)(?<!\b[A-Z]\.[A-Z])(?<!\b[A-Z]\.[ ][A-Z])
    (?:(?<!\b[A-Z])[.]|(?<=\b[A-Z])[.](?!\s[A-Z]\.))(?=[\s"')\]*]|\Z)""",
    re.VERBOSE,
)


def parse_number(text: str) -> Fraction | None:
    """The one number that `text` starts with (after blanks); None if it starts with none.

    Read are currency signs, thousands separators in groups of exactly three digits, decimals, fractions ("3/4",
    "1 1/2"), a minus (any dash directly before the number or the currency sign, or between the two), and the words
    zero to twenty. What follows the number (a unit, a percent sign, a full stop) is ignored.
    """
    text = _unlatexed(text.lstrip())
    if match := _NUMBER.match(text):
        return _value(match)
    return _word_value(_WORD_RUN.match(text))


def _unlatexed(text: str) -> str:
    separator, escape = _LATEX
    return escape.sub("", separator.sub(",", text)) if "\\" in text or "{" in text else text


def numbers_in(text: str) -> list[Fraction | None]:
    """All numbers written in digits in `text`, in order; None for one with more than `MAX_DIGITS` digits."""
    return [_value(match) for match in _NUMBER.finditer(_unlatexed(text))]


class Reading(NamedTuple):
    """What a text gives as its answer: after "The answer is" (strict), or else at its end (flexible); None: nothing."""

    strict: Fraction | str | None
    flexible: Fraction | str | None


def read_answer(text: str, words: bool = False, right: str = "") -> Reading:
    """`parse_strict` and `parse_flexible`; or with `words`: the rest of that sentence, or else of the last line.

    Args:
        right: the right answer in words: where it is what is said, a full stop in it ("B. London") ends no sentence.
    """
    if not words:
        return Reading(parse_strict(text), parse_flexible(text))
    text = unmarked(text)
    found = _said(text, _END_OF_WORDS, _whole(right))
    strict = found and _trimmed(found)
    return Reading(strict or None, strict or _trimmed(text.strip().rpartition("\n")[2]) or None)


def unmarked(text: str) -> str:
    """Words without the LaTeX around them."""
    return _MATHS.sub(r"\1", _MARKUP.sub(r"\1", _MARKUP.sub(r"\1", text))) if "\\" in text or "$" in text else text


def is_right(text: str, answer: Fraction | str) -> bool:
    """Whether a text gives this answer (`is_correct` of what is read flexibly)."""
    words = answer if isinstance(answer, str) else ""
    return is_correct(read_answer(text, isinstance(answer, str), words).flexible, answer)


def written_answer(answer: Fraction | str) -> str:
    """An answer as text, as a file may have it: a decimal of as many places as a float has is none of `format_number`'s."""
    return answer if isinstance(answer, str) else format_number(answer, _FLOAT_PLACES)


def parse_strict(text: str) -> Fraction | None:
    """The number after the last "The answer is" (any case) or GSM8K's "####"; None without one in that sentence.

    In a formula it is the first number after the last "=" of the sentence ("The answer is 5 + 3 = 8." gives 8), without
    "=" the sentence's first number. Digits go before number words. The number may also stand alone at the start of the
    next line ("The answer is:\\n8").
    """
    sentence = _said(_unlatexed(text))
    if sentence is None:
        return None
    if sentence.startswith("\n"):
        return parse_number(sentence)
    sentence = sentence.rpartition("=")[2]
    if match := _NUMBER.search(sentence):
        return _value(match)
    return _word_value(_WORD_RUN.search(sentence))


def _whole(right: str) -> re.Pattern[str]:
    """Finds these words at the beginning of what is said, regardless of case, blanks and what stands before them."""
    around = rf"[\s{re.escape(_AROUND)}]"
    words = f"{around}+".join(re.escape(word) for part in right.split() if (word := _trimmed(part)))
    return re.compile(rf"{around}*+{words}(?!\w)" if words else "", re.IGNORECASE)


def _said(text: str, ends: re.Pattern[str] = _SENTENCE_END, whole: re.Pattern[str] = _NOTHING) -> str | None:
    """The rest of the last sentence with "The answer is" or "####"; where that is nothing, a newline and the next one.

    Args:
        whole: no sentence ends in what it finds at the beginning.
    """
    phrase = None
    for phrase in _PHRASE.finditer(text):
        pass
    if phrase is None:
        return None
    first = whole.match(text, phrase.end())
    end = ends.search(text, first.end() if first else phrase.end())
    sentence = text[phrase.end() : end.start() if end else len(text)]
    if sentence.strip(" \t\r:=*"):
        return sentence
    rest = text[phrase.end() :].lstrip(" \t\r\n:=*")
    first = whole.match(rest)
    end = ends.search(rest, first.end() if first else 0)
    return "\n" + (rest[: end.start()] if end else rest)


def parse_flexible(text: str) -> Fraction | None:
    """`parse_strict` if it finds a number, else the last number in `text`; None if there is none, or if what is said to be
    the answer is a number that is not read ("twenty-five", "3½").

    The last number is the last one in digits; where there are no digits at all, the last number word, "one" left out
    because it mostly is a pronoun.
    """
    text = _unlatexed(text)
    strict = parse_strict(text)
    if strict is not None:
        return strict
    said = _said(text) or ""
    unread = _WORD_RUN.search(said)
    looked_at = _NUMBER.match(said.lstrip()) if said.startswith("\n") else _NUMBER.search(said.rpartition("=")[2])
    if looked_at or (unread is not None and unread["more"]):
        return None
    last = None
    for last in _NUMBER.finditer(text):
        pass
    if last is not None:
        return None if _EXPONENT.search(text, max(0, last.start() - 3), last.start()) else _value(last)
    for match in _WORD_RUN.finditer(text):
        if match.group().lower() != "one":
            last = match
    return _word_value(last)


def is_correct(parsed: Fraction | str | None, answer: Fraction | str) -> bool:
    """Whether `parsed` gives `answer`.

    Words do if they are the same but for case, blanks, a first article and punctuation around them; or begin or end with
    them ("on Friday"), and say neither "or" nor "not" (nor "can't") beside them, before the next full stop.

    A number does if the two are equal. It also does if all of these hold: `answer` is no decimal of at most 6 places (as 1/3,
    or a file's 0.3333333333333333); `parsed` is a decimal with 2 or more places, so that it can be a rounded `answer`;
    and they differ by at most 1e-4 of `answer`. So 33.33 is right for 100/3, but 0.33 is wrong for 1/3, and nothing but
    2.5 is right for 5/2. None (no number found) is wrong.
    """
    if parsed is None:
        return False
    if isinstance(parsed, str) or isinstance(answer, str):
        right = _plain(written_answer(answer))
        said = _plain(written_answer(parsed), right)
        if said == right or not right:
            return said == right
        if said[: len(right)] == right and _parts(written_answer(parsed), right)[len(right) - 1].endswith((".", "!", "?")):
            return True  # what follows is another sentence: "B. It is not A"
        unsure = {w for w in said if w in _UNSURE or w.endswith("n't")} - {*right}
        return right in (said[: len(right)], said[-len(right) :]) and not unsure
    if parsed == answer:
        return True
    if _is_short_decimal(answer) or (parsed * 10).denominator == 1:
        return False
    terminates = pow(10, parsed.denominator.bit_length(), parsed.denominator) == 0
    return terminates and abs(parsed - answer) <= RELATIVE_TOLERANCE * abs(answer)


def _trimmed(text: str) -> str:
    """Without blanks and punctuation around it."""
    inner = [i for i, c in enumerate(text) if not (c.isspace() or c in _AROUND)]
    return text[inner[0] : inner[-1] + 1] if inner else ""


def _plain(text: str, right: Sequence[str] = ()) -> list[str]:
    """Its words, as `_parts` has them, without punctuation around them."""
    return [_trimmed(p).casefold() for p in _parts(text, right)]


def _parts(text: str, right: Sequence[str]) -> list[str]:
    """What blanks part, without what counts for nothing in an answer: an article before it. The "A" of "A) Paris" is none, nor
    one in capitals where "A" is the answer.

    Args:
        right: the words of the right answer, where this is another one.
    """
    parts = [p for p in unicodedata.normalize("NFC", text).replace("’", "'").split() if _trimmed(p)]
    words = [_trimmed(p).casefold() for p in parts]
    article = len(words) > 1 and words[0] in _ARTICLES and parts[0].endswith(_trimmed(parts[0]))
    named = [*right] == words[:1] and _trimmed(parts[0]).isupper() if parts else False
    return parts[article and not named :]


def _is_short_decimal(number: Fraction) -> bool:
    return 10**6 % number.denominator == 0


def _value(match: re.Match[str]) -> Fraction | None:
    """The value of a `_NUMBER` match; None if it is too long, or if what follows makes another number of it."""
    if len(match.group()) > 2 * MAX_DIGITS:  # before anything is copied; separators and signs are fewer than digits
        return None
    if OTHERWISE.match(match.string, match.end()):
        return None
    if match["over"] or match["above"]:
        over, under = match["over"] or match["above"], match["under"] or match["below"]
        size = Fraction(int(over), int(under)) + int(match["latex_mixed"] or 0)
    elif match["numerator"]:
        size = Fraction(int(match["numerator"]), int(match["denominator"])) + int(match["mixed"] or 0)
    else:
        decimals = match["only_decimals"] or match["decimals"] or ""
        digits = (match["whole"] or "").replace(",", "") + decimals
        if len(digits) > MAX_DIGITS or len(decimals) >= MAX_DIGITS:
            return None
        try:
            size = Fraction(int(digits), 10 ** len(decimals))
        except ValueError:  # sys.set_int_max_str_digits may be lower
            return None
    return -size if match["minus"] or match["inner"] else size


def _word_value(match: re.Match[str] | None) -> Fraction | None:
    """The value of a `_WORD_RUN` match; None without one, and for a run of several words."""
    return None if match is None or match["more"] else _VALUES[match["word"].lower()]
