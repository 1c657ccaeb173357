"""Folding an edit into weights: a plain Hugging Face model that needs no cotscope.

A factor f of a neuron's coefficient, at every token and for either sign, is a factor of its value vector: Σ (f·m)·v =
Σ m·(f·v), which is (IA)³'s folding (Liu et al. 2022, arXiv:2205.05638) for single neurons. An offset o adds o·v at every
token: a bias, where the architecture has one.
"""

from __future__ import annotations

import glob
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import EditError, ModelError, RunError
from ..lm.families import Anatomy, anatomy, value_matrix
from ..lm.loading import DTYPES, load_model, weight_hash
from ..lm.models import resolve
from ..lm.reading import check_run, not_finite, read_config, read_tokenizer, read_weights
from ..runs.files import LOCK, full_disk_is_said, held
from .card import model_card
from .edit import EDIT_FILE, Edit
from .older import made_for_older

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ..lm.loading import LoadedModel
    from ..lm.trained import Merging

_ABANDONED = 3600  # seconds after which a folder that says of nobody that he holds it is nobody's
_SPARE = 1.02
"""Of the weights' bytes: the tokenizer and the rest take little."""


def foldable(edit: Edit, found: Anatomy | None = None) -> None:
    """Raise EditError, saying why, if an edit can't be folded into weights: those of an architecture, or any."""
    why = ""
    if edit.nothing:
        why = "it changes nothing"
    elif edit.weights:
        why = "it is weights already, in its folder"
    elif edit.scope != "all":
        why = f"it holds for {edit.scope} tokens only, and weights hold for all"
    elif signed := [n for n, (p, q) in edit.factors.items() if p != q]:
        n = signed[0]
        why = f"the factor of layer {n.layer}, neuron {n.index} depends on its coefficient's sign, and a value vector has one"
    elif found and (bare := [n for n in edit.offsets if _bias(found, n.layer) is None]):
        why = f"it has an offset in layer {bare[0].layer}, and this architecture's down-projections have no bias"
    if why:
        raise EditError(
            f"edit {edit.name} can't be folded into weights",
            got=why,
            remedy="Take that folder: it is a plain model." if edit.weights else "`cotscope apply` runs the model with it.",
        )


@torch.no_grad()
def fold(edit: Edit, model: PreTrainedModel) -> None:
    """Fold an edit into a model's weights, in place. Raises: EditError as `foldable`, or if a weight becomes infinite."""
    found = anatomy(model)
    foldable(edit, found)
    for layer in sorted({n.layer for n in edit.neurons}):
        columns = value_matrix(found.down[layer])
        offsets = [(n.index, o) for n, o in edit.offsets.items() if n.layer == layer]
        bias = _bias(found, layer)
        if offsets and bias is not None:
            index = torch.tensor([i for i, _ in offsets], device=columns.device)
            amounts = torch.tensor([o for _, o in offsets], device=columns.device, dtype=torch.float32)
            bias.copy_(bias.float() + columns[:, index].float() @ amounts)
        factors = [(n.index, p) for n, (p, _) in edit.factors.items() if n.layer == layer]
        if factors:
            index = torch.tensor([i for i, _ in factors], device=columns.device)
            by = torch.tensor([f for _, f in factors], device=columns.device, dtype=torch.float32)
            columns[:, index] = (columns[:, index].float() * by).to(columns.dtype)
    if infinite := not_finite(model.named_parameters()):
        raise EditError(f"edit {edit.name} makes weights infinite", got=infinite[0], remedy="Its factors are too large.")


def _bias(found: Anatomy, layer: int) -> Tensor | None:
    bias = getattr(found.down[layer], "bias", None)
    return bias if isinstance(bias, Tensor) else None


