"""Models for the tests: tiny random ones of many families, and the default model itself (`model` marker)."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")  # before torch looks: what tests compute beside a model is on the CPU

import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models

from cotscope.data.answers import parse_flexible
from cotscope.data.numbers import format_number
from cotscope.lm.engine import Engine
from cotscope.lm.families import anatomy
from cotscope.lm.loading import LoadedModel, load_model
from cotscope.lm.models import DEFAULT_MODEL, resolve
from cotscope.predicting import classifier, trees
from cotscope.records import Completion
from cotscope.runs.folder import Run
from cotscope.runs.progress import digest
from cotscope.runs.tables import Table

transformers.utils.logging.disable_progress_bar()


_MODEL = re.compile(
    r"^pytestmark = pytest\.mark\.model$|^@pytest\.mark\.model\n(?:@.*\n|[ )].*\n)*def (test_\w+)", re.MULTILINE
)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Tests of one module share a worker, and with it the module's finished run; those marked `model` share one too, so
    that the default model is loaded once. (What xdist 3.8 does with its own marks it does not do under pytest 9.2.) Modules
    with slow tests come first: what begins late and takes long keeps one worker busy while the others wait."""
    if config.getoption("dist") != "loadgroup":
        return None
    from xdist.scheduler import LoadScopeScheduling

    class ByModule(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file, _, name = nodeid.partition("::")
            return "model" if {"", name.partition("[")[0]} & of_model(file) else file

        def _assign_work_unit(self, node: Any) -> None:
            self.workqueue.move_to_end(min(self.workqueue, key=turn), last=False)  # the first of equals: more tests
            super()._assign_work_unit(node)

    @cache
    def turn(scope: str) -> int:
        if scope == "model":
            return 0
        return 1 if "pytest.mark.slow" in (config.rootpath / scope).read_text(encoding="utf-8") else 2

    @cache
    def of_model(file: str) -> set[str]:
        return set(_MODEL.findall((config.rootpath / file).read_text(encoding="utf-8")))

    return ByModule(config, log)


@pytest.fixture(scope="module")
def few_choices() -> Iterator[None]:
    """Fewer strengths and trees to choose from, which is most of the time; `tests/predicting` has them all."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(classifier, "STRENGTHS", (0.1, 1.0))
        patch.setattr(classifier, "DEPTHS", (1,))
        for module in (classifier, trees):
            patch.setattr(module, "COUNTS", (5, 10))
        patch.setattr(trees, "COUNT", 10)
        yield


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny model, which goes on until it is cut, counts as having ended: what it writes can be learned from."""
    generate = Engine.generate

    def ended(self: Engine, *args: Any, **how: Any) -> list[Completion]:
        return [replace(c, finish="stop") for c in generate(self, *args, **how)]

    monkeypatch.setattr(Engine, "generate", ended)


_SHAPE = {
    "vocab_size": 128,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_GPT2 = {
    "vocab_size": 128,
    "n_embd": 32,
    "n_layer": 3,
    "n_head": 4,
    "n_positions": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
FAMILIES: dict[str, tuple[str, dict]] = {
    "qwen2": ("Qwen2", _SHAPE | {"num_key_value_heads": 2}),
    "qwen3": ("Qwen3", _SHAPE | {"num_key_value_heads": 2, "head_dim": 16}),
    "qwen3_5": ("Qwen3_5Text", _SHAPE | {
        "num_key_value_heads": 2, "head_dim": 16, "linear_num_value_heads": 4, "linear_num_key_heads": 2,
        "linear_key_head_dim": 8, "linear_value_head_dim": 8,
        "layer_types": ["linear_attention", "full_attention", "linear_attention"],
    }),
    "llama": ("Llama", _SHAPE | {"num_key_value_heads": 1}),
    "mistral_sliding": ("Mistral", _SHAPE | {"num_key_value_heads": 2, "sliding_window": 40}),
    "gemma2": ("Gemma2", _SHAPE | {"num_key_value_heads": 2, "head_dim": 8, "sliding_window": 40}),
    "gemma3": ("Gemma3Text", _SHAPE | {"num_key_value_heads": 2, "head_dim": 8, "sliding_window": 40}),
    "olmo2": ("Olmo2", _SHAPE | {"num_key_value_heads": 2}),
    "cohere": ("Cohere", _SHAPE | {"num_key_value_heads": 2, "logit_scale": 0.25}),
    "granite": ("Granite", _SHAPE | {"num_key_value_heads": 2, "logits_scaling": 3.0, "residual_multiplier": 0.5}),
    "phi": ("Phi", _SHAPE),
    "phi3": ("Phi3", _SHAPE | {"num_key_value_heads": 2}),
    "gpt_neox": ("GPTNeoX", _SHAPE),
    "gpt2": ("GPT2", _GPT2),
    "opt": ("OPT", {k: v for k, v in _SHAPE.items() if k != "intermediate_size"} | {"ffn_dim": 48, "word_embed_proj_dim": 32}),
    "falcon_alibi": ("Falcon", {k: v for k, v in _SHAPE.items() if k != "intermediate_size"} | {"alibi": True}),
}  # fmt: skip


_QUICK = ("falcon_alibi", "gemma2", "gpt2", "qwen2")  # each unlike the others


def each_family(*without: str) -> list[Any]:
    """For `parametrize`: every family; in the quick tests, four of them."""
    return [pytest.param(f, marks=() if f in _QUICK else pytest.mark.slow) for f in sorted(FAMILIES) if f not in without]


class CharacterTokenizer:
    """One token per character; ids 3… are the characters from U+0020 on."""

    eos_token_id = 2
    model_max_length = 256

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        return {"input_ids": [1] * add_special_tokens + [3 + (ord(c) - 32) % 100 for c in text]}

    def decode(self, ids: list[int], skip_special_tokens: bool = False) -> str:
        return "".join(chr(32 + i - 3) for i in ids if i >= 3)


def tiny_model(family: str, seed: int = 0, dtype: torch.dtype = torch.float32, **sizes: int) -> LoadedModel:
    """A random model of a family. Its weights are large enough that greedy texts differ from prompt to prompt."""
    name, settings = FAMILIES[family]
    config = getattr(transformers, f"{name}Config")(**settings | sizes)
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype).eval().requires_grad_(False)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.25)
            else:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return LoadedModel(family, model, CharacterTokenizer(), anatomy(model))


@pytest.fixture(params=each_family())
def tiny(request: pytest.FixtureRequest) -> LoadedModel:
    """Each family's tiny random model in float32."""
    return tiny_model(request.param)


@pytest.fixture
def qwen() -> LoadedModel:
    """One tiny random model in float32."""
    return tiny_model("qwen2")


@pytest.fixture(scope="session")
def default_model() -> Callable[[str], LoadedModel]:
    """The default model in a dtype, loaded once."""
    loaded: dict[str, LoadedModel] = {}

    def get(dtype: str) -> LoadedModel:
        if dtype not in loaded:
            loaded.clear()
            loaded[dtype] = load_model(DEFAULT_MODEL, dtype=dtype)
        return loaded[dtype]

    return get


@pytest.fixture(scope="session")
def default_tokenizer() -> transformers.PreTrainedTokenizerBase:
    """The default model's tokenizer, without its weights."""
    return transformers.AutoTokenizer.from_pretrained(resolve(DEFAULT_MODEL))


CHARACTERS = "0123456789 \n.,:;?!'’\"()$%+-*/=ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def save_tiny_model(
    folder: Path, tokenizer: transformers.PreTrainedTokenizerFast, speak: Callable[[torch.Tensor], object], **settings: int
) -> None:
    """Write a model folder: a random Qwen2 with this tokenizer. `speak` scales rows of its unembedding, and with them how
    readily it writes their tokens; `settings` are of its configuration."""
    sizes = {"vocab_size": len(tokenizer), "max_position_embeddings": 8192}
    torch.manual_seed(4)
    config = transformers.Qwen2Config(**FAMILIES["qwen2"][1] | sizes | settings)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.3)
        speak(model.get_output_embeddings().weight)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@dataclass(frozen=True)
