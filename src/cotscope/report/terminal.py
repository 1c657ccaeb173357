"""The headline of a run as a few lines of plain text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def headline(summary: Mapping[str, Any]) -> str:
    """What a terminal shows after a stage: the sets' accuracies, then the prompts. Parts that have not run are absent."""
    lines: list[str] = []
    neurons, ablation, prompts = (summary.get(key, {}) for key in ("neurons", "ablation", "prompts"))
    if "total" in neurons:
        by_concept = ", ".join(f"{name} {count}" for name, count in neurons["by_concept"].items())
        lines += [f"{neurons['total']} reasoning neurons ({by_concept})", ""]
    if ablation:
        n = summary["baseline"]["n"]
        lines.append(f"{'zeroed':34}{'accuracy':>9}  {f'(n = {n})':18}{'perplexity':>10}")
        for label, entry, interval in (
            ("nothing", ablation["none"], summary["baseline"]["ci"]),
            ("reasoning neurons", ablation["reasoning"], ablation["reasoning"]["ci"]),
            (f"matched random, mean of {len(ablation['matched_each'])}", ablation.get("matched_mean"), None),
            ("unmatched random, mean", ablation.get("unmatched_mean"), None),
        ):
            if entry is not None:
                lines.append(
                    f"{label:34}{entry['accuracy']:>9.3f}  {_interval(interval):18}{entry['perplexity']:>10.1f}"
                )
        sets = len(ablation["matched_each"])
        lines += [
            f"permutation p among the matched sets: {ablation['p_value']:.3f} (least possible {1 / (sets + 1):.3f})",
            "",
        ]
    if damage := summary.get("damage"):
        lines.append(f"{'specific damage (reasoning less matched sets)':46}{'change':>7}  95 % interval")
        for name, entry in damage["specific"].items():
            label = "other skills" if name == "battery" else name
            lines.append(f"{label:46}{entry['change']:>+7.3f}  {_interval([entry['low'], entry['high']])}")
        lines.append("")
    if prompts:
        lines.append(f"{'prompt':34}{'accuracy':>9}  {'95 % interval':18}{'active poles/token':>18}")
        for name, p in prompts.items():
            lines.append(f"{name:34}{p['accuracy']:>9.3f}  {_interval(p['ci']):18}{p['own_activity']:>18.2f}")
    study = summary.get("correlation", {})
    for what, found in (("prompts", study), *((w, study.get(w) or {}) for w in ("variants", "sentences"))):
        if found.get("spearman") is not None:
            lines.append(
                f"Spearman over {found['prompts']} {what}: {found['spearman']:.2f} "
                f"{_interval(found['ci'])}, p = {found['p_value']:.3f}"
            )
    return "\n".join(lines)


def _interval(bounds: list[float] | None) -> str:
    return "" if not bounds or None in bounds else f"[{bounds[0]:.3f}, {bounds[1]:.3f}]"
