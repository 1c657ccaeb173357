"""The measure finds what is there: neurons that push words which occur in solutions lower those words, not arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean

import pytest

from cotscope.concepts.lexicon import candidates, normalise
from cotscope.data.builtin import generate
from cotscope.data.roles import ARITHMETIC
from cotscope.lm.engine import Engine
from cotscope.lm.loading import LoadedModel
from cotscope.lm.paths import path_effects
from cotscope.lm.projection import project
from cotscope.lm.recorders import ActivePoles
from cotscope.lm.scoring import Given, TokenScore, score
from cotscope.measuring.solutions import Solution, solution
from cotscope.prompts.derive import derive_prompt, problems_of, render_solution
from cotscope.prompts.exemplars import load_exemplars
from cotscope.records import Concept, Neuron, Pole
from cotscope.stats import LEAST_EFFECT, paired_bootstrap

WORDS = Concept("words", "", ("there", "must", "are"))
PROBLEMS, SEEN = 8, 10  # scored; those on whose solutions neurons were found active


@pytest.mark.slow
@pytest.mark.model
def test_neurons_of_words_lower_those_words_and_leave_arithmetic_alone(default_model: Callable[[str], LoadedModel]) -> None:
    loaded = default_model("float32")
    engine = Engine(loaded)
    prompt = derive_prompt("full", problems_of(load_exemplars(), "full")[:2])
    solutions = [solution(loaded, p, "gold", render_solution(p)) for p in generate(96, seed=3, steps=(1, 2))]
    seen = solutions[:SEEN]
    said = [s for s in solutions[SEEN:] if any(normalise(loaded.piece(t)) in WORDS.seeds for t in s.tokens)]

    def given(some: Sequence[Solution], recorder: ActivePoles | None = None) -> Given:
        texts = tuple(prompt.text(s.problem.question) for s in some)
        return Given(texts, tuple(s.tokens for s in some), recorder=recorder)

    poles: set[Pole] = set()
    first_layer = 6 * loaded.anatomy.layers // 32
    recorder = ActivePoles(
        loaded.anatomy,
        sink=lambda t: poles.update(map(Pole, t.layer.tolist(), t.index.tolist(), t.sign.tolist())),
    )
    score(engine, given(seen, recorder))
    poles = {p for p in poles if p.layer >= first_layer}
    neurons = sorted({Neuron(p.layer, p.index) for p in poles})
    ends = project(loaded.anatomy, neurons)
    promoted = {
        Pole(*n, sign): [loaded.piece(t) for t in tokens]
        for sign, side in ((1, ends.top.tolist()), (-1, ends.bottom.tolist()))
        for n, tokens in zip(neurons, side, strict=True)
    }
    chosen = sorted({Neuron(p.layer, p.index) for p in poles if candidates(p, promoted[p], (WORDS,))})
    assert len(chosen) > 20

    scored = said[:PROBLEMS]
    found = dict(path_effects(engine, given(scored), {"none": (), "words": chosen}))
    words = [[normalise(loaded.piece(t)) in WORDS.seeds for t in s.tokens] for s in scored]
    arithmetic = [[role in ARITHMETIC for role in s.roles] for s in scored]
    changes: dict[tuple[str, str], tuple[float, float, float]] = {}
    for path, scores in found["words"].items():
        for name, where in (("words", words), ("arithmetic", arithmetic)):
            both = [*zip(_means(found["none"]["total"], where), _means(scores, where), strict=True)]
            assert len(both) == PROBLEMS, name
            changes[name, path] = paired_bootstrap([after - before for before, after in both])
    told = {key: "{:+.3f} [{:+.3f}, {:+.3f}]".format(*ends) for key, ends in changes.items()}
    print(len(poles), "active poles,", len(chosen), "neurons chosen;", told)
    for path in ("total", "direct"):
        assert changes["words", path][2] < -0.5
    for path in found["words"]:
        mean, low, high = changes["arithmetic", path]
        assert abs(mean) < LEAST_EFFECT, (path, mean, low, high)


def _means(scores: Sequence[Sequence[TokenScore]], where: Sequence[Sequence[bool]]) -> list[float]:
    """Mean log-probability of each solution's tokens there; solutions without such a token are left out."""
    own = [[t.log_prob for t, here in zip(s, h, strict=True) if here] for s, h in zip(scores, where, strict=True)]
    return [fmean(tokens) for tokens in own if tokens]