class AsWritten:
    """A task (`measuring/solutions.py: AskedTask`) whose prompts and answers are what its items say."""

    name: str
    items: tuple[tuple[str, str], ...]

    def prompt(self, item: tuple[str, str]) -> str:
        return item[0]

    def continuation(self, item: tuple[str, str]) -> str:
        return item[1]


@dataclass(frozen=True)
class TinyStudy:
    """A model folder and files with which a whole study takes seconds. The random model "solves" half of the problems:
    the answers were set to what it says."""

    model: str
    data: str
    prompt: str
    concepts: str

    def options(self) -> list[str]:
        return [
            "--model", self.model, "--data", self.data, "--prompt-file", self.prompt, "--concepts", self.concepts,
            "--limit", "8", "--dtype", "float32", "--max-new-tokens", "16", "--zero-shot-tokens", "24",
        ]  # fmt: skip


@pytest.fixture(scope="session")
def tiny_study(tmp_path_factory: pytest.TempPathFactory) -> TinyStudy:
    folder = tmp_path_factory.mktemp("tiny")
    vocabulary = {c: i for i, c in enumerate(["<pad>", "<bos>", "<eos>", *CHARACTERS])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<pad>"))
    tokenizer.decoder = decoders.Fuse()
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>"
    )

    def speak(head: torch.Tensor) -> None:
        head[3:13] *= 1.5  # digits
        head[:3] *= 0.1  # special tokens

    save_tiny_model(folder / "model", fast, speak)
    prompt = "Question: What is 1 and 2?\nLet's think step by step\nSo it is 1 + 2 = 3.\nThe answer is 3.\n"
    (folder / "plain.txt").write_text(prompt)
    (folder / "concepts.toml").write_text(
        'name = "digits"\n[[concept]]\nname = "small"\nseeds = ["0", "1", "2", "3", "4"]\n'
        '[[concept]]\nname = "large"\nseeds = ["5", "6", "7", "8", "9"]\n'
    )
    questions = [f"What is {i} and {i * 7 % 13}?" for i in range(20)]
    loaded = load_model(str(folder / "model"), dtype="float32")
    texts = [f"{prompt}\nQuestion: {q}\nLet's think step by step\n" for q in questions]
    said = [parse_flexible(c.text) for c in Engine(loaded).generate(texts, max_new_tokens=16, stop=("Question:",))]
    assert sum(s is not None for s in said) >= 12
    with (folder / "problems.jsonl").open("w") as file:
        for i, (question, number) in enumerate(zip(questions, said)):
            answer = 7 if number is None or i % 2 else format_number(number)
            solution = f"First {i} and {i * 7 % 13}.\nSo {i} + {i * 7 % 13} = {answer}.\n#### {answer}" if i % 4 else answer
            file.write(json.dumps({"id": f"p{i}", "question": question, "answer": solution}) + "\n")
    names = ("model", "problems.jsonl", "plain.txt", "concepts.toml")
    return TinyStudy(*(str(folder / name) for name in names))


