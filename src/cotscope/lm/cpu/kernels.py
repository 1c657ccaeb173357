"""Compiled kernels: products in float32 on CPUs with AVX2, products and attention in bfloat16 on those with AVX512-BF16.

PyTorch's own leave half of a machine idle where it matters here: a product of few rows waits for memory and then
computes, and attention in bfloat16 reaches a third of the products' rate (docs/benchmarks.md). `float32.c` or
`bfloat16.c` is compiled by the machine's C compiler when a model is first loaded, and kept in the cache. Without a
compiler, on other CPUs, and in bfloat16 where there is AMX (which PyTorch uses well) everything runs on PyTorch alone.

Which models they run is `packing.py`'s to say; the functions here take any tensors of the right kind.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
from ctypes import POINTER, byref, c_double, c_int64, c_void_p
from pathlib import Path

import torch
from torch import Tensor

from ..models import cache_dir
from .rates import bfloat16_instructions

NO_INSTRUCTIONS = {torch.bfloat16: "this CPU has no AVX512-BF16", torch.float32: "this CPU has no AVX2"}
_FLAGS = ("-O3", "-fPIC", "-fopenmp", "-mfma", "-ffp-contract=fast")  # fast: products are added without being rounded
_WORD = {torch.bfloat16: torch.int32, torch.float32: torch.float32}  # what a packed matrix is made of: bfloat16 in pairs


class _Attention(ctypes.Structure):
    """`struct attention` of bfloat16.c."""

    _fields_ = [
        *((name, c_void_p) for name in ("query", "key", "value", "out", "state", "index", "ends")),
        *((name, c_int64) for name in ("count", "heads", "kv_heads", "queries", "dim", "keys")),
        *((f"{of}_{axis}", c_int64) for of in ("query", "key", "value") for axis in ("row", "head", "position")),
        *((name, c_int64) for name in ("shared", "causal", "begins", "finishes")),
        ("scale", c_double),
    ]


@functools.cache
def missing(dtype: torch.dtype) -> str | None:
    """Why this machine can't run the kernels of a dtype; None: it can, and they are compiled."""
    if dtype == torch.bfloat16:
        able = bfloat16_instructions() is not None and torch.cpu._is_avx512_bf16_supported()
    else:
        able = dtype == torch.float32 and torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
    if not able:
        return NO_INSTRUCTIONS.get(dtype, f"there are none for {str(dtype).removeprefix('torch.')}")
    try:
        library(dtype)
    except (OSError, subprocess.SubprocessError) as error:
        said = str(getattr(error, "stderr", None) or error).strip().splitlines()
        return said[0] if said else repr(error)
    return None


@functools.cache
def library(dtype: torch.dtype) -> ctypes.CDLL:
    """The compiled kernels of a dtype. Raises: OSError, SubprocessError."""
    if dtype == torch.bfloat16:
        flags = [f"-mavx512{name}" for name in ("f", "bw", "dq", "vl", "bf16")]
    else:
        flags = ["-mavx512f", "-DLANES=16"] if _columns(dtype) == 64 else ["-mavx2", "-DLANES=8"]
    found = ctypes.CDLL(str(_compiled(Path(__file__).with_name(f"{str(dtype).removeprefix('torch.')}.c"), flags)))
    found.linear.argtypes = [c_void_p] * 4 + [c_int64] * 3
    if dtype == torch.bfloat16:
        found.attend.argtypes = [POINTER(_Attention)]
    return found


def _compiled(source: Path, flags: list[str]) -> Path:
    """The shared library, compiled if the cache has none of this source."""
    flags = [*_FLAGS, *flags]
    digest = hashlib.sha256(source.read_bytes() + " ".join(flags).encode()).hexdigest()[:16]
    target = cache_dir() / "kernels" / f"{digest}.so"
    if target.is_file():
        return target
    compiler = shutil.which("gcc") or shutil.which("cc") or shutil.which("clang")
    if compiler is None:
        raise OSError("there is no C compiler (cc)")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".compiling-") as work:
        made, linked = Path(work) / "kernels.o", Path(work) / "kernels.so"
        subprocess.run([compiler, *flags, "-c", str(source), "-o", str(made)], check=True, capture_output=True, text=True)
        # Without -fopenmp here: its functions are those of the library that PyTorch has loaded, so both share threads.
        link = [compiler, "-shared", str(made), "-o", str(linked), "-lm"]
        subprocess.run(link, check=True, capture_output=True, text=True)
        ctypes.CDLL(str(linked))  # what can't be opened (clang's own threads, not PyTorch's) is not kept
        os.replace(linked, target)
    return target


