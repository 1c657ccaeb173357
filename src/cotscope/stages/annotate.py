"""Annotate: an annotator says which candidates stand for their concept; those are the reasoning neurons.

Its words on candidates and decoys are kept beside those of earlier annotators (`judgements`), so that they can be
compared (`audit`); the last one's are the run's annotations.
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from ..concepts.lexicon import Candidate
from ..errors import DiscoveryError, JudgeError, UserError
from ..judge.annotators import JudgeAnnotator, JudgeOptions, Setting, make_annotator
from ..judge.asking import Progress
from ..judge.audit import Item, figures, items
from ..judge.labels import read_labels, write_labels
from ..judge.lexicon import Annotator
from ..judge.prompts import NamingForm, group
from ..judge.question import Answer
from ..lm.models import cache_dir
from ..measuring.contexts import contexts, keep_contexts
from ..records import Annotation, Pole
from ..runs.files import fingerprint
from ..runs.folder import Run
from ..runs.options import flag_of, option
from ..runs.session import Session
from ..runs.stage import Stage
from ..runs.tables import ANNOTATIONS, AUDIT, CANDIDATES, CONTEXTS, JUDGEMENTS, NAMES, POLES

PEOPLE = "people"
UNITS = {
    "judge.decoys.*.rate": "share of blind decoys that the annotator accepted: its rate of false acceptances",
    "judge.retest.agreement": "share of candidates on which it said the same when their tokens stood in another order",
    "judge.agreement.*.kappa": "Cohen's kappa with another annotator over the cases that both answered, decoys included",
}


@dataclass(frozen=True)
class Options:
    """Options of the stage; those of a judge are fields of `JudgeOptions`, where their defaults stand."""

    annotator: str = option(
        "lexicon",
        "lexicon, llm (an OpenAI-compatible endpoint), local (a model in this process), or one that a package adds",
    )
    judge_model: str | None = option(
        JudgeOptions.model, "the model to ask: its name at the endpoint, or for local whatever --model takes"
    )
    judge_prompt: str = option(JudgeOptions.prompt, "cotscope, paper, or a text file with {tokens} and {question}", reads=True)
    judge_dtype: str = option(JudgeOptions.dtype, "of a local judge", choices=("auto", "bfloat16", "float32", "float16"))
    judge_timeout: float = option(
        JudgeOptions.timeout, "seconds to wait for a reply; servers on a CPU are slow", kind="seconds"
    )
    judge_max_tokens: int | None = option(
        JudgeOptions.max_tokens,
        "tokens to generate at most per pole; models that think aloud need thousands (default 400)",
        kind="positive",
    )
    max_cost: float | None = option(JudgeOptions.max_cost, "stop before this command costs more; needs prices", kind="amount")
    max_calls: int | None = option(JudgeOptions.max_calls, "stop after so many calls", kind="positive")
    price_in: float | None = option(JudgeOptions.price_in, "price of a million tokens sent", kind="amount")
    price_out: float | None = option(JudgeOptions.price_out, "price of a million tokens received", kind="amount")
    concurrency: int = option(JudgeOptions.concurrency, "calls at once", kind="positive")
    poles_per_call: int = option(JudgeOptions.poles_per_call, "poles of one concept that share a call", kind="positive")
    audit: int = option(JudgeOptions.audit, "blind decoys of either kind, and repeats, among the candidates", kind="natural")
    naming: int = option(JudgeOptions.naming, "name the N strongest active poles freely too", kind="natural")
    export_to: str | None = option(
        None,
        "write a CSV file for people to label (with --audit decoys) and annotate nothing",
        kind="path",
        flag="--export",
        where="command",
    )
    import_from: str | None = option(
        None, "read such a file back, for the audit", kind="path", flag="--import", where="command"
    )

    @property
    def judge(self) -> JudgeOptions:
        """What of them a judge is told."""
        names = {f.name for f in fields(self)}
        own = {f.name: f.name if f.name in names else f"judge_{f.name}" for f in fields(JudgeOptions)}
        return JudgeOptions(**{name: getattr(self, field) for name, field in own.items()})


def annotate(session: Session, options: Options) -> str:
    """Run the stage; this annotator's word replaces an earlier one's.

    Raises: UserError for an unknown annotator; JudgeError as a judge does (what it said so far is kept); DiscoveryError
    if nothing is accepted.
    """
    session.run.keep(JUDGEMENTS, _found(session.run))  # of other annotators, for the audit
    keep_contexts(session.run)
    session.run.keep(NAMES, _found(session.run))
    with session.bar("asking", 0, "call") as bar:

        def begin(calls: int) -> None:
            bar.total = (bar.total or 0) + calls
            bar.refresh()

        progress = Progress(lambda text: print(f"cotscope: {text}", file=sys.stderr), begin, bar.update)
        setting = Setting(_questions(session), options.judge, cache_dir() / "judge.sqlite", progress)
        maker = make_annotator(options.annotator, setting)
        if options.naming and not isinstance(maker, JudgeAnnotator):
            raise JudgeError(
                "--naming needs a model to ask",
                expected="--annotator llm or local",
                got=maker.name,
                remedy="Give one, or --naming 0.",
            )
        if options.annotator == "lexicon" and (unused := _unused(options)):
            given = f"The lexicon asks nobody: {', '.join(unused)}, given now or before, did nothing."
            session.run.note(f"{given} --annotator llm or local asks a model.")
        _annotate(session, maker, options.judge, plain=options.annotator == "lexicon")
    found = session.run.summary["neurons"]
    return f"{found['total']:,} reasoning neurons ({found['poles']:,} poles), accepted by {found['annotator']}"


def _unused(options: Options) -> list[str]:
    """Options that only a judge has, and that were given."""
    asked = [f for f in fields(options) if f.name not in ("annotator", "export_to", "import_from")]
    return [flag_of(f) for f in asked if getattr(options, f.name) != f.default]


def labels(session: Session, options: Options) -> str | None:
    """Write a file for people to label, or read one back; None if neither is asked for."""
    if options.export_to is not None:
        cases = _items(session, options.audit)
        return f"{write_labels(Path(options.export_to), cases, _questions(session))} cases in {options.export_to}"
    if options.import_from is not None:
        return _import(session, Path(options.import_from))
    return None


def _annotate(session: Session, maker: Annotator, options: JudgeOptions, plain: bool) -> None:
    """Ask about the candidates, and but for the `plain` lexicon about decoys; write what was said."""
    run = session.run
    cases = _items(session, 0 if plain else options.audit, described=not plain)
    try:
        said = maker.annotate([item.case for item in cases])
        if options.naming and isinstance(maker, JudgeAnnotator):
            _name(session, maker, options.naming)
    finally:
        if isinstance(maker, JudgeAnnotator):
            _book(session, maker)
    if not plain:
        rows = [{"id": item.id, "kind": item.kind} | _word(a) for item, a in zip(cases, said, strict=True)]
        run.write(JUDGEMENTS, rows, _part(maker.name), _found(run))
    kept = [a for item, a in zip(cases, said) if item.kind == "candidate"]
    _write(session, maker.name, kept)
    _audit(session)


# -- cases ------------------------------------------------------------------------------------------------------------


def _found(run: Run) -> str:
    """Of the poles and candidates that a word is on."""
    return fingerprint(*(run.manifest["files"][table.name]["sha256"] for table in (POLES, CANDIDATES)))


def _questions(session: Session) -> dict[str, str]:
    return {c.name: c.question for c in session.inputs.concepts.concepts}


def _items(session: Session, decoys: int, described: bool = True) -> list[Item]:
    """The candidates and decoys; `described`: with all that a judge is shown, which may run the model."""
    run = session.run
    rows = run.rows("SELECT * FROM candidates JOIN poles USING (layer, index, sign) ORDER BY layer, index, sign, concept")
    found = [_case(row, row["concept"], tuple(row["evidence"])) for row in rows]
    if described:
        found = _with_contexts(session, found)
    tokens = run.rows("SELECT DISTINCT token FROM (SELECT unnest(promoted || suppressed) AS token FROM poles) ORDER BY token")
    return items(found, session.inputs.concepts.concepts, [t["token"] for t in tokens], decoys, session.config.seed)


def _case(row: dict[str, Any], concept: str, evidence: tuple[str, ...] = ()) -> Candidate:
    return Candidate(
        Pole(row["layer"], row["index"], row["sign"]),
        concept,
        evidence,
        tuple(zip(row["promoted"], row["promoted_scores"])),
        tuple(zip(row["suppressed"], row["suppressed_scores"])),
    )


def _with_contexts(session: Session, cases: Sequence[Candidate]) -> list[Candidate]:
    where = contexts(session, {case.pole for case in cases})
    return [replace(case, contexts=where.get(case.pole, ())) for case in cases]


# -- words ------------------------------------------------------------------------------------------------------------


def _write(session: Session, name: str, kept: list[Annotation]) -> None:
    """An annotator's words on the candidates, as the run's annotations. Raises: DiscoveryError if it accepts none."""
    run, failed = session.run, sum(a.status == "failed" for a in kept)
    if failed:
        run.note(f"{failed} of {len(kept)} candidates got no usable reply from {name}; they {_FAILED}")
        print(f"cotscope: {failed} of {len(kept)} candidates got no usable reply; they {_FAILED}", file=sys.stderr)
    accepted = [a for a in kept if a.accepted]
    if not accepted:
        raise DiscoveryError(f"annotator {name} accepted none of {len(kept)} candidates", got=f"{failed} failed")
    kept.sort(key=lambda a: (a.pole, a.concept))
    run.write(ANNOTATIONS, [_word(a) for a in kept])
    by_layer = Counter(layer for layer, _ in {(a.pole.layer, a.pole.index) for a in accepted})
    by_concept = {c.name: len({a.pole[:2] for a in accepted if a.concept == c.name}) for c in session.inputs.concepts.concepts}
    run.summarise(
        "neurons",
        {
            "total": sum(by_layer.values()),
            "poles": len({a.pole for a in accepted}),
            "by_concept": by_concept,
            "by_layer": {str(layer): count for layer, count in sorted(by_layer.items())},
            "annotator": name,
            "failed": sum(a.status == "failed" for a in kept),
        },
    )


_FAILED = "are not accepted; the same command asks about them again."


def _word(a: Annotation) -> dict[str, Any]:
    word = {"accepted": a.accepted, "annotator": a.annotator, "status": a.status, "confidence": a.confidence}
    return {**a.pole._asdict(), "concept": a.concept} | word | {"description": a.description, "evidence": list(a.evidence)}


def _part(name: str) -> str:
    """A file name for an annotator, whatever its name holds."""
    return f"{re.sub(r'[^A-Za-z0-9.]+', '-', name)[:60].strip('.-')}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _book(session: Session, maker: JudgeAnnotator) -> None:
    """Add what this command used to what the run has used."""
    bills = session.run.manifest.setdefault("judge", {})
    before, bill = bills.get(maker.name, {}), maker.bill
    for key in ("calls", "timed_out", "tokens_in", "tokens_out", "cost"):
        if bill[key] is not None:
            bill[key] += before.get(key) or 0
    bills[maker.name] = bill
    session.run.save()


def _name(session: Session, maker: JudgeAnnotator, count: int) -> None:
    """Free names for the active poles with the largest update sizes in sum, candidates or not."""
    rows = session.run.rows(
        """SELECT *, steps * mean_update_size AS strength FROM poles
           ORDER BY strength DESC, layer, index, sign LIMIT ?""",
        [count],
    )
    cases = _with_contexts(session, [_case(row, "") for row in rows])
    words = maker.ask(NamingForm(), cases)
    session.run.write(
        NAMES,
        [
            {
                **case.pole._asdict(),
                "name": word.name if isinstance(word, Answer) else None,
                "concept": group(word.name) if isinstance(word, Answer) else None,
                "description": word.description if isinstance(word, Answer) else word.reason,
                "status": "answered" if isinstance(word, Answer) else "failed",
                "strength": row["strength"],
                "annotator": maker.name,
            }
            for row, case, word in zip(rows, cases, (words[i] for i in range(len(cases))))
        ],
        of=_found(session.run),
    )


_DECOYS = (100, 1_000, 10_000)


# -- people and the audit ---------------------------------------------------------------------------------------------


def _import(session: Session, file: Path) -> str:
    """People's answers, as one more annotator's; the annotations stay what they are."""
    said = read_labels(file)
    known: dict[str, Item] = {}
    for decoys in (len(said), *_DECOYS):  # of how many, the file does not say: rows that nobody filled in are left out
        if not said.keys() <= known.keys():
            known = {item.id: item for item in _items(session, decoys, described=False)}
    if unknown := sorted(set(said) - set(known)):
        raise UserError(
            f"{file} is not of this run", expected="ids that --export wrote", got=f"{len(unknown)} others, as {unknown[0]}"
        )
    rows = [
        {"id": i, "kind": known[i].kind} | _word(Annotation(known[i].case.pole, known[i].case.concept, accepted, PEOPLE))
        for i, accepted in said.items()
    ]
    session.run.write(JUDGEMENTS, rows, _part(PEOPLE), _found(session.run))
    _audit(session)
    return f"{len(rows)} labels of people taken into the audit"


def _audit(session: Session) -> None:
    """The audit's table, and as `summary.judge` the figures of the annotator whose word holds."""
    run = session.run
    if not (run.has(JUDGEMENTS) and run.has(ANNOTATIONS)):
        return
    [name] = [row["annotator"] for row in run.rows("SELECT DISTINCT annotator FROM annotations")]
    said = run.rows("SELECT * FROM judgements ORDER BY annotator, id")
    every = {j["id"]: j for j in said}.values()  # the lexicon's word on any case is known without asking
    said += [j | {"annotator": "lexicon", "accepted": j["kind"] in ("candidate", "repeat"), "status": "answered"}
             for j in every]  # fmt: skip
    rows = figures(said)
    run.write(AUDIT, rows)
    own = [j for j in said if j["annotator"] == name and j["kind"] == "candidate"]
    value = {"rate": "value", "n": "n", "accepted": "count"}
    decoys = {r["other"]: {k: r[v] for k, v in value.items()} | {"ci": [r["low"], r["high"]]} for r in rows
              if r["measure"] == "accepted" and r["annotator"] == name and r["other"] != "candidate"}  # fmt: skip
    retest = next((r for r in rows if r["measure"] == "retest" and r["annotator"] == name), None)
    agreement = {}
    for r in rows:
        if r["measure"] == "kappa" and name in (r["annotator"], r["other"]):
            other = r["other"] if r["annotator"] == name else r["annotator"]
            agreement[other] = {"kappa": r["value"], "ci": [r["low"], r["high"]], "n": r["n"], "same": r["count"]}
    run.summarise(
        "judge",
        {
            "annotator": name,
            "candidates": len(own),
            "accepted": sum(j["accepted"] for j in own),
            "failed": sum(j["status"] == "failed" for j in own),
            "decoys": decoys,
            "retest": retest and {"agreement": retest["value"], "ci": [retest["low"], retest["high"]], "n": retest["n"]},
            "agreement": agreement,
            **{k: run.manifest.get("judge", {}).get(name, {}).get(k) for k in ("calls", "tokens_in", "tokens_out", "cost")},
        },
    )


STAGE = Stage(
    "annotate",
    "annotate",
    "say which candidates stand for their concept",
    annotate,
    Options,
    after=("discover",),
    reads=(POLES, CANDIDATES, "completions/discovery."),
    writes=(ANNOTATIONS, JUDGEMENTS, AUDIT, NAMES, CONTEXTS),
    units=UNITS,
    repeats=True,
    instead=labels,
    instead_by=("export_to", "import_from"),
    instead_with=("audit",),
    example="cotscope annotate runs/first --annotator lexicon",
)
