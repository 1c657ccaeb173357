"""Text without secrets: an endpoint may echo the key it was sent, whole or in pieces, plain or encoded.

A key is found as it stands, in JSON escapes, percent codes, character entities, base64 and hex, in either case, and
with anything but letters and digits between its own (quotes, blanks and commas of a JSON text part halves that a reader
joins). Pieces of half its length are found too. What is so short and simple that replies hold it anyway is no secret:
"none" and "EMPTY" are what servers on one's own machine are given.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable

MARK = "[key]"
LONGEST = 200_000  # characters: a longer text with a secret in it is given up, for finding each place takes much memory
SHORTEST = 8  # characters: a shorter piece of a key may stand in any text
_CODED = re.compile(  # backslashes may be escaped themselves, again and again
    r"\\{1,8}u(?P<u>[0-9a-fA-F]{4})|\\{1,8}x(?P<x>[0-9a-fA-F]{2})|%(?P<p>[0-9a-fA-F]{2})|"
    r"&#[xX](?P<h>[0-9a-fA-F]{1,6});|&#(?P<d>[0-9]{1,7});|\\{1,8}[bfnrt]"  # the last: control characters
)
_OTHER = re.compile(r"[^0-9A-Za-z]+")


class Redactor:
    """Replaces secrets by `[key]`.

    Args:
        secrets: the key, and what else must not be told; those that are placeholders are left out.
    """

    def __init__(self, secrets: Iterable[str]) -> None:
        self._pieces: set[str] = set()  # found as they stand
        self._cores: set[str] = set()  # letters and digits, in lower case: found whatever stands between them
        for secret in secrets:
            if len(secret) < 4 or (len(secret) < SHORTEST and secret.isalpha()):
                continue
            length = min(len(secret), max(SHORTEST, len(secret) // 2))
            self._pieces |= {secret[i : i + length] for i in range(len(secret) - length + 1)}
            raw = secret.encode()
            coded = [secret, raw.hex()]
            for offset, first in enumerate((0, 2, 3)):  # of the secret in a longer text; its own characters only
                padded = base64.b64encode(b"\0" * offset + raw).decode()
                coded.append(padded[first : (offset + len(raw)) * 8 // 6])
            if any(char.isdigit() for char in secret):  # words such as "lm-studio" are told from others as they stand
                self._cores |= {core for text in coded if len(core := _core(text)) >= SHORTEST}

    def __call__(self, text: str) -> str:
        """The text with each secret replaced."""
        plain = _CODED.sub(_decoded, text)
        core = _core(plain)
        if not any(piece in plain for piece in self._pieces) and not any(one in core for one in self._cores):
            return text
        if len(text) > LONGEST:
            return MARK
        cut, begin, parts = self._spans(text), 0, []
        for start, end in cut:
            parts += [text[begin:start], MARK]
            begin = end
        return "".join([*parts, text[begin:]])

    def _spans(self, text: str) -> list[tuple[int, int]]:
        """Where secrets stand in the text, in order and apart."""
        places: list[tuple[str, int, int]] = []  # each character that is meant, and where it is written
        begin = 0
        for code in _CODED.finditer(text):
            places += [(text[i], i, i + 1) for i in range(begin, code.start())]
            places.append((_decoded(code), code.start(), code.end()))
            begin = code.end()
        places += [(text[i], i, i + 1) for i in range(begin, len(text))]
        core = [place for place in places if not _OTHER.match(place[0])]
        found: list[tuple[int, int]] = []
        for where, needles, simple in ((places, self._pieces, str), (core, self._cores, str.lower)):
            searched = simple("".join(char for char, _, _ in where))
            for needle in needles:
                at = searched.find(needle)
                while at >= 0:
                    found.append((where[at][1], where[at + len(needle) - 1][2]))
                    at = searched.find(needle, at + 1)
        spans: list[tuple[int, int]] = []
        for start, end in sorted(found):
            if spans and start <= spans[-1][1]:
                spans[-1] = (spans[-1][0], max(end, spans[-1][1]))
            else:
                spans.append((start, end))
        return spans


def _core(text: str) -> str:
    return _OTHER.sub("", text).lower()


def _decoded(code: re.Match[str]) -> str:
    """The one character that is meant; a blank for a control character."""
    for name, base in (("u", 16), ("x", 16), ("p", 16), ("h", 16), ("d", 10)):
        if code[name]:
            number = int(code[name], base)
            return chr(number) if number < 0x110000 else " "
    return " "
