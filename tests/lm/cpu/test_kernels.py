"""The compiled kernels against the same sums in more bits, and what happens where they can't be had."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cotscope.errors import ModelError
from cotscope.lm import cpu
from cotscope.lm.cpu import kernels
from cotscope.lm.engine import Engine
from cotscope.lm.jobs import Job, Work
from cotscope.lm.loading import LoadedModel, anatomy
from cotscope.lm.recorders import ActivePoles
from cotscope.lm.rows import SharedTable

ROUNDING = 2**-8  # of bfloat16, relative


def needs(dtype: torch.dtype) -> pytest.MarkDecorator:
    return pytest.mark.skipif(kernels.missing(dtype) is not None, reason=str(kernels.missing(dtype)))


needed = needs(torch.bfloat16)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@contextmanager
def on_threads(threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@needed
@settings(deadline=None, max_examples=60)
@given(
    rows=st.sampled_from([1, 2, 5, 6, 7, 12, 13, 16, 31, 95, 96, 97, 200]),
    inner=st.integers(1, 1100).map(lambda n: 2 * n),
    blocks=st.integers(1, 9),
    biased=st.booleans(),
    threads=st.sampled_from([1, 2, 5]),
)
def test_linear_is_the_float32_product_rounded_once(rows: int, inner: int, blocks: int, biased: bool, threads: int) -> None:
    x, weight = normal(rows, inner), normal(64 * blocks, inner, seed=1)
    bias = normal(64 * blocks, seed=2) if biased else None
    packed = kernels.pack(weight)
    assert torch.equal(kernels.unpack(packed), weight)
    expected = x.double() @ weight.double().T + (0 if bias is None else bias.double())
    with on_threads(threads):
        got = kernels.linear(x, packed, bias)
    noise = 1e-6 * inner**0.5 * x.float().norm(dim=1, keepdim=True).double() * weight.float().norm(dim=1).double()
    assert ((got.double() - expected).abs() <= expected.abs() * ROUNDING + noise).all()


@needs(torch.float32)
@settings(deadline=None, max_examples=60)
@given(
    rows=st.sampled_from([1, 2, 5, 6, 7, 12, 13, 16, 31, 95, 96, 97, 200]),
    inner=st.integers(1, 2200),
    blocks=st.integers(1, 9),
    biased=st.booleans(),
    threads=st.sampled_from([1, 2, 5]),
)
def test_float32_product_of_a_row_is_the_same_bits_in_any_company(
    rows: int, inner: int, blocks: int, biased: bool, threads: int
) -> None:
    """Near to the product in float64, and each row what it is alone, on any threads."""
    x, weight = normal(rows, inner, dtype=torch.float32), normal(64 * blocks, inner, seed=1, dtype=torch.float32)
    bias = normal(64 * blocks, seed=2, dtype=torch.float32) if biased else None
    packed = kernels.pack(weight)
    assert torch.equal(kernels.unpack(packed), weight)
    with on_threads(threads):
        got = kernels.linear(x[None], packed, bias)[0]
    expected = x.double() @ weight.double().T + (0 if bias is None else bias.double())
    noise = 2e-7 * inner**0.5 * x.double().norm(dim=1, keepdim=True) * weight.double().norm(dim=1) + 2**-23 * expected.abs()
    assert ((got.double() - expected).abs() <= noise).all()
    alone = torch.cat([kernels.linear(row[None], packed, bias) for row in x[-7:]])
    assert torch.equal(got[-7:], alone)


@needs(torch.float32)
def test_float32_products_are_the_same_bits_on_avx2_and_avx512(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where both can run; the result is then the same on any x86 machine that has one of them."""
    weight, bias = normal(192, 949, seed=1, dtype=torch.float32), normal(192, seed=2, dtype=torch.float32)
    some = [normal(rows, 949, dtype=torch.float32) for rows in (1, 8, 17, 96, 97, 200)]
    packed = kernels.pack(weight)
    here = [kernels.linear(x, packed, bias) for x in some]
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    kernels.library.cache_clear()
    try:
        packed = kernels.pack(weight)
        assert packed.shape == (12, 949, 16)
        assert torch.equal(kernels.unpack(packed), weight)
        with on_threads(5):
            assert all(torch.equal(kernels.linear(x, packed, bias), y) for x, y in zip(some, here, strict=True))
    finally:
        kernels.library.cache_clear()


