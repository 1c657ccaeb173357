"""An edit: what a model's neurons are multiplied by, as a small file that makes, measures and applies.

m ← f·m + o of each neuron, m being its coefficient, f its factor and o its offset. A factor that holds at every token and
for either sign of m is a factor of the neuron's value vector, so it can be folded into the weights (`fold.py`).
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sized
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import EditError, RunError, shown
from ..records import Neuron, Pole, factors_of
from ..runs.files import read_json, write_text
from ..runs.notebook import dataframe, html_table
from .format import parsed, written

if TYPE_CHECKING:
    import pandas
    from transformers import PreTrainedModel

    from ..lm.families import Anatomy
    from ..lm.interventions import Intervention, Scope
    from ..lm.loading import LoadedModel

EDIT_FILE = "edit.json"
"""In the folder of an exported or trained model."""
_PROBE = "The answer to 12 + 3 is 15, and the sky is blue."
_SHOWN = 10  # neurons that a notebook shows
_SCOPES = ("all", "prompt", "generated")


def found_anywhere(source: str) -> str:
    """What a model is loaded as from whatever folder: a name or hub id as it is, a folder or file by its whole path."""
    from ..lm.models import MODELS

    local = os.path.expanduser(source)
    return os.path.abspath(local) if source not in MODELS and os.path.exists(local) else source


def check_new(to: Path, expected: str = "a new file") -> None:
    """Raises: EditError if an edit would be written over what is there, a link to nothing among it."""
    if to.exists() or to.is_symlink():
        raise EditError(f"{to} exists already", expected=expected, remedy="Give another one, or remove it.")


@dataclass(frozen=True)
class Base:
    """The model that an edit is of.

    Attributes:
        model: what it is loaded as: a name or hub id, or the whole path of a folder or file.
        weights: SHA-256 of its weights as bfloat16 (`LoadedModel.base_hash`), so that it is known in every dtype.
    """

    model: str
    weights: str
    layers: int
    neurons_per_layer: int

    @classmethod
    def of(cls, loaded: LoadedModel, source: str = "") -> Base:
        """The base that a loaded model is.

        Args:
            source: what it was loaded as; "": its name, which is a local folder's last part only.
        """
        anatomy, model = loaded.anatomy, found_anywhere(source) if source else loaded.name
        return cls(model, loaded.base_hash(), anatomy.layers, anatomy.width)


@dataclass(frozen=True)
class Edit:
    """Factors and offsets of neurons' coefficients.

    Attributes:
        factors: of positive and of negative coefficients; neurons that are absent keep theirs.
        offsets: what is added to coefficients.
        scope: at which tokens: "all", "prompt" (input tokens of the prompt) or "generated".
        chosen: how the neurons and factors were chosen; where a search or a training gained nothing, `nothing` says so, and the
            edit is the base: as a control's result it counts like any other.
        measured: what the edit was seen to do, by data (`cotscope evaluate`).
        weights: SHA-256, as the base's, of weights that the base was trained to have, in the edit's folder: then there are no
            factors.
    """

    name: str
    base: Base
    factors: Mapping[Neuron, tuple[float, float]]
    offsets: Mapping[Neuron, float] = field(default_factory=dict)
    scope: Scope = "all"
    chosen: Mapping[str, Any] = field(default_factory=dict)
    measured: tuple[Mapping[str, Any], ...] = ()
    weights: str = ""

    def __post_init__(self) -> None:
        """Raises: EditError for no name, no neurons, neurons that the base has not, or numbers that are not finite."""
        if not self.name.strip():
            raise EditError("an edit needs a name")
        changes = bool(self.factors or self.offsets), bool(self.weights)
        if all(changes) or any(changes) == self.nothing:
            raise EditError(
                f"edit {self.name} " + ("says two things of what it changes" if any(changes) else "changes nothing"),
                expected="at least one neuron with a factor or an offset, or weights of its own, not both",
            )
        if self.scope not in _SCOPES:
            raise EditError(f"edit {self.name}: unknown scope", expected=" or ".join(_SCOPES), got=shown(self.scope))
        layers, width = self.base.layers, self.base.neurons_per_layer
        for n, values in [*self.factors.items(), *((n, (o,)) for n, o in self.offsets.items())]:
            if not (0 <= n.layer < layers and 0 <= n.index < width):
                raise EditError(
                    f"edit {self.name} is of a neuron that its base has not",
                    expected=f"layers below {layers}, neurons below {width}",
                    got=f"layer {n.layer}, neuron {n.index}",
                )
            if not all(map(math.isfinite, values)):
                raise EditError(
                    f"edit {self.name}: layer {n.layer}, neuron {n.index}", expected="finite numbers", got=shown(values)
                )

    @classmethod
    def scaled(
        cls,
        name: str,
        base: Base,
        targets: Iterable[Neuron | Pole],
        factor: float,
        *,
        scope: Scope = "all",
        chosen: Mapping[str, Any] | None = None,
    ) -> Edit:
        """One factor for neurons (either sign) or poles (their sign only)."""
        return cls(name, base, factors_of(targets, factor), scope=scope, chosen=chosen or {})

    @property
    def nothing(self) -> bool:
        """Whether it is the result of a search or training that gained nothing."""
        return bool(self.chosen.get("nothing"))

    @property
    def neurons(self) -> tuple[Neuron, ...]:
        """Those that it changes, in order."""
        return tuple(sorted({*self.factors, *self.offsets}))

    @property
    def key(self) -> str:
        """Edits of one key do the same to a model."""
        return json.dumps([self.base.weights, self.scope, *self._numbers(), *filter(None, [self.weights])])

    def then(self, other: Edit) -> Edit:
        """This edit and after it another one, as one. Raises: EditError if their bases or scopes differ, or if the
        first changes a coefficient's sign where the second depends on it."""
        self.check_factors()
        other.check_factors()
        if other.base.weights != self.base.weights or other.scope != self.scope:
            raise EditError(
                f"edits {self.name} and {other.name} can't be put together",
                expected="one base and one scope",
                got=f"{self.base.model} ({self.scope}) and {other.base.model} ({other.scope})",
            )
        factors, offsets = dict(self.factors), dict(self.offsets)
        for n in other.neurons:
            (p, q), (f, g), o = factors.get(n, (1.0, 1.0)), other.factors.get(n, (1.0, 1.0)), offsets.get(n, 0.0)
            if f != g and (o != 0 or min(p, q) < 0):
                raise EditError(
                    f"edits {self.name} and {other.name} can't be put together as one",
                    expected="a first edit that keeps the signs of coefficients",
                    got=f"layer {n.layer}, neuron {n.index}, whose factors in the second depend on them",
                )
            factors[n] = p * f, q * g
            offsets[n] = o * f + other.offsets.get(n, 0.0)
        chosen = {"composed": [self.name, other.name]} | _made_with(self, other)
        if self.nothing and other.nothing:
            chosen["nothing"] = self.chosen["nothing"]
        return Edit(f"{self.name}+{other.name}", self.base, factors, _some(offsets), self.scope, chosen)

    def inverse(self) -> Edit:
        """What undoes it. Raises: EditError where a factor is 0, or depends on a sign that the edit changes."""
        self.check_factors()
        factors, offsets = dict[Neuron, tuple[float, float]](), dict[Neuron, float]()
        for n in self.neurons:
            (p, q), o = self.factors.get(n, (1.0, 1.0)), self.offsets.get(n, 0.0)
            if p == 0 or q == 0 or (p != q and (o != 0 or min(p, q) < 0)):
                raise EditError(
                    f"edit {self.name} can't be undone",
                    got=f"layer {n.layer}, neuron {n.index}: factors {p:g} and {q:g}, offset {o:g}",
                )
            factors[n] = 1 / p, 1 / q
            offsets[n] = -o / p
        chosen = {"inverse": self.name} | _made_with(self) | ({"nothing": self.chosen["nothing"]} if self.nothing else {})
        return Edit(f"{self.name}-undone", self.base, factors, _some(offsets), self.scope, chosen)

    def made_on(self, base: Edit) -> Edit:
        """It on a base that was itself made so: with the problems of both."""
        return replace(self, chosen={**self.chosen, **_made_with(self, base)})

    # -- applied -------------------------------------------------------------------------------------------------------

    def check(self, loaded: LoadedModel, weights: str = "") -> None:
        """Raise EditError if a loaded model is not the base, or says nothing finite with the edit.

        Args:
            weights: the model's hash as `Base.weights`, where it is known.
        """
        self._check_weights(weights or Base.of(loaded).weights, loaded.name, loaded.dtype_name)
        self._check_shape(loaded.anatomy)
        if not self.weights and not _finite(loaded, self.intervention(loaded.anatomy)):
            raise EditError(
                f"edit {self.name} breaks the model",
                expected=f"finite logits for {_PROBE!r} in {loaded.dtype_name}",
                got="NaN or infinite ones",
                remedy="Its factors or offsets are too large.",
            )

    def intervention(self, anatomy: Anatomy) -> Intervention:
        """It as the engine takes it."""
        from ..lm.interventions import rescale

        self.check_factors()
        return rescale(anatomy, self.factors, self.offsets, self.scope)

    def check_factors(self) -> None:
        if self.weights:
            raise EditError(
                f"edit {self.name} is weights, and no factors",
                remedy="Load its folder as any Hugging Face model, or give it to `cotscope evaluate --edit`.",
            )

    @contextmanager
    def applied(self, model: PreTrainedModel, *, known: bool = False) -> Iterator[None]:
        """Within the block, any transformers model runs edited, without cotscope's engine. Weights stay as they are;
        coefficients are changed in place, which PyTorch refuses to take gradients through behind some activations (ReLU).

        Args:
            known: the model is known to be the base, or is meant to be another of its shape: its weights are not hashed, which
                takes about two seconds per billion.

        Raises: EditError for another model, or for an edit that holds at some tokens only.
        """
        import torch

        from ..lm.families import anatomy
        from ..lm.hooks import coefficient_hooks
        from ..lm.loading import weight_hash

        found = anatomy(model)
        self._check_shape(found)
        if self.scope != "all":
            raise EditError(
                f"edit {self.name} holds for {self.scope} tokens only, which a plain model does not tell apart",
                remedy="Use cotscope's engine: `cotscope apply`.",
            )
        intervention = self.intervention(found)
        if not known:
            remedy = "To apply it all the same: `applied(model, known=True)`."
            if any(p.is_meta for p in model.parameters()):
                raise EditError(f"edit {self.name}: the model's weights are not in memory to be compared", remedy=remedy)
            self._check_weights(weight_hash(model, torch.bfloat16), "this one", str(model.dtype), remedy)
        with coefficient_hooks(found, intervention, None):
            yield

    def _check_weights(self, got: str, of: str, dtype: str, remedy: str = "") -> None:
        if got != self.base.weights:
            half = dtype.removeprefix("torch.") == "float16"
            rounded = "Weights below 6e-5 are others in float16: take bfloat16 or float32. " * half
            raise EditError(
                f"edit {self.name} is for another model",
                expected=f"{self.base.model} (weights {self.base.weights[:12]}…)",
                got=f"{of} (weights {got[:12]}…)",
                remedy=(rounded + remedy).strip(),
            )

    def _check_shape(self, found: Anatomy) -> None:
        wanted = self.base.layers, self.base.neurons_per_layer
        if (found.layers, found.width) != wanted:
            raise EditError(
                f"edit {self.name} is for another model",
                expected=f"{wanted[0]} layers of {wanted[1]} neurons",
                got=f"{found.layers} of {found.width}",
            )

    def with_measured(self, record: Mapping[str, Any]) -> Edit:
        """With what was measured, in place of what was of the same data, prompt, problems, dtype and weights."""

        def of(measured: Mapping[str, Any]) -> list[Any]:
            return [measured.get(k) for k in ("data", "data_sha256", "prompt", "n", "dtype", "asked")]

        kept = [m for m in self.measured if of(m) != of(record)]
        return replace(self, measured=(*kept, dict(record)))

    def frame(self) -> pandas.DataFrame:
        """Its neurons, by layer and index: factors of positive and of negative coefficients, offset. Raises: UserError without
        pandas."""
        import pyarrow as pa

        rows = [(*n, *self.factors.get(n, (1.0, 1.0)), self.offsets.get(n, 0.0)) for n in self.neurons]
        names = ("layer", "index", "positive", "negative", "offset")
        return dataframe(pa.table({name: [row[i] for row in rows] for i, name in enumerate(names)}))

    def _repr_html_(self) -> str:
        """What a notebook shows: the first neurons with their factors and offsets."""
        rows = [
            (n.layer, n.index, *(f"{f:g}" for f in self.factors.get(n, (1.0, 1.0))), f"{self.offsets.get(n, 0.0):g}")
            for n in self.neurons[:_SHOWN]
        ]
        more = f"{len(self.neurons) - _SHOWN} more; " * (len(self.neurons) > _SHOWN)
        chosen = ", ".join(f"{key} {_brief(value)}" for key, value in self.chosen.items())
        note = f"{more}scope {self.scope}; base {self.base.model}; chosen: {chosen or 'not recorded'}"
        return html_table(f"Edit {self.name}", ("layer", "neuron", "× where > 0", "× where < 0", "+"), rows, note)

    # -- the file ------------------------------------------------------------------------------------------------------

    def _numbers(self) -> tuple[list[list[float]], list[list[float]]]:
        factors = [[*n, p] if p == q else [*n, p, q] for n, (p, q) in sorted(self.factors.items())]
        return factors, [[*n, o] for n, o in sorted(self.offsets.items())]

    def text(self) -> str:
        """It as a file holds it: JSON."""
        about: dict[str, Any] = {"name": self.name, "base": vars(self.base), "scope": self.scope}
        if self.weights:
            about["weights"] = self.weights
        about |= {"chosen": dict(self.chosen), "measured": [dict(m) for m in self.measured]}
        return written(about, *self._numbers())

    def write(self, path: str | Path) -> None:
        """Write it as JSON; into a model's folder."""
        write_text(_file(path).resolve(), self.text())  # a link to a file stays one

    @classmethod
    def read(cls, path: str | Path) -> Edit:
        """Read an edit file, or that of a model's folder. Raises: EditError if it is none, or has unknown keys."""
        try:
            content = read_json(_file(path))
        except FileNotFoundError as error:
            raise EditError(f"there is no edit file {path}", remedy="`cotscope edit` makes one.") from error
        except (RunError, NotADirectoryError) as error:
            raise EditError(f"{path} is no edit file", expected="JSON as `cotscope edit` writes it", got=str(error)) from error
        return cls.parsed(content, str(path))

    @classmethod
    def parsed(cls, content: Mapping[str, Any], where: str = "the edit") -> Edit:
        """An edit from a file's content. Raises: EditError as `read`; `where` says of which file."""
        found = parsed(content, where)
        return cls(base=Base(**found.pop("base")), **found)


