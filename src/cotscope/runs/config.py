"""What defines a study. Options of a single stage stand beside that stage (`stages/`)."""

from __future__ import annotations

from dataclasses import dataclass

from ..data.load import DEFAULT_LIMIT
from ..lm.models import DEFAULT_MODEL
from ..records import Prompt
from .options import check_all, option

STUDY = "study"  # where a command asks for problems: the study's own


@dataclass(frozen=True)
class StudyConfig:
    """What defines a study: the same in the same folder goes on where it stopped, anything else is another study."""

    model: str = option(DEFAULT_MODEL, "a name that `cotscope models` lists, a hub id, a local folder or a .gguf file")
    data: str = option("builtin", 'problems: a .json or .jsonl file, "builtin", "gsm8k" or a hub id with split syntax')
    prompt_files: tuple[str, ...] = option(
        (), "a ready prompt; may be given several times, the ablation is under the first", flag="--prompt-file", kind="path"
    )
    exemplars: str | None = option(None, "a TOML file of structured exemplars to derive all prompts from", kind="path")
    concepts: str = option("arithmetic", "a TOML concept file, or the name of a packaged set")
    limit: int = option(DEFAULT_LIMIT, "test problems: the first N of the data", kind="positive")
    discover_limit: int | None = option(
        None, "discovery problems, taken after the test problems (default: as many, at most 96)", kind="positive"
    )
    tune_limit: int | None = option(
        None, "tuning problems, of those that neither test nor discovery took (default: as many as discovery)", kind="positive"
    )
    given: int = option(
        24, "test problems, the first ones, with a reference solution: the model is made to write it", kind="positive"
    )
    max_new_tokens: int = option(120, "tokens to generate at most per problem", kind="positive")
    zero_shot_tokens: int = option(400, "the same under prompts without exemplars, if that is more", kind="positive")
    k: int = option(10, "active poles per layer and step", kind="positive")
    promoted: int = option(20, "promoted tokens per pole", kind="positive")
    projection: str = option(
        "norm", "norm (with the final norm's weight) or raw (as the paper's code)", choices=("norm", "raw")
    )
    first_layer_fraction: float = option(
        6 / 32, "skip the first layers, as a fraction of depth (default 0.1875, the paper's 6 of 32)", kind="share"
    )
    seed: int = option(0, "seed of everything that is drawn", kind="natural")
    dtype: str = option(
        "auto", "of the weights; auto: what this machine multiplies fastest", choices=("auto", "bfloat16", "float32", "float16")
    )
    kernels: str = option(
        "auto", "whose kernels multiply on a CPU; auto: compiled ones where there can be any",
        choices=("auto", "compiled", "pytorch"),
    )  # fmt: skip

    def __post_init__(self) -> None:
        check_all(self)

    def new_tokens(self, prompt: Prompt) -> int:
        """Tokens to generate at most under a prompt. Without exemplars the model writes at length."""
        return self.max_new_tokens if prompt.prefix else max(self.max_new_tokens, self.zero_shot_tokens)
