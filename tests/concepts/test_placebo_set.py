"""The placebo concepts: like the arithmetic ones in all that chance depends on, and about something else."""

from __future__ import annotations

import re
from importlib import resources

import numpy as np
import pytest

from cotscope.concepts.lexicon import normalise
from cotscope.concepts.sets import load_concepts
from cotscope.records import Concept

ARITHMETIC = load_concepts("arithmetic").concepts
PLACEBO = load_concepts("placebo").concepts
SETS = {"arithmetic": ARITHMETIC, "placebo": PLACEBO}
QUANTILES = (0.25, 0.5, 0.75)
FACTOR = 1.2
"""How far apart a quantile of the token ids of the two sets may be."""


def seeds(concepts: tuple[Concept, ...]) -> list[str]:
    return [seed for concept in concepts for seed in concept.seeds]


def is_chinese(seed: str) -> bool:
    return "一" <= seed[0] <= "鿿"


def kind_of(seed: str) -> str:
    return "chinese" if is_chinese(seed) else "words" if seed.isascii() and seed.isalpha() else "symbols"


def test_it_is_a_packaged_set_of_as_many_concepts() -> None:
    placebo = load_concepts("placebo")
    assert (placebo.name, placebo.source) == ("placebo", "built-in:placebo")
    assert len(PLACEBO) == len(ARITHMETIC) == 7
    assert all(concept.question.endswith("?") for concept in PLACEBO)


def test_no_seed_is_arithmetic_and_none_belongs_to_two_concepts() -> None:
    assert not set(seeds(PLACEBO)) & set(seeds(ARITHMETIC))
    assert len(seeds(PLACEBO)) == len(set(seeds(PLACEBO)))


def test_seeds_are_words_without_numbers_or_symbols() -> None:
    for seed in seeds(PLACEBO):
        assert re.fullmatch(r"[a-z]{3,}|[一-鿿]+", seed), seed
        assert not set(seed) & set("〇零一二三四五六七八九十百千万亿两双几半倍加减乘除和差积商总余等"), seed
    assert not {"second", "may", "march", "foot", "feet", "point", "degree"} & set(seeds(PLACEBO))


def test_no_seed_is_a_word_of_the_problems_and_exemplars() -> None:
    package = resources.files("cotscope")
    paths = [*(package / "data" / "templates").iterdir(), package / "prompts" / "exemplars.toml"]
    words = set(re.findall("[a-z]+", " ".join(path.read_text(encoding="utf-8") for path in paths).lower()))
    assert "books" in words
    assert not words & set(seeds(PLACEBO))


def test_as_many_seeds_and_as_many_chinese_ones() -> None:
    assert len(seeds(PLACEBO)) == pytest.approx(len(seeds(ARITHMETIC)), rel=0.1)
    assert sum(map(is_chinese, seeds(PLACEBO))) == sum(map(is_chinese, seeds(ARITHMETIC)))
    assert sorted(sum(map(is_chinese, c.seeds)) for c in PLACEBO) == sorted(sum(map(is_chinese, c.seeds)) for c in ARITHMETIC)


@pytest.mark.model
def test_seeds_are_tokens_of_similar_frequency(default_tokenizer) -> None:
    ids: dict[str, list[int]] = {}  # of all tokens that are a seed once stripped and lower-cased
    for token in range(len(default_tokenizer)):
        ids.setdefault(normalise(default_tokenizer.decode([token])), []).append(token)
    assert [seed for seed in seeds(PLACEBO) if seed not in ids] == []
    present = {name: [[s for s in c.seeds if s in ids] for c in concepts] for name, concepts in SETS.items()}
    assert sorted(map(len, present["placebo"])) == sorted(map(len, present["arithmetic"]))
    tokens = {name: sum(len(ids[s]) for group in groups for s in group) for name, groups in present.items()}
    assert tokens["placebo"] == pytest.approx(tokens["arithmetic"], rel=0.12)
    for kind in ("all", "words", "chinese"):
        real, placebo = (
            np.quantile([ids[s][0] for group in groups for s in group if kind in ("all", kind_of(s))], QUANTILES)
            for groups in present.values()
        )
        assert (np.maximum(real / placebo, placebo / real) < FACTOR).all(), (kind, real, placebo)