def _file(path: str | Path) -> Path:
    return Path(path) / EDIT_FILE if Path(path).is_dir() else Path(path)


def _finite(loaded: LoadedModel, intervention: Intervention) -> bool:
    """Whether logits are finite under an intervention, at whatever tokens it holds."""
    import torch

    from ..lm.hooks import coefficient_hooks

    ids = torch.tensor([loaded.encode(_PROBE)], device=loaded.model.device)
    with torch.inference_mode(), coefficient_hooks(loaded.anatomy, replace(intervention, scope="all"), None, ids):
        return bool(loaded.model(input_ids=ids).logits.isfinite().all())


def _made_with(*edits: Edit) -> dict[str, list[str]]:
    """The problems that any of them was made with, and their templates: `evaluate` refuses to test on those."""
    found = dict[str, list[str]]()
    for key in ("questions", "templates"):
        lists = [given for e in edits if isinstance(given := e.chosen.get(key), list | tuple)]
        if lists:
            found[key] = sorted({str(entry) for given in lists for entry in given})
    return found


def _brief(value: object) -> str:
    """A short value as it is, of a long one how many entries it has: the problems of a training are hundreds."""
    text = str(value)
    return text if len(text) <= 60 or isinstance(value, str) else f"({len(value)})" if isinstance(value, Sized) else text


def _some(offsets: Mapping[Neuron, float]) -> dict[Neuron, float]:
    return {n: o for n, o in offsets.items() if o != 0}
