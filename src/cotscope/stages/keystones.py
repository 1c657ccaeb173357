"""Keystones: neurons whose removal alone breaks the model, whatever they stand for.

A few neurons carry the massive activations that attention sinks rest on (Sun et al. 2024, arXiv:2402.17762; Yu et al.
2024, arXiv:2411.07191). A set that holds one does damage that says nothing about its concept, so they are looked for
before any set is disrupted, in every layer, and left out of the reasoning set and of all controls.

Screening: the largest update size of each neuron over a general text, relative to the median of its layer. The first 24,
and the first reasoning neurons, are then zeroed one at a time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..data.load import general_text
from ..records import Neuron
from ..runs.files import fingerprint
from ..runs.options import NoOptions
from ..runs.session import Session
from ..runs.stage import Stage
from ..runs.tables import ANNOTATIONS, KEYSTONES

if TYPE_CHECKING:
    from torch import Tensor

TOKENS = 192  # of the general text
SCREENED = 24  # neurons that are tried, of all
SCREENED_REASONING = 4  # and of the reasoning neurons
KEYSTONE_KL = 0.1
"""Nats by which a keystone's removal moves the next-token distribution, on average over the text; set before the run.

On the default model no neuron reaches it: a random one moves the distribution by 0.0005 (rounding), the reasoning set of
hundreds by 0.03, the neuron of the largest update alone by 0.033, two thirds of it at the first token.
"""
UNITS = {
    "keystones.kl": f"mean over {TOKENS} tokens of general text of KL(untouched ‖ neuron zeroed), nats; keystone: at least "
    f"{KEYSTONE_KL}",
    "keystones.perplexity_ratio": "perplexity of that text with the neuron zeroed over that of the untouched model",
    "keystones.relative_update_size": "a neuron's largest update size over the median of its layer's neurons' largest",
}


def keystones(session: Session, options: NoOptions) -> str:
    """Run the stage. Neurons that were tried are not tried again."""
    run = session.run
    reasoning = {
        Neuron(r["layer"], r["index"]) for r in run.rows("SELECT DISTINCT layer, index FROM annotations WHERE accepted")
    }
    of = fingerprint(TOKENS, SCREENED, SCREENED_REASONING, KEYSTONE_KL, sorted(reasoning))
    if run.done("keystones", of) is None:
        run.write(KEYSTONES, _try(session, reasoning), of=of)
    rows = run.rows("SELECT * FROM keystones")
    found = [r for r in rows if r["keystone"]]
    among = [r for r in found if r["reasoning"]]
    run.summarise(
        "keystones",
        {
            "found": len(found),
            "reasoning": len(among),
            "tried": len(rows),
            "largest_kl": max(r["kl"] for r in rows),
            "threshold": KEYSTONE_KL,
            "neurons": [[r["layer"], r["index"]] for r in found],
        },
    )
    if among:
        which = ", ".join(f"layer {r['layer']} neuron {r['index']} (KL {r['kl']:.2f})" for r in among)
        run.note(f"Without this neuron alone the model breaks; it is left out of the reasoning set: {which}.")
    if among and len(among) == len(reasoning):
        run.note("All reasoning neurons are keystones: there is nothing left to disrupt.")
    return f"{len(found)} of {len(rows)} neurons break the model when they alone are zeroed"


def _try(session: Session, reasoning: set[Neuron]) -> list[dict[str, Any]]:
    """One row per neuron that was zeroed alone, the largest KL first."""
    from ..lm.interventions import scale
    from ..lm.scoring import text_scores

    loaded = session.loaded
    text = _first_tokens(session)
    sizes = _largest_updates(session, text)
    relative = sizes / sizes.median(dim=1, keepdim=True).values.clamp_min(1e-12)
    order = sorted(
        (Neuron(layer, index) for layer, row in enumerate(relative.tolist()) for index in range(len(row))),
        key=lambda n: (-float(relative[n.layer, n.index]), n),
    )
    chosen = dict.fromkeys(order[:SCREENED])
    chosen |= dict.fromkeys([n for n in order if n in reasoning][:SCREENED_REASONING])
    trials = {"untouched": None} | {str(n): scale(loaded.anatomy, [n], 0.0) for n in chosen}
    with session.bar("keystones", len(trials), "neuron") as bar:
        scores = text_scores(loaded, text, trials, bar.update)
    rows = [
        {
            "layer": n.layer,
            "index": n.index,
            "kl": scores[str(n)].kl,
            "perplexity_ratio": scores[str(n)].perplexity / scores["untouched"].perplexity,
            "max_update_size": float(sizes[n.layer, n.index]),
            "relative_update_size": float(relative[n.layer, n.index]),
            "keystone": not scores[str(n)].kl < KEYSTONE_KL,  # a model that says no numbers any more is broken too
            "reasoning": n in reasoning,
        }
        for n in chosen
    ]
    return sorted(rows, key=lambda r: (-r["kl"], r["layer"], r["index"]))


def _first_tokens(session: Session) -> str:
    """The beginning of the general text that has TOKENS tokens, or what there is."""
    words = general_text().split(" ")
    fewest, most = 1, len(words)
    while fewest < most:  # the most words that fit
        middle = (fewest + most + 1) // 2
        if len(session.loaded.encode(" ".join(words[:middle]))) <= min(TOKENS, session.loaded.context):
            fewest = middle
        else:
            most = middle - 1
    return " ".join(words[:fewest])


def _largest_updates(session: Session, text: str) -> Tensor:
    """The largest update size (layers, neurons) of each neuron over the tokens of a text."""
    import torch

    from ..lm.hooks import coefficient_hooks

    loaded = session.loaded
    largest = torch.zeros(loaded.anatomy.layers, loaded.anatomy.width)

    def observe(layer: int, m: Tensor) -> None:
        sizes = m.detach().reshape(-1, m.shape[-1]).abs().amax(dim=0).float() * loaded.anatomy.norms[layer].float()
        largest[layer] = sizes.cpu()

    ids = torch.tensor([loaded.encode(text)], device=loaded.model.device)
    with torch.inference_mode(), coefficient_hooks(loaded.anatomy, None, observe):
        loaded.model(input_ids=ids)
    return largest


STAGE = Stage(
    "keystones",
    "ablate",
    "find neurons whose removal alone breaks the model, to leave them out of every set",
    keystones,
    after=("annotate",),
    reads=(ANNOTATIONS,),
    writes=(KEYSTONES,),
    units=UNITS,
    chosen_by={"--outcomes": {"keystones": {}}},
    always=True,
)
