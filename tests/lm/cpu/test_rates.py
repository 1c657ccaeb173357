"""Which dtype a machine gets, and that the reason is said."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from cotscope.errors import ModelError
from cotscope.lm.cpu import choose_dtype, rates
from cotscope.lm.loading import load_model


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    choose_dtype.cache_clear()
    yield
    choose_dtype.cache_clear()


def test_instructions_are_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates, "bfloat16_instructions", lambda: "AMX")
    monkeypatch.setattr(rates, "gflops", lambda dtype: pytest.fail("nothing is measured"))
    assert str(choose_dtype("cpu")) == "bfloat16: this CPU has instructions for it (AMX)"


@pytest.mark.parametrize(
    ("single", "line"),
    [
        (138.4, "float32: this CPU multiplies it 4.4 times as fast as bfloat16 (138 and 31 GFLOP/s)"),
        (20.0, "bfloat16: this CPU multiplies it 1.6 times as fast as float32 (31 and 20 GFLOP/s)"),
    ],
)
def test_other_cpus_are_measured_once(monkeypatch: pytest.MonkeyPatch, single: float, line: str) -> None:
    measured = []
    monkeypatch.setattr(rates, "bfloat16_instructions", lambda: None)
    monkeypatch.setattr(rates, "gflops", lambda dtype: measured.append(dtype) or (single if dtype == torch.float32 else 31.2))
    assert str(choose_dtype("cpu")) == str(choose_dtype("cpu")) == line
    assert measured == [torch.float32, torch.bfloat16]


def test_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for has, dtype in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True, has=has: has)
        choose_dtype.cache_clear()
        assert choose_dtype("cuda").dtype == dtype


def test_rates_are_measured() -> None:
    assert 0.1 < rates.gflops(torch.float32) < 1e5


@pytest.mark.parametrize("setting", [{"dtype": "float8"}, {"kernels": "mine"}])
def test_unknown_settings(setting: dict[str, str]) -> None:
    with pytest.raises(ModelError, match=r"unknown (dtype|kernels); expected auto or"):
        load_model("anything", **setting)
