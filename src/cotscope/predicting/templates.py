"""Which questions are one template's: the same words with other numbers and names.

Word problems are often made from templates, and a model solves most or none of a template's problems. Whoever predicts
right answers from problems of the same template predicts the template: folds must not part them (docs/methods.md).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

ALIKE = 0.4
"""Questions are joined whose words (numbers masked, TF-IDF of words and pairs of words) have at least this cosine."""

_WORD = r"(?u)[^\W\d_]+|0"
_BLOCK = 2048  # rows of similarities at once


def masked(text: str) -> str:
    """A text with every number as 0."""
    return re.sub(r"\d[\d,]*(?:\.\d+)?", "0", text)


def templates(questions: Sequence[str]) -> list[int]:
    """The number of each question's template; questions are joined to all that are alike, directly or through others."""
    return list(_templates(tuple(questions)))


@lru_cache(maxsize=8)  # a second for 1,500 questions, and asked again and again of the same
def _templates(questions: tuple[str, ...]) -> tuple[int, ...]:
    from scipy.sparse import vstack
    from scipy.sparse.csgraph import connected_components
    from sklearn.feature_extraction.text import TfidfVectorizer

    texts = [masked(q) for q in questions]
    if not any(re.search(_WORD, text) for text in texts):
        return tuple(range(len(texts)))
    words = TfidfVectorizer(ngram_range=(1, 2), token_pattern=_WORD).fit_transform(texts)
    parts = []
    for start in range(0, len(questions), _BLOCK):
        alike = words[start : start + _BLOCK] @ words.T
        alike.data = np.where(alike.data >= ALIKE, alike.data, 0)
        alike.eliminate_zeros()
        parts.append(alike)
    return tuple(connected_components(vstack(parts), directed=False)[1].tolist())
