"""A study that is being worked on: its inputs, its model, its run folder."""

from __future__ import annotations

import logging
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from ..data.load import PARTS
from ..records import Prompt
from ..stats.verdicts import RULE
from .config import StudyConfig
from .files import json_values
from .folder import Run
from .inputs import Inputs, prompt_hash
from .model import StudyModel
from .tables import PROBLEMS

if TYPE_CHECKING:
    from ..lm.engine import Engine
    from ..lm.loading import LoadedModel

log = logging.getLogger(__name__)


@dataclass
class Session:
    """What stages work with. Make it with `create` or `reopen`.

    Attributes:
        quiet: no progress bars.
    """

    inputs: Inputs
    model: StudyModel
    run: Run
    quiet: bool

    @classmethod
    def create(
        cls,
        config: StudyConfig,
        out: Path,
        *,
        options: Mapping[str, Mapping[str, Any]] | None = None,
        rows: int | None = None,
        quiet: bool | None = None,
        command: Sequence[str] = (),
        checks: Sequence[Callable[[Inputs, StudyModel], None]] = (),
    ) -> Session:
        """Begin a study, or go on with the same one. All input is read and checked before the folder is made.

        Args:
            options: by stage, those that are asked for; others stay what they are.
            rows: rows per batch; None chooses from the memory that is free, once per study.
            quiet: no progress bars; None: only on a terminal.
            command: what reproduces the study, for the manifest.
            checks: what must hold before the folder is made.
        """
        defaults = {f.name: f.default for f in fields(StudyConfig)}
        earlier = Run.begun(out, {"config": asdict(config)}, defaults)  # is refused before anything long
        began = None if earlier is None else dict(earlier.manifest["model"])
        inputs = Inputs(config, folder=out)
        model = StudyModel(inputs, began, rows)
        inputs.split  # noqa: B018  a fault in the data is said before the model is loaded
        prompts, concepts = inputs.prompts, inputs.concepts
        model.check(concepts)
        for check in checks:
            check(inputs, model)
        data, parts = inputs.data, inputs.split
        study = {
            "config": asdict(config),
            "model": model.described(),
            "data": {
                "source": data.source,
                "sha256": data.sha256,
                **{name: len(part) for name, part in parts.parts().items()},
                "duplicates": [list(pair) for pair in data.duplicates],
                "halved": parts.halved,
            },
            "concepts": {"source": concepts.source, "sha256": concepts.sha256},
            "prompts": [
                {"name": p.name, "source": p.source, "sha256": prompt_hash(p), "tokens": _tokens(model, p)} for p in prompts
            ],
        }
        run = Run.create(out, study, defaults)
        session = cls(inputs, model, run, _quiet(quiet))
        with run.writing():
            manifest = run.manifest
            manifest.setdefault("command", list(command))
            manifest.setdefault("cwd", str(Path.cwd()))
            if not manifest["stages"]:  # written down before anything is measured, or not at all
                manifest.setdefault("rules", {"phenomena": RULE})
            for stage, asked in (options or {}).items():
                manifest["options"].setdefault(stage, {}).update(json_values(dict(asked)))
            for section, keys in (("model", ("name", "weight_sha256", "parameters", "dtype", "kernels", "device")),
                                  ("data", ("source", "sha256", *PARTS))):  # fmt: skip
                run.summarise(section, {key: manifest[section][key] for key in keys})
            for note in inputs.notes():
                run.note(note)
            run.write(PROBLEMS, inputs.problem_rows())
            run.write_summary()
        return session

    @classmethod
    def reopen(cls, folder: Path, *, rows: int | None = None, quiet: bool | None = None) -> Session:
        """Work on a study that exists; the model is loaded only when something needs it."""
        run = Run.open(folder)
        known = {f.name for f in fields(StudyConfig)}
        stored = {k: v for k, v in run.manifest["config"].items() if k in known}
        config = StudyConfig(**stored | {"prompt_files": tuple(stored.get("prompt_files", ()))})
        config = _from_there(config, run.manifest.get("cwd"))
        inputs = Inputs(config, run.manifest, run.folder)
        return cls(inputs, StudyModel(inputs, run.manifest["model"], rows), run, _quiet(quiet))

    def with_model(self, source: str) -> Session:
        """This study with another model, in its dtype, on its kernels where they suit that, in batches as large."""
        kernels = self.run.manifest["model"]["kernels"]
        if kernels == "compiled":  # "auto" came to this for the study's model
            kernels = self.config.kernels
        return self._with(replace(self.config, model=source), {"kernels": kernels})

    def with_dtype(self, dtype: str) -> Session:
        """This study with its model in another dtype, on kernels and in batches that suit that."""
        kernels = "pytorch" if self.run.manifest["model"]["kernels"] == "pytorch" else "auto"
        config, settled = replace(self.config, dtype=dtype), {"dtype": dtype, "dtype_why": "asked for", "kernels": kernels}
        return self._with(config, settled, ("weight_sha256", "rows_per_batch"))

    def _with(self, config: StudyConfig, settled: dict[str, str], own: tuple[str, ...] = ("weight_sha256",)) -> Session:
        began = {k: v for k, v in self.run.manifest["model"].items() if k not in own} | settled
        return replace(self, model=StudyModel(Inputs(config), began, self.model.rows))

    # What stages ask for most often.

    @property
    def config(self) -> StudyConfig:
        return self.inputs.config

    @property
    def prompt(self) -> Prompt:
        """The first prompt: the one that discovery uses."""
        return self.inputs.prompts[0]

    @property
    def loaded(self) -> LoadedModel:
        return self.model.loaded

    @property
    def engine(self) -> Engine:
        return self.model.engine

    @property
    def first_layer(self) -> int:
        """The first layer that is looked at."""
        return int(self.config.first_layer_fraction * int(self.run.manifest["model"]["layers"]))

    def bar(self, what: str, total: int, unit: str) -> tqdm[Any]:
        """A progress bar with rate and time left; silent where the session is quiet."""
        columns, lines = shutil.get_terminal_size()  # 80 x 24 on a terminal that claims 0 x 0, where tqdm shows nothing
        return tqdm(total=total, desc=what, unit=unit, disable=self.quiet, leave=False, ncols=columns, nrows=lines)


def _tokens(model: StudyModel, prompt: Prompt) -> int:
    return len(model.loaded.encode(prompt.prefix)) if prompt.prefix else 0


def _quiet(quiet: bool | None) -> bool:
    return not sys.stderr.isatty() if quiet is None else quiet


def _from_there(config: StudyConfig, cwd: str | None) -> StudyConfig:
    """Relative paths that name nothing from here, but did from the folder in which the study was begun, as they are there."""
    if cwd is None:
        return config

    def found(path: str) -> str:
        other = os.path.join(cwd, path)
        return other if path and not os.path.lexists(path) and os.path.exists(other) else path

    return replace(
        config,
        model=found(config.model),
        data=found(config.data),
        exemplars=config.exemplars and found(config.exemplars),
        concepts=found(config.concepts),
        prompt_files=tuple(map(found, config.prompt_files)),
    )