def reference(query: Tensor, keys: Tensor, values: Tensor, hidden: Tensor, scale: float) -> Tensor:
    """Plain attention in float64: query (rows, heads, queries, dim), keys (rows, heads, keys, dim)."""
    scores = query.double() @ keys.double().transpose(-1, -2) * scale
    return torch.softmax(scores.masked_fill(hidden, -torch.inf), dim=-1) @ values.double()


@needed
@settings(deadline=None, max_examples=60)
@given(
    rows=st.integers(1, 9),
    kv_heads=st.integers(1, 3),
    group=st.sampled_from([1, 3, 7]),
    queries=st.sampled_from([1, 1, 2, 17, 40]),
    dim=st.sampled_from([64, 128, 256]),
    prefix=st.sampled_from([0, 1, 63, 64, 300, 779]),
    own=st.integers(1, 150),
    seed=st.integers(0, 1000),
)
def test_attention_is_softmax_over_both_sets_of_keys(
    rows: int, kv_heads: int, group: int, queries: int, dim: int, prefix: int, own: int, seed: int
) -> None:
    """Decoding (each row sees so many of its own keys) and prefilling (causal), each over its own keys and a prefix."""
    decoding = queries == 1
    own = own if decoding else queries
    query = normal(rows, queries, kv_heads * group, dim, seed=seed).transpose(1, 2) * 2
    key, value = (normal(rows, own + 3, kv_heads, dim, seed=seed + i).transpose(1, 2)[:, :, :own] for i in (1, 2))
    prefix_key, prefix_value = normal(1, kv_heads, prefix, dim, seed=seed + 3), normal(1, kv_heads, prefix, dim, seed=seed + 4)
    ends = torch.randint(1, own + 1, (rows,), generator=torch.Generator().manual_seed(seed)) if decoding else None
    seen = torch.arange(own) < ends[:, None] if decoding else torch.ones(queries, own, dtype=torch.bool).tril()
    seen = seen[:, None, None] if decoding else seen[None, None]

    # Every second row sees the prefix, the others another one of length 0.
    some, others = torch.arange(0, rows, 2), torch.arange(1, rows, 2)
    attention = kernels.Attention(query, dim**-0.5)
    attention.over(key, value, begins=True, finishes=False, ends=ends, causal=not decoding)
    attention.over(prefix_key, prefix_value, begins=False, finishes=True, rows=some)
    if len(others):
        attention.over(key[:1, :, :0], value[:1, :, :0], begins=False, finishes=True, rows=others)

    sees_prefix = (torch.arange(rows) % 2 == 0)[:, None, None, None].expand(rows, 1, queries, prefix)
    hidden = ~torch.cat([sees_prefix, seen.expand(rows, 1, queries, own)], dim=-1)
    keys, values = (
        torch.cat([a.expand(rows, -1, -1, -1), b], dim=2).repeat_interleave(group, dim=1)
        for a, b in ((prefix_key, key), (prefix_value, value))
    )
    expected = reference(query, keys, values, hidden, dim**-0.5).transpose(1, 2)
    # Weights and output are rounded to bfloat16; values are of the size of 1.
    assert (attention.out.double() - expected).abs().max() < 4 * ROUNDING
    assert (attention.out.double() - expected).square().mean().sqrt() < ROUNDING


def distance(logits: Tensor, expected: Tensor) -> float:
    return (logits.float() - expected).square().mean().sqrt().item()


