"""A first study in Python: find the neurons of a concept, zero them, look at the strongest ones with SQL.

    python examples/first_study.py                                               # the default model, 16 built-in problems
    python examples/first_study.py --model Qwen/Qwen2.5-1.5B --out runs/larger   # any hub id, local folder or .gguf file
    python examples/first_study.py --concept equality --out runs/here

The default model is the one that `make setup` installs (`cotscope models --install qwen2.5-coder-0.5b`). Stop the script
when you like: given again with the same --out, it goes on where it was.
"""

from __future__ import annotations

import argparse
from typing import Any

import cotscope

SMALL = {
    "data": "builtin",  # word problems that cotscope makes up, with worked solutions
    "limit": 16,  # problems to test on
    "discover_limit": 20,  # other problems, in which to look for neurons
    "discover_prompts": 2,  # the full chain-of-thought prompt, and one with formulas only
    "given": 8,  # reference solutions that the model is made to write
    "battery": 4,  # items per task of the other skills
}
"""Enough to see the tool at work, not for a claim: intervals of 16 problems are wide. `limit=192, matched=20` are for one."""

# A pole is a neuron (layer, index) with the sign of its coefficient. Its strength: how often it was active, times how large
# its update of the residual stream then was. Tables: src/cotscope/runs/tables.py.
STRONGEST = """
    SELECT layer, index, sign, steps, mean_update_size, promoted[:8] AS promoted
    FROM poles JOIN (SELECT DISTINCT layer, index, sign FROM annotations WHERE accepted AND concept = ?)
         USING (layer, index, sign)
    ORDER BY steps * mean_update_size DESC, layer, index, sign
    LIMIT 8
"""


def first_study(out: str, concept: str = "", **options: Any) -> cotscope.Run:
    """Run three stages and print what they found.

    Args:
        out: the run folder.
        concept: whose poles to print; empty: the concept with the most neurons.
        options: of the study and of these stages, as `cotscope study --help` lists them, with _ for -.
    """
    # 1. Let the model solve the discovery problems, and note which poles are active when it is right. Those that promote at
    #    least two tokens of a concept ("+", " plus", " add") are its candidates.
    run = cotscope.discover(out, **options)
    print(f"{run.summary['neurons']['active_poles']} active poles, {run.summary['neurons']['candidates']} candidates")

    # 2. An annotator says which candidates stand for their concept. The lexicon accepts all of them; a language model reads
    #    them one by one (docs/judge.md).
    run = cotscope.annotate(run.folder, annotator="lexicon")
    by_concept = run.summary["neurons"]["by_concept"]
    print(f"{run.summary['neurons']['total']} reasoning neurons: {by_concept}")

    # 3. Zero them while the model solves the test problems, and beside them random sets that are as often and as strongly
    #    active. What zeroing them breaks beyond such sets is specific to them; that is not yet what they are for
    #    (docs/findings.md).
    run = cotscope.ablate(run.folder)
    ablation = run.summary["ablation"]
    print(f"accuracy {run.summary['baseline']['accuracy']:.3f} untouched, {ablation['reasoning']['accuracy']:.3f} without them")
    if ablation.get("matched_mean"):
        print(f"accuracy {ablation['matched_mean']['accuracy']:.3f} without as many matched random neurons, on average")

    # 4. Everything that was measured is in tables: ask them anything.
    concept = concept or max(by_concept, key=by_concept.get)
    if concept not in by_concept:
        raise SystemExit(f"there is no concept {concept!r}; expected one of {', '.join(by_concept)}")
    print(f"\nThe strongest poles of {concept}:")
    for pole in run.query(STRONGEST, [concept]).to_pylist():
        tokens = " ".join(repr(token) for token in pole["promoted"])
        print(f"layer {pole['layer']:2} neuron {pole['index']:5} {'+' if pole['sign'] > 0 else '−'}  {tokens}")
    print(f"\nReport: {run.folder / 'report.html'}")
    return run


def main() -> None:
    """Read the arguments and run the study."""
    parser = argparse.ArgumentParser(description="A first study with cotscope.")
    parser.add_argument("--model", default="qwen2.5-coder-0.5b", help="a name that `cotscope models` lists, or a hub id")
    parser.add_argument("--out", default="runs/example", help="the run folder")
    parser.add_argument("--concept", default="", help="whose strongest poles to print")
    arguments = parser.parse_args()
    try:
        first_study(arguments.out, arguments.concept, model=arguments.model, **SMALL)
    except cotscope.UserError as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
