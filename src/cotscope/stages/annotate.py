"""Annotate: an annotator says which candidates stand for their concept; those are the reasoning neurons.

Reads: `candidates`. Writes: `annotations`.
"""

from __future__ import annotations

from collections import Counter

from ..errors import DiscoveryError, UserError
from ..judge.lexicon import ANNOTATORS, Candidate
from ..records import Pole
from ..session import Session


def annotate(session: Session, annotator: str = "lexicon") -> None:
    """Run the stage with the annotator of this name; its word replaces an earlier annotator's.

    Raises: UserError for an unknown annotator; DiscoveryError if it accepts nothing.
    """
    run = session.run
    run.require("discover", f"cotscope discover {run.folder}")
    if annotator not in ANNOTATORS:
        raise UserError("unknown annotator", expected=" or ".join(ANNOTATORS), got=annotator)
    with run.stage("annotate"):
        found = [
            Candidate(Pole(row["layer"], row["index"], row["sign"]), row["concept"], tuple(row["evidence"]))
            for row in run.rows("SELECT * FROM candidates")
        ]
        annotations = ANNOTATORS[annotator]().annotate(found)
        run.write_rows(
            "annotations",
            [
                {**a.pole._asdict(), "concept": a.concept, "accepted": a.accepted, "annotator": a.annotator}
                for a in annotations
            ],
        )
        accepted = [a for a in annotations if a.accepted]
        if not accepted:
            raise DiscoveryError(f"annotator {annotator} accepted none of {len(found)} candidates")
        by_layer = Counter(layer for layer, _ in {(a.pole.layer, a.pole.index) for a in accepted})
        run.summarise(
            "neurons",
            {
                "total": sum(by_layer.values()),
                "poles": len({a.pole for a in accepted}),
                "by_concept": {
                    c.name: len({a.pole[:2] for a in accepted if a.concept == c.name})
                    for c in session.concepts.concepts
                },
                "by_layer": {str(layer): count for layer, count in sorted(by_layer.items())},
                "annotator": annotator,
            },
        )