@needs(torch.float32)
@pytest.mark.parametrize("family", ["qwen2", "llama", "gemma3", "phi3", "gpt_neox"])
def test_float32_model_by_kernels_writes_what_pytorch_writes(family: str) -> None:
    from conftest import tiny_model

    sizes = {"hidden_size": 128, "intermediate_size": 192, "num_attention_heads": 2}
    plain, packed = tiny_model(family, **sizes), tiny_model(family, **sizes)
    cpu.prepare(packed.model)
    packed = LoadedModel(family, packed.model, packed.tokenizer, anatomy(packed.model))
    assert packed.kernels == "compiled" and all(map(cpu.is_compiled, packed.anatomy.down))
    assert packed.weight_hash() == plain.weight_hash()
    texts = [f"3 + {i} = 7 and so {i}" for i in range(7)]
    got, expected = (Engine(model).generate(texts, max_new_tokens=6) for model in (packed, plain))
    assert [c.token_ids for c in got] == [c.token_ids for c in expected]
    ids = torch.randint(3, 90, (5, 33), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        assert torch.allclose(packed.model(ids).logits, plain.model(ids).logits, atol=1e-5)


@needed
@pytest.mark.parametrize("family", ["qwen2", "llama", "gemma3", "phi3", "gpt_neox"])
def test_model_by_kernels_is_as_near_to_float32(family: str) -> None:
    """A tiny model of the kernels' sizes against the same weights in float32: PyTorch's bfloat16 is no nearer."""
    from conftest import tiny_model

    sizes = {"hidden_size": 128, "intermediate_size": 192, "num_attention_heads": 2}
    sizes |= {"head_dim": 64} if family == "gemma3" else {}
    plain = tiny_model(family, dtype=torch.bfloat16, **sizes)
    packed = tiny_model(family, dtype=torch.bfloat16, **sizes)
    exact = tiny_model(family, **sizes)
    exact.model.load_state_dict({name: weight.float() for name, weight in plain.model.state_dict().items()})
    cpu.prepare(packed.model, "compiled")
    packed = LoadedModel(family, packed.model, packed.tokenizer, anatomy(packed.model))
    assert packed.kernels == "compiled" and all(map(cpu.is_compiled, packed.anatomy.down))
    assert packed.weight_hash() == plain.weight_hash() == exact.weight_hash(torch.bfloat16)
    assert torch.equal(packed.anatomy.norms, plain.anatomy.norms)
    ids = torch.randint(3, 90, (5, 33), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = exact.model(ids).logits
        assert distance(packed.model(ids).logits, expected) <= 1.1 * distance(plain.model(ids).logits, expected)

    recorder = ActivePoles(packed.anatomy, k=4, keep_steps=True)
    engine = Engine(packed)
    completions = engine.generate([f"3 + {i} = 7 and so {i}" for i in range(7)], max_new_tokens=6, recorder=recorder)
    assert engine.shares_prefix(20)
    for i, completion in enumerate(completions):
        index, coefficient = recorder.steps[i]
        assert index.shape == (completion.steps, packed.anatomy.layers, 4)
        assert coefficient.isfinite().all() and (coefficient != 0).all()


@needed
@pytest.mark.parametrize("family", ["qwen2", "gpt_neox"])
def test_engine_by_kernels_is_near_float32(family: str) -> None:
    """Prefilling and decoding over a shared prefix: each step's logits against those of float32 on the same tokens."""
    from conftest import tiny_model

    sizes = {"hidden_size": 128, "intermediate_size": 192, "num_attention_heads": 2}
    loaded, exact = tiny_model(family, dtype=torch.bfloat16, **sizes), tiny_model(family, **sizes)
    exact.model.load_state_dict({name: weight.float() for name, weight in loaded.model.state_dict().items()})
    cpu.prepare(loaded.model, "compiled")
    loaded = LoadedModel(family, loaded.model, loaded.tokenizer, anatomy(loaded.model))
    engine, prompts = Engine(loaded), [[5] * 70 + [3 + (7 * i + 5 * row) % 90 for i in range(9 + row)] for row in range(5)]
    work = Work(0, Job(()), prompts, common=70)
    tokens = torch.tensor([7, 9, 11, 13, 15])
    with torch.inference_mode(), engine.passes.hooks([]):
        table = SharedTable(engine.passes, 5, 20)
        rows = work.rows()
        got = [table.admit(deque(rows)), table.decode(tokens)]
        ids = [prompts[row.number] for row in rows]
        more = [[*i, int(t)] for i, t in zip(ids, tokens)]
        for logits, sequences in zip(got, (ids, more)):
            expected = torch.stack([exact.model(torch.tensor([s])).logits[0, -1] for s in sequences])
            plain = torch.stack([loaded.model(torch.tensor([s])).logits[0, -1] for s in sequences])
            assert distance(logits, expected) <= 1.2 * distance(plain, expected)


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=True)


PREPARED = """
import torch, transformers
from cotscope.lm import cpu
sizes = {"hidden_size": 128, "intermediate_size": 192, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 64}
config = transformers.Qwen2Config(**sizes, num_key_value_heads=2)
for dtype in (torch.bfloat16, torch.float32):
    for wanted in ("auto", "compiled"):
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype)
        try:
            cpu.prepare(model, wanted)
            print(cpu.is_compiled(model.model.layers[0].mlp.down_proj))
        except ValueError as error:
            print(error)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("lacking", "why", "said"),
    [
        (
            {"PATH": ""},
            ["there is no C compiler (cc)"] * 2,
            ["no compiled kernels, so the engine is slower: there is no C compiler (cc)"] * 2,
        ),
        # What PyTorch is told not to use, we don't.
        ({"ATEN_CPU_CAPABILITY": "default"}, ["this CPU has no AVX512-BF16", "this CPU has no AVX2"], []),
    ],
)
def test_without_them(tmp_path: Path, lacking: dict[str, str], why: list[str], said: list[str]) -> None:
    """By themselves models take PyTorch's kernels then; who asks for ours gets an error."""
    got = run_python(PREPARED, COTSCOPE_CACHE=str(tmp_path), **lacking)
    lines = got.stdout.splitlines()
    assert lines[::2] == ["False", "False"]
    assert all(line.startswith("compiled kernels can't run this model here; expected AVX512-BF16") for line in lines[1::2])
    if all(kernels.missing(dtype) is None for dtype in (torch.bfloat16, torch.float32)):
        assert [f"got {w}. Take the kernels" in line for w, line in zip(why, lines[1::2])] == [True, True]
        assert got.stderr.splitlines() == said


@needs(torch.float32)
@pytest.mark.slow
def test_a_cpu_with_avx2_alone_has_those_for_float32(tmp_path: Path) -> None:
    got = run_python(PREPARED, COTSCOPE_CACHE=str(tmp_path), ATEN_CPU_CAPABILITY="avx2").stdout.splitlines()
    assert got[0] == "False" and "this CPU has no AVX512-BF16" in got[1]
    assert got[2:] == ["True", "True"]


def test_models_that_they_do_not_take() -> None:
    from conftest import tiny_model

    for dtype in ("float32", "bfloat16", "float16"):
        with pytest.raises(ModelError, match=rf"got \(32, 48\) in {dtype}, cpu"):
            cpu.prepare(tiny_model("qwen2", dtype=getattr(torch, dtype)).model, "compiled")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_pytorch_means_all_of_it(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    """Products and attention: none is ours where a model wants PyTorch's."""
    from conftest import tiny_model

    sizes = {"hidden_size": 128, "intermediate_size": 192, "num_attention_heads": 2}
    loaded = tiny_model("qwen2", dtype=dtype, **sizes)
    cpu.prepare(loaded.model, "pytorch")
    loaded = LoadedModel("qwen2", loaded.model, loaded.tokenizer, anatomy(loaded.model))
    assert loaded.kernels == "pytorch"
    monkeypatch.setattr(kernels, "library", lambda dtype: pytest.fail("a compiled kernel was called"))
    Engine(loaded).generate(["3 + 4", "3 + 5"], max_new_tokens=4, recorder=ActivePoles(loaded.anatomy, k=4))


@pytest.mark.slow
@needed
def test_compiled_once(tmp_path: Path) -> None:
    times = []
    for _ in range(2):
        assert run_python(PREPARED, COTSCOPE_CACHE=str(tmp_path)).stdout.split() == ["True"] * 4
        made = sorted((tmp_path / "kernels").iterdir())
        assert [m.suffix for m in made] == [".so", ".so"]
        times.append([m.stat().st_mtime_ns for m in made])
    assert times[0] == times[1]
