"""Reading the number that a text gives as its answer, and comparing it with the right one.

Numbers are exact (`Fraction`) and have no unit: "15%" is 15, "$5" is 5. No function here raises on any string, and each
takes time linear in its length.
"""

from __future__ import annotations

import re
from fractions import Fraction

MAX_DIGITS = 4300
"""Longest number that is read, in digits: what Python's `int()` takes by default. A longer one counts as no number.

So does one of as many decimals: the denominator of its fraction has one digit more."""

RELATIVE_TOLERANCE = Fraction(1, 10_000)
"""How far a rounded answer may be off, as a part of the right one (see `is_correct`)."""

_WORDS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty",
)  # fmt: skip
_VALUES = {word: Fraction(value) for value, word in enumerate(_WORDS)}
_DASH = "\\-\u2212\u2013\u2014"  # escaped, for use inside [ ]

# A dash after a letter, digit, closing bracket, percent sign or another dash joins or subtracts; it is no sign.
# Possessive quantifiers and bounded look-ahead keep the scan linear; the one plain repetition, of ",ddd", gives back at
# most one group, since any earlier one is followed by a comma.
_NUMBER = re.compile(
    rf"""
    (?P<minus>(?<![\w)\]%{_DASH}])[{_DASH}])?
    (?:[$€£¥][ ]?(?P<inner>[{_DASH}])?)?
    (?:
        (?:(?P<mixed>[0-9]{{1,9}}+)[ ])?
        (?P<numerator>[0-9]{{1,9}}+)/(?P<denominator>(?=0*+[1-9])[0-9]{{1,9}}+)(?![0-9/]|[.,][0-9])
      | (?P<whole>[0-9]{{1,3}}(?:,[0-9]{{3}})+(?![0-9])|[0-9]++)(?:\.(?P<decimals>[0-9]++))?
      | (?<![0-9])\.(?P<only_decimals>[0-9]++)
    )
    """,
    re.VERBOSE,
)
# Number words that stand together ("twenty five", "one hundred", "two-thirds") are one number, which is not read. The
# first is of ASCII letters (?a): regardless of case, "ſ" is an s and "ı" an i, but no word of `_VALUES` has them.
_WORD = "|".join(sorted(_WORDS, key=len, reverse=True))
_WORD_RUN = re.compile(
    rf"(?<![\w-])(?P<word>(?a:{_WORD}))\b"
    rf"(?P<more>(?:[\s-](?:{_WORD}|hundred|thousand|million|billion|dozen|and\sa\shalf)\b|-\w++)*+)",
    re.IGNORECASE,
)
# "####" without a number directly after it is a Markdown heading.
_PHRASE = re.compile(rf"\bthe\s++answer\s++is\b|####(?=[ \t]*+[$€£¥{_DASH}.0-9])", re.IGNORECASE)
_SENTENCE_END = re.compile(r"""\n|[.!?](?=[\s"')\]*]|\Z)""")


def parse_number(text: str) -> Fraction | None:
    """The one number that `text` starts with (after blanks); None if it starts with none.

    Read are currency signs, thousands separators in groups of exactly three digits, decimals, fractions ("3/4",
    "1 1/2"), a minus (any dash directly before the number or the currency sign, or between the two), and the words
    zero to twenty. What follows the number (a unit, a percent sign, a full stop) is ignored.
    """
    text = text.lstrip()
    if match := _NUMBER.match(text):
        return _value(match)
    return _word_value(_WORD_RUN.match(text))


def numbers_in(text: str) -> list[Fraction | None]:
    """All numbers written in digits in `text`, in order; None for one with more than `MAX_DIGITS` digits."""
    return [_value(match) for match in _NUMBER.finditer(text)]


def parse_strict(text: str) -> Fraction | None:
    """The number after the last "The answer is" (any case) or GSM8K's "####"; None without one in that sentence.

    In a formula it is the first number after the last "=" of the sentence ("The answer is 5 + 3 = 8." gives 8), without
    "=" the sentence's first number. Digits go before number words. The number may also stand alone at the start of the
    next line ("The answer is:\\n8").
    """
    phrase = None
    for phrase in _PHRASE.finditer(text):
        pass
    if phrase is None:
        return None
    end = _SENTENCE_END.search(text, phrase.end())
    sentence = text[phrase.end() : end.start() if end else len(text)]
    if not sentence.strip(" \t\r:=*"):
        rest = text[phrase.end() :].lstrip(" \t\r\n:=*")
        return parse_number(rest)
    sentence = sentence.rpartition("=")[2]
    if match := _NUMBER.search(sentence):
        return _value(match)
    return _word_value(_WORD_RUN.search(sentence))


def parse_flexible(text: str) -> Fraction | None:
    """`parse_strict` if it finds a number, else the last number in `text`; None if there is none.

    The last number is the last one in digits; where there are no digits at all, the last number word, "one" left out
    because it mostly is a pronoun.
    """
    strict = parse_strict(text)
    if strict is not None:
        return strict
    last = None
    for last in _NUMBER.finditer(text):
        pass
    if last is not None:
        return _value(last)
    for match in _WORD_RUN.finditer(text):
        if match.group().lower() != "one":
            last = match
    return _word_value(last)


def is_correct(parsed: Fraction | None, answer: Fraction) -> bool:
    """Whether `parsed` gives `answer`.

    It does if the two are equal. It also does if all of these hold: `answer` is no decimal of at most 6 places (as 1/3,
    or a file's 0.3333333333333333); `parsed` is a decimal with 2 or more places, so that it can be a rounded `answer`;
    and they differ by at most 1e-4 of `answer`. So 33.33 is right for 100/3, but 0.33 is wrong for 1/3, and nothing but
    2.5 is right for 5/2. None (no number found) is wrong.
    """
    if parsed is None:
        return False
    if parsed == answer:
        return True
    if _is_short_decimal(answer) or (parsed * 10).denominator == 1:
        return False
    terminates = pow(10, parsed.denominator.bit_length(), parsed.denominator) == 0
    return terminates and abs(parsed - answer) <= RELATIVE_TOLERANCE * abs(answer)


def _is_short_decimal(number: Fraction) -> bool:
    return 10**6 % number.denominator == 0


def _value(match: re.Match[str]) -> Fraction | None:
    """The value of a `_NUMBER` match; None if it is too long."""
    if len(match.group()) > 2 * MAX_DIGITS:  # before anything is copied; separators and signs are fewer than digits
        return None
    if match["numerator"]:
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
