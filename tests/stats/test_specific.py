"""The rule by which a set matters to arithmetic."""

from __future__ import annotations

import numpy as np
import pytest

from cotscope.stats import TOO_FEW, specific_damage


def test_specific_damage_needs_all_three() -> None:
    matched = [(-1.0 - i / 100, -0.5) for i in range(20)]
    found = specific_damage((-0.1, -0.1), (-2.0, -0.5), matched)
    assert found.verdict == "matters"
    assert found.p_value == found.p_beyond == pytest.approx(1 / 21)
    assert found.change == pytest.approx(-1.9)
    assert found.permuted_mean == pytest.approx(-0.995)
    everything = specific_damage((-0.1, -0.1), (-2.0, -3.0), matched)
    assert (everything.verdict, everything.p_value, everything.p_beyond) == ("not shown", pytest.approx(1 / 21), 1)
    assert specific_damage((-0.1, -0.1), (-1.05, -0.5), matched).verdict == "not shown"
    assert specific_damage((-0.1, -0.1), (-2.0, -0.5), matched[:18]).verdict == TOO_FEW
    small = specific_damage((-0.1, -0.1), (-1.04, -0.5), [(-1.0, -0.5)] * 20)
    assert (small.verdict, small.p_value, small.p_beyond) == ("not shown", pytest.approx(1 / 21), pytest.approx(1 / 21))
    assert specific_damage((-0.1, -0.1), (-1.06, -0.5), [(-1.0, -0.5)] * 20).verdict == "matters"


def test_specific_damage_says_matters_of_a_random_set_one_time_in_twenty() -> None:
    rng = np.random.default_rng(1)
    said = 0
    for _ in range(2000):
        sets = rng.normal(-1, 0.3, (20, 2)).tolist()
        said += specific_damage((0.0, 0.0), sets[0], sets[1:]).verdict == "matters"
    assert 0 < said / 2000 <= 0.05