def killed_after(part: str, command: list[str], folder: Path, count: int = 1) -> dict[str, str]:
    """Run a command on a folder and kill it once so many files whose names begin with `part` are done.

    Returns: the files that are done then, with their hashes.
    """
    process = subprocess.Popen([*command, str(folder)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    manifest, deadline = folder / "manifest.json", time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if manifest.exists() and sum(name.startswith(part) for name in json.loads(manifest.read_text())["files"]) >= count:
            break
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    return hashes(folder)


@contextmanager
def manifest_of(folder: Path) -> Iterator[dict[str, Any]]:
    """A run's manifest, to be changed in a test as if cotscope had written it so."""
    run = Run.open(folder)
    yield run.manifest
    run.save()


def hashes(folder: Path) -> dict[str, str]:
    """The files of a run, with the hashes of their content."""
    return {name: record["sha256"] for name, record in json.loads((folder / "manifest.json").read_text())["files"].items()}


def times(folder: Path, *tables: str) -> dict[str, int]:
    """When the parts of some tables were written, of all if none is named; a file that is not written again keeps it."""
    files = [p for p in (folder / "tables").rglob("*.parquet") if not p.name.startswith(".")]
    names = {str(p.relative_to(folder / "tables").with_suffix("")): p.stat().st_mtime_ns for p in files}
    return {n: at for n, at in names.items() if not tables or n.partition("/")[0] in tables}


def as_if_written(folder: Path, table: Table, rows: list[dict[str, Any]], part: str = "", unread: tuple[str, ...] = ()) -> Run:
    """Give a run's table other rows, as if its stages had written and read them; those of `unread` had read the old ones."""
    run = Run.open(folder)
    name = f"{table.name}/{part}" if part else table.name
    facts = {k: v for k, v in run.manifest["files"][name].items() if k not in ("sha256", "bytes", "rows")}
    run.write(table, rows, part, **facts)
    for stage, record in run.manifest["stages"].items():
        if stage not in unread:
            record["wrote"] = {n: run.manifest["files"][n]["sha256"] for n in record["wrote"]}
            record["read"] = {p: digest(run.manifest, p, run.whole) for p in record["read"]}
    run.save()
    return run


def flat(value: Any, path: str = "") -> dict[str, Any]:
    """Nested figures as one level: path → leaf."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else None
    return {path: value} if items is None else {k: v for i, part in items for k, v in flat(part, f"{path}.{i}").items()}


def assert_same(one: Any, other: Any) -> None:
    """Nested figures, or rows, are the same; numbers but for their last digits, which depend on how rows were batched."""
    one, other = flat(one), flat(other)
    assert one.keys() == other.keys()
    numbers = {k for k, v in one.items() if isinstance(v, float) and isinstance(other[k], float)}
    assert {k: other[k] for k in numbers} == pytest.approx({k: one[k] for k in numbers}, rel=1e-4, abs=1e-5, nan_ok=True)
    assert {k: v for k, v in other.items() if k not in numbers} == {k: v for k, v in one.items() if k not in numbers}
