"""The report's last part: what the run was."""

from __future__ import annotations

import json
import shlex
from typing import Any

from ..runs.stage import stale_because
from .reading import Reading, part
from .text import MISSING

_MOST_DUPLICATES = 50


def account(run: Reading) -> dict[str, Any]:
    """What the run was: its command, configuration, data, stages, versions and notes."""
    manifest = run.manifest
    data = part(manifest, "data")
    command = manifest.get("command") or ""
    duplicates = data.get("duplicates") or []
    return {
        "command": shlex.join(map(str, command)) if isinstance(command, list) else str(command),
        "k": part(manifest, "config").get("k"),
        "config": [(key, _plain(value)) for key, value in part(manifest, "config").items()],
        "prompts": manifest.get("prompts") or [],
        "stages": [
            (name, stale_because(found), stage.get("seconds"), stage.get("finding", "") if found.current else "")
            for name, stage in part(manifest, "stages").items()
            for found in [run.state(name)]
        ],
        "concepts": part(manifest, "concepts"),
        "seed": part(manifest, "config").get("seed", MISSING),
        "begun": manifest.get("begun") or MISSING,
        "seconds": sum(s["seconds"] for s in manifest.get("stages", {}).values()),
        "generate_s": part(run.summary, "timing").get("generate_s"),
        "version": part(manifest, "versions").get("cotscope", ""),
        "versions": list(part(manifest, "versions").items()),
        "schema": manifest.get("schema"),
        "duplicates": len(duplicates),
        "duplicates_shown": duplicates[:_MOST_DUPLICATES],
        "halved": data.get("halved"),
        "notes": run.notes,
        "units": [(key, str(value)) for key, value in part(manifest, "units").items()],
    }


def _plain(value: Any) -> str:
    """A value of the configuration as text: JSON for all but strings."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