def export(
    edit: Edit | str | Path,
    to: str | Path,
    *,
    source: str = "",
    dtype: str = "",
    say: Callable[[str], object] = lambda text: None,
) -> Path:
    """Write the edited model as a Hugging Face folder: weights, configuration, tokenizer, model card, the edit itself.

    The folder appears whole or not at all. It is loaded again, and must say what the edited base says, before it does.

    Args:
        edit: one, or its file.
        source: the base, if it is elsewhere than where the edit was made.
        dtype: of the weights; empty: the one that the base's own files have.
        say: is told what happens.

    Raises: EditError if the edit can't be folded, is of another model, or the folder exists or has no room;
        ModelError as `load_model`.
    """
    to = Path(to)
    edit = edit if isinstance(edit, Edit) else Edit.read(edit)
    if to.exists() or to.is_symlink():
        raise EditError(f"{to} exists already", expected="a new folder", remedy="Give another one, or move it away.")
    foldable(edit)  # before a model is loaded for nothing
    remove_left(to)
    source = base_of(edit, source)
    say(f"loading {source}")
    folder = resolve(source)
    dtype = dtype or stored_dtype(source)
    if dtype not in DTYPES:
        raise ModelError("unknown dtype", expected=" or ".join(DTYPES), got=dtype)
    edit.check(base := load_model(source, dtype=dtype, kernels="pytorch"))
    foldable(edit, base.anatomy)
    check_room(to, base.parameters() * DTYPES[dtype].itemsize, "the exported model")
    del base  # before there is a second one
    model = read_weights(folder, source, DTYPES[dtype])
    with _in_float32(model), edit.applied(model, known=True):
        expected = _said(model)
    say(f"folding {len(edit.neurons)} neurons into {dtype} weights")
    fold(edit, model)
    exported = {"weights": weight_hash(model, torch.bfloat16), "dtype": dtype}
    edit = replace(edit, chosen={**edit.chosen, "exported": exported})
    _write(model, edit, to, source, dtype, expected, say, exact=True)
    return to


def base_of(edit: Edit, source: str = "") -> str:
    """What an edit's base is loaded from: `source`, or else what it was made on. Raises: EditError if that is gone."""
    model = source or edit.base.model
    if not source and Path(model).is_absolute() and not Path(model).exists():
        raise EditError(f"the base of edit {edit.name} is not where it was", got=f"no {model}",
                        remedy="Say where it is: --model MODEL.")  # fmt: skip
    return model


def stored_dtype(source: str) -> str:
    """The dtype of a model's files; float32 if it is one that models are not loaded in."""
    stored = str(getattr(read_config(resolve(source), source), "dtype", None)).removeprefix("torch.")
    return stored if stored in DTYPES else "float32"


def round_to(model: PreTrainedModel, dtype: str) -> None:
    """Take away from weights what another dtype can't hold, in place; they keep their own."""
    for p in model.parameters():
        p.data = p.data.to(DTYPES[dtype]).to(p.dtype)


def export_trained(
    trained: Merging,
    loaded: LoadedModel,
    edit: Edit,
    to: Path,
    dtype: str,
    say: Callable[[str], object],
    written: Callable[[Edit], Edit],
) -> Edit:
    """Merge what was trained into a model's weights and write it as a Hugging Face folder, as `export`, in a dtype.

    Args:
        edit: how it was made; its `weights` are not known yet.
        written: adds to the edit what the model is with the weights that are written, in the dtype in which it was trained.

    Returns: the edit that is in the folder.
    """
    with trained.applied():
        expected = _said(loaded.model)
    say(f"merging it into {dtype} weights")
    trained.merge()
    _compare(edit, expected, _said(loaded.model), loaded.dtype_name)
    round_to(loaded.model, dtype)
    edit = written(replace(edit, weights=loaded.weight_hash(torch.bfloat16)))
    loaded.model.to("cpu")  # type: ignore[arg-type]  # where what is written is looked at: a GPU rounds at other places
    for p in loaded.model.parameters():  # and no buffer: frequencies of positions stay in float32, as when it is loaded
        p.data = p.data.to(DTYPES[dtype])
    _write(loaded.model, edit, to, edit.base.model, dtype, _said(loaded.model), say)
    return edit


