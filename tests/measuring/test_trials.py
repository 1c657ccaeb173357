"""The rule on a choice of neurons beside random sets like it, and what makes a random set like it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cotscope.measuring.selections import strata_like
from cotscope.measuring.trials import CALCULATES, NOT_SHOWN, RESTS, TOO_FEW, UNTOUCHED, Scores, Trial
from cotscope.records import Neuron
from cotscope.stats import LEAST_MARGIN
from cotscope.stats.random_sets import STRATUM

NEURONS = (Neuron(0, 1), Neuron(1, 2))
WHOLE, COMPARED = Trial("way", None, NEURONS), Trial("way", None, NEURONS[:1], "compared")


def scores(result: float, elsewhere: float, sums: int, controls: int, other: float, far: float) -> tuple[Scores, list[Trial]]:
    """The compared neurons lower results' margin and that elsewhere by so much, and `sums` of 20 stay right. Random sets lower
    both by `other`, each a little more, and 15 stay right. The whole choice lowers them by `far`, which must count for nothing.
    """
    made = Scores.__new__(Scores)
    sets = [Trial("way", i, NEURONS) for i in range(controls)]
    made.seed, made.solved, made.roles, made.hits = 0, {}, {}, {UNTOUCHED.key: [True] * 20}
    made.skills = {s.key: {"battery": 0.5, "kl": 0.0} for s in (WHOLE, COMPARED, *sets)}

    def put(s: Trial, role: str, change: float) -> None:
        for path in ("total", "indirect"):
            made.roles[s.key, role, path] = {p: (0.0, 3.0 + i - change) for i, p in enumerate("abc")}

    for role in ("result", "elsewhere"):
        put(UNTOUCHED, role, 0.0)
        put(WHOLE, role, far)
    for i, s in enumerate(sets):
        put(s, "result", other + 0.01 * i)
        put(s, "elsewhere", other)
        made.hits[s.key] = [i < 15 for i in range(20)]
    put(COMPARED, "result", result)
    put(COMPARED, "elsewhere", elsewhere)
    made.hits[COMPARED.key] = made.hits[WHOLE.key] = [i < sums for i in range(20)]
    return made, [WHOLE, COMPARED, *sets]


@pytest.mark.parametrize(
    ("result", "elsewhere", "sums", "controls", "verdict"),
    [
        (5.0, 0.1, 3, 19, CALCULATES),
        (5.0, 0.1, 15, 19, RESTS),  # sums whose formula is given are as with random sets
        (5.0, 5.0, 3, 19, NOT_SHOWN),  # all tokens lose as much
        (0.6, 0.1, 3, 19, NOT_SHOWN),  # some random sets do more
        (1.3 + LEAST_MARGIN / 2, 0.1, 3, 19, NOT_SHOWN),
        (5.0, 0.1, 3, 18, TOO_FEW),
    ],
)  # fmt: skip
def test_the_rule(result: float, elsewhere: float, sums: int, controls: int, verdict: str) -> None:
    other = 1.3 - 0.09 if 1.3 < result < 2 else 0.5  # so that the mean of the random sets' is 1.3, or about 0.6
    made, sets = scores(result, elsewhere, sums, controls, other, far=50.0)
    found = made.compared(WHOLE, sets)
    assert found["verdict"] == verdict and found["compared"] == 1 and found["controls"] == controls
    assert found["compared_margin"] == pytest.approx(-result)
    assert found["controls_margin"] == pytest.approx(-other - 0.01 * (controls - 1) / 2)
    assert found["compared_sums"] == sums / 20 and found["controls_sums"] == 0.75
    worse = sum(other + 0.01 * i >= result for i in range(controls))
    assert found["p_value"] == pytest.approx((1 + worse) / (controls + 1))


def test_a_stratum_is_of_a_layer_and_of_both_sizes() -> None:
    rng = np.random.default_rng(0)
    columns: dict[str, Any] = {name: np.exp(rng.normal(0, 2, (3, 40))) for name in ("solutions_size", "text_size")}
    barred = {Neuron(1, 7)}
    of = strata_like("attribution", None, columns, barred)  # type: ignore[arg-type]
    assert len(of) == 119 and Neuron(1, 7) not in of
    cells: dict[Any, list[Neuron]] = {}
    for neuron, cell in of.items():
        cells.setdefault(cell, []).append(neuron)
    assert 20 < len(cells) < 119
    for together in cells.values():
        assert len({n.layer for n in together}) == 1
        for sizes in columns.values():
            logs = [float(np.log(sizes[n.layer, n.index])) for n in together]
            assert max(logs) - min(logs) <= STRATUM