def _columns(dtype: torch.dtype) -> int:
    """Columns of a block of a packed matrix."""
    return 16 if dtype == torch.float32 and torch.backends.cpu.get_cpu_capability() != "AVX512" else 64


def multiplies(weight: Tensor) -> bool:
    """Whether `linear` can take a weight (out, in). (Which sizes it can does not depend on the machine.)"""
    out, inner = weight.shape
    suits = weight.dtype in _WORD and weight.device.type == "cpu"
    return suits and out % 64 == 0 and inner * weight.dtype.itemsize % 4 == 0


def pack(weight: Tensor) -> Tensor:
    """A weight (out, in) as a packed matrix (out / columns, in or in / 2, columns): float32, or pairs of bfloat16 seen as
    one int32."""
    words = weight.contiguous().view(_WORD[weight.dtype])
    return words.view(-1, _columns(weight.dtype), words.shape[1]).transpose(1, 2).contiguous()


def unpack(packed: Tensor) -> Tensor:
    """A copy of the weight (out, in)."""
    return packed.transpose(1, 2).contiguous().view(_dtype(packed)).flatten(0, 1)


def _dtype(packed: Tensor) -> torch.dtype:
    return torch.float32 if packed.dtype == torch.float32 else torch.bfloat16


def linear(x: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
    """x (…, in) times a packed weight of its dtype, plus the bias: (…, out); sums are float32."""
    x, out, dtype = x.contiguous(), packed.shape[0] * packed.shape[2], _dtype(packed)
    inner = x.shape[-1]
    assert x.dtype == dtype and inner * dtype.itemsize == 4 * packed.shape[1], (x.dtype, x.shape, packed.shape)
    assert bias is None or (bias.dtype == dtype and bias.is_contiguous() and len(bias) == out)
    y = x.new_empty(*x.shape[:-1], out)
    library(dtype).linear(x.data_ptr(), packed.data_ptr(), _pointer(bias), y.data_ptr(), x.numel() // inner, inner, out)
    return y


def attends(query: Tensor, key: Tensor, value: Tensor) -> bool:
    """Whether `Attention` can take queries, keys and values (…, dim)."""
    return (
        query.shape[-1] == key.shape[-1] == value.shape[-1]
        and query.dtype == torch.bfloat16
        and query.device.type == "cpu"
        and query.shape[-1] % 64 == 0
    )


class Attention:
    """Softmax attention of some queries over one set of keys after another (FlashAttention's recurrence: Dao et al.
    2022, arXiv:2205.14135): scores, weights' sums and outputs are float32, weights are rounded to bfloat16.

    Args:
        query: (rows, heads, queries, dim), bfloat16.
        scale: what scores are multiplied by.
    """

    def __init__(self, query: Tensor, scale: float) -> None:
        rows, heads, queries, dim = query.shape
        self._query, self._scale = _dense(query), scale
        self._state = torch.empty(rows, heads, queries, dim + 2)
        self.out = query.new_empty(rows, queries, heads, dim)

    def over(
        self,
        key: Tensor,
        value: Tensor,
        *,
        begins: bool,
        finishes: bool,
        rows: Tensor | None = None,
        ends: Tensor | None = None,
        causal: bool = False,
    ) -> None:
        """Take in keys and values (rows or 1 for all, kv_heads, keys, dim).

        Args:
            begins, finishes: whether these are the queries' first keys, and their last: `out` (rows, queries, heads, dim)
                then stands.
            rows: the rows that see them, int64; None: all.
            ends: how many of the keys each row sees, at least 1, int64 (all rows,); None: all of them.
            causal: query p sees the keys 0…p.
        """
        query, state, key, value = self._query, self._state, _dense(key), _dense(value)
        arguments = _Attention(
            query.data_ptr(), key.data_ptr(), value.data_ptr(), self.out.data_ptr(), state.data_ptr(),
            _pointer(rows), _pointer(ends), len(query) if rows is None else len(rows), query.shape[1], key.shape[1],
            query.shape[2], query.shape[3], key.shape[2], *query.stride()[:3], *key.stride()[:3], *value.stride()[:3],
            len(key) == 1, causal, begins, finishes, self._scale,
        )  # fmt: skip
        library(torch.bfloat16).attend(byref(arguments))


def _dense(tensor: Tensor) -> Tensor:
    """With its last axis contiguous, as the kernels want it."""
    assert tensor.dtype == torch.bfloat16, tensor.dtype
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def _pointer(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()