def _write(
    model: PreTrainedModel,
    edit: Edit,
    to: Path,
    source: str,
    dtype: str,
    expected: Tensor,
    say: Callable[[str], object],
    exact: bool = False,
) -> None:
    """Write a model, whose weights are gone then, the base's tokenizer, the edit and a card, and check that it says what is
    expected.

    Args:
        exact: `expected` is computed in float32.
    """
    folder = resolve(source)
    with suppress(EditError):  # a base that was itself made with problems, if it says so in a file of ours
        edit = edit.made_on(Edit.read(Path(folder) / EDIT_FILE))
    to.parent.mkdir(parents=True, exist_ok=True)
    with _part_of(to) as temporary:
        say(f"writing {to}")
        with full_disk_is_said(to):
            model.save_pretrained(temporary)
        read_tokenizer(folder, source).save_pretrained(temporary)
        made_for_older(temporary)
        edit.write(temporary / EDIT_FILE)
        card = model_card(edit, source, Path(folder), dtype)
        (temporary / "README.md").write_text(card, encoding="utf-8", errors="backslashreplace")
        say("checking that it says what the edited model says")
        model.to("meta")  # type: ignore[arg-type]  # there is room for what is read again
        again = read_weights(str(temporary), to.name, DTYPES[dtype])
        check_run(again, read_tokenizer(str(temporary), to.name), to.name)
        with _in_float32(again) if exact else nullcontext():
            _compare(edit, expected, _said(again), dtype)
        temporary.chmod(0o755)
        temporary.rename(to)
        (to / LOCK).unlink(missing_ok=True)  # held until now, so that no other process takes it for one that is left


@contextmanager
def _part_of(to: Path) -> Iterator[Path]:
    """A hidden folder beside a place, held, to be written and then renamed; it is removed if the block fails."""
    temporary = Path(tempfile.mkdtemp(dir=to.parent, prefix=_beginning(to), suffix=".part"))
    try:
        with held(temporary):
            yield temporary
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def remove_left(to: Path) -> None:
    """Remove what processes that were killed while they wrote to the same place have left: gigabytes, and hidden."""
    for part in to.parent.glob(f"{glob.escape(_beginning(to))}{'?' * 8}.part"):  # as many as `mkdtemp` adds
        with suppress(RunError, OSError):
            if (part / LOCK).exists() or time.time() - part.stat().st_mtime > _ABANDONED:
                with held(part) as alone:  # else another process is writing it
                    if alone or time.time() - _last_written(part) > _ABANDONED:
                        shutil.rmtree(part)


def _last_written(part: Path) -> float:
    """When a file in it was changed last, but for its lock."""
    return max((p.stat().st_mtime for p in part.rglob("*") if p.name != LOCK), default=part.stat().st_mtime)


def _beginning(to: Path) -> str:
    return f".{to.name[:100]}-"


@contextmanager
def _in_float32(model: PreTrainedModel) -> Iterator[None]:
    """Compute in float32 with the weights that a model has. In 16 bits a factor of a coefficient and one of its value vector
    are rounded at other places, by which some models (SmolLM2) say quite other things."""
    stored = [(p, p.dtype) for p in model.parameters()]
    try:
        for p, _ in stored:
            p.data = p.data.float()
        yield
    finally:
        for p, dtype in stored:
            p.data = p.data.to(dtype)  # as they were: float32 holds every number of 16 bits


@torch.inference_mode()
def _said(model: PreTrainedModel) -> Tensor:
    """Logits at some tokens."""
    return model.eval()(input_ids=torch.arange(1, 33, device=model.device)[None]).logits.float().cpu()


def _compare(edit: Edit, expected: Tensor, got: Tensor, dtype: str) -> None:
    # Root mean square, in the logits' spread: weights are rounded, and where there are many logits one is far off.
    bound = 1e-3 if dtype == "float32" else 0.05
    off = float((expected - got).square().mean().sqrt() / expected.std().clamp_min(1e-6))
    if not off <= bound:
        raise EditError(
            f"the exported model does not say what edit {edit.name} does",
            expected=f"logits that differ by at most {bound:g} of their spread (root mean square)",
            got=f"{off:.3g}",
            remedy="Export it in float32 (`--dtype float32`)." if dtype != "float32" else "Please report this.",
        )


def check_room(to: Path, size: int, what: str) -> None:
    """Raise EditError if so many bytes have no room beside a place."""
    place = next(p for p in (to.absolute(), *to.absolute().parents) if p.exists())
    needed = int(_SPARE * size)
    if (free := shutil.disk_usage(place).free) < needed:
        raise EditError(
            f"there is no room for {what} at {to}",
            expected=f"{needed / 1e9:.2f} GB",
            got=f"{free / 1e9:.2f} GB free",
            remedy="Free some, or give a place on another disk.",
        )
