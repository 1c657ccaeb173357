"""The headline of a run as a few lines of plain text."""

from __future__ import annotations

from collections.abc import Mapping
from textwrap import wrap
from typing import Any

from ..stats import ARITHMETIC, in_words
from .damage import CLAIMS, specific

_BESIDE = (("all candidates", "lexicon"), ("rejected candidates", "rejected"))

_PUSH = {
    "indirect": "zeroed, own push put back",
    "direct": "own push taken away only",
    "bias": "bias on operators and = instead",
}


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
            ("those with a counterpart", _part_of(ablation), ablation.get("comparable", {}).get("ci")),
            (f"matched random, mean of {len(ablation['matched_each'])}", ablation.get("matched_mean"), None),
            ("unmatched random, mean", ablation.get("unmatched_mean"), None),
            *((label, ablation[key], ablation[key]["ci"]) for label, key in _BESIDE if ablation.get(key)),
        ):
            if entry is not None:
                lines.append(f"{label:34}{entry['accuracy']:>9.3f}  {_interval(interval):18}{entry['perplexity']:>10.1f}")
        for way in _PUSH:
            if entry := summary.get("push", {}).get(way):
                lines.append(f"{_PUSH[way]:34}{entry['accuracy']:>9.3f}  {_interval([entry['low'], entry['high']])}")
        least = 1 / (len(ablation["matched_each"]) + 1)
        if ablation["p_value"] is not None:
            lines.append(f"rank p among the matched sets: {ablation['p_value']:.3f} (least possible {least:.3f})")
        lines.append("")
    if damage := summary.get("damage"):
        if beyond := specific(summary):  # without matched sets nothing is
            lines.append(f"{'specific damage (reasoning less matched sets)':46}{'change':>7}  95 % interval")
        for row in beyond:
            lines.append(f"{row['label']:46}{row['change']:>+7.3f}  {_interval([row['low'], row['high']])}")
        found = damage["headline"]
        lines += [f"verdict: {found['verdict']}", *wrap(in_words(found["verdict"], damage.get("skill", ARITHMETIC)), 96)]
        for claim, words in CLAIMS.items():
            if held := found[claim]:
                lines.append(f"p = {held['p_value']:.3f}, beyond other tokens {held['p_beyond']:.3f} ({words})")
        lines.append("")
    if selected := summary.get("selected"):
        lines += _selected(selected)
    if placebo := summary.get("placebo"):
        claims = {"matters": placebo, "pushes": placebo["claims"]["pushes"]}
        said = (f"“{claim}” in {of['said']} of {of['runs']} runs {_interval(of['ci'])}" for claim, of in claims.items())
        lines += [f"calibration: the rule said of neurons that should not {', '.join(said)}", ""]
    if prompts:
        lines.append(f"{'prompt':34}{'accuracy':>9}  {'95 % interval':18}{'active poles/token':>18}")
        for name, p in prompts.items():
            lines.append(f"{name:34}{p['accuracy']:>9.3f}  {_interval(p['ci']):18}{p['own_activity']:>18.2f}")
    study = summary.get("correlation", {})
    for what, found in (("prompts", study), *((w, study.get(w) or {}) for w in ("variants", "sentences"))):
        lines += _correlation(what, found)
    if phenomena := summary.get("phenomena"):
        lines += [
            "",
            f"{'change from the first prompt':34}{'accuracy':>9}  {'detectable':18}{'active poles/token':>18}  verdict",
        ]
        for name, row in phenomena.items():
            needs = f" (at least {least} problems)" if (least := row.get("verdict_needs")) else ""
            lines.append(
                f"{name:34}{row['accuracy_change']:>+9.3f}  {row['detectable']:<18.3f}{row['activity_change']:>+18.2f}  "
                f"{row['verdict']}{needs}"
            )
    return "\n".join(lines)


def _selected(summary: Mapping[str, Any]) -> list[str]:
    """Ways of choosing neurons: what results lose without them, what random sets like them lose, sums, accuracy."""
    lines = [f"{'neurons chosen':34}{'results, indirect':>17}{'':20}{'random':>7}{'sums':>7}{'accuracy':>10}"]
    for name, row in summary.items():
        if not isinstance(row, Mapping) or row.get("result_margin_indirect") is None:
            continue
        margin = "result_margin_indirect"
        random = f"{row['controls_margin']:>+7.2f}" if row.get("controls_margin") is not None else f"{'':7}"
        accuracy = f"{row['accuracy']:>10.3f}" if row.get("accuracy") is not None else ""
        bounds = row.get(f"{margin}_low"), row.get(f"{margin}_high")
        ends = "" if None in bounds else f"[{bounds[0]:+.2f}, {bounds[1]:+.2f}]"  # one solution has none
        lines.append(
            f"{name + ' (' + str(row['neurons']) + ')':34}{row[margin]:>+17.2f}  {ends:18}{random}{row['sums']:>7.2f}{accuracy}"
        )
    return [*lines, "(logit margin in nats, the neurons' own push put back)", ""]


def _correlation(what: str, found: Mapping[str, Any]) -> list[str]:
    """Within kinds where the prompts have kinds; nothing where it could not be computed."""
    within = found.get("within")
    own = within or found
    if own.get("spearman") is None:
        return []
    where = f"within the {found.get('kinds', 'different')} kinds of" if within else "over"
    key = "permuted_within" if within else "permuted"
    said = f"Spearman {where} {found['prompts']} {what}: {own['spearman']:.2f}"
    if own["p_value"] is None:
        return [f"{said}, of too few to tell"]
    said += f" {_interval([own['low'], own['high']] if within else found['ci'])}, p = {own['p_value']:.3f}"
    return [said + (f"; share of permuted sets as high {found[key]['p_value']:.3f}" if found.get(key) else "")]


def _part_of(ablation: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The comparable set's figures, where it is not the whole reasoning set."""
    return ablation.get("comparable") if ablation.get("target") == "comparable" else None


def _interval(bounds: list[float] | None) -> str:
    return "" if not bounds or None in bounds else f"[{bounds[0]:.3f}, {bounds[1]:.3f}]"
