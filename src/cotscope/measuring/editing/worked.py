"""Worked problems: what a model is trained on, as text and as tokens.

They are none that the study tests or discovers on. A solution is the data's own, or, where the data has answers only, what the
model itself wrote when it was right (STaR's first round, Zelikman et al. 2022, arXiv:2203.14465; where it is sampled, rejection
sampling, Yuan et al. 2023, arXiv:2308.01825).
"""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...data.answers import is_right, written_answer
from ...data.load import load_problems
from ...data.rows import question_key
from ...errors import UserError, shown
from ...predicting.templates import masked, templates
from ...prompts.derive import render_solution
from ...prompts.shown import shows
from ...records import Problem, Prompt
from ...runs.config import STUDY
from ...runs.files import fingerprint, write_text
from ...runs.session import Session

if TYPE_CHECKING:
    from ...lm.loading import LoadedModel

_BLANK = "\n\n"
_BLANKS = re.compile(r"\n(?:[ \t\r]*\n)+")
_TEMPERATURE = 0.7
_WRITTEN = 48  # problems that the model writes solutions to at once


def tuning_problems(session: Session, data: str, say: Callable[[str], object] = lambda text: None) -> list[Problem]:
    """Problems that the study neither tests nor discovers on and does not show as exemplars, and that the model's context holds
    with what is written to them, or with their solution; how many are left out is said.

    Raises: UserError if the data has no other.
    """
    inputs = session.inputs
    every: Sequence[Problem] = inputs.split.tuning
    used = set[str]()
    if data != STUDY:
        every = load_problems(data, session.config.seed).problems
        used = {question_key(p.question) for p in (*inputs.split.test, *inputs.split.discovery)}
    if not every:
        raise UserError(
            "the study has no tuning problems: it tests and discovers on all", remedy="Give others: --train-on FILE."
        )
    kept = [p for p in every if question_key(p.question) not in used and not shows(session.prompt, p.question)]
    if len(kept) < len(every):
        why = "are tested or discovered on by the study, or shown in its prompt"
        if not kept:
            raise UserError(f"all problems of {data} {why}", expected="others", remedy="Give others: --train-on FILE.")
        say(f"{len(every) - len(kept)} of {len(every)} problems {why}: they are left out")
    fitting = [p for p in kept if _fits(session, p)]
    if len(fitting) < len(kept):
        why = f"longer with their answer than the model's context ({session.loaded.context} tokens)"
        if not fitting:
            raise UserError(f"all problems of {data} are {why}", remedy="Give others: --train-on FILE.")
        first = next(p.id for p in kept if p not in fitting)
        say(f"{len(kept) - len(fitting)} of {len(kept)} problems are {why}: they are left out, {shown(first)} the first")
    return fitting


def _fits(session: Session, problem: Problem) -> bool:
    """Whether the model's context holds a problem under the prompt with what is written to it, and with its own solution."""
    loaded, prompt = session.loaded, session.prompt
    asked, said = prompt.text(problem.question), render_solution(problem) if problem.has_solution else ""
    new = session.config.new_tokens(prompt)
    size = len(asked.encode("utf-8", "replace")) + max(new, len(said.encode("utf-8", "replace")))
    if not loaded.context < size + 9 <= 16 * loaded.context:  # a token is a byte or more; a huge text takes long
        return size < loaded.context
    return len(loaded.encode(asked)) + max(new, len(ended(loaded, prompt, said))) <= loaded.context


def worked_problems(
    session: Session,
    every: Sequence[Problem],
    wanted: int,
    say: Callable[[str], object],
    *,
    own: bool = False,
    draws: int = 0,
    seed: int = 0,
    folder: Path | None = None,
) -> list[tuple[Problem, str]]:
    """The first of problems that have a solution, so many: the data's; or where it has too few, what the model writes if that
    is right.

    Args:
        every: as `tuning_problems` returns them.
        own: what the model writes in any case.
        draws: solutions sampled of each problem that its greedy one gets wrong, from `seed` on; a right one is taken.
        folder: where a file of problems keeps what the model wrote, and is taken from if it was made from the same.
    """
    if not own and not writes_itself(every, wanted):
        return _in_one([(p, render_solution(p)) for p in every if p.has_solution][:wanted], session.prompt, say)
    why = "" if own else "the data has too few solutions: "
    say(f"{why}the model writes solutions, and those that are right are taken")
    path, found, done = None, dict[int, str](), 0
    if folder is not None:
        path = folder / f"own-solutions-{_made_from(session, every, draws, seed)[:12]}.jsonl"
        found, done = _kept(path, every)
        if done < len(every):  # a row's draws are its own by its place among those asked with it
            done -= done % _WRITTEN
        found = {i: said for i, said in found.items() if i < done}
    if done:
        say(f"{len(found)} of {done} problems solved: {path}")
    start_time = time.monotonic()
    with session.bar("writing solutions", wanted, "solution") as bar:
        bar.update(min(len(found), wanted))
        for start in range(done, len(every), _WRITTEN):
            if len(found) >= wanted:
                break
            places = range(start, min(start + _WRITTEN, len(every)))
            for draw in range(1 + draws):  # the first is greedy
                wrong = [i for i in places if i not in found]
                written = session.engine.generate(
                    [session.prompt.text(every[i].question) for i in wrong],
                    max_new_tokens=session.config.new_tokens(session.prompt), stop=session.prompt.stop,
                    temperature=_TEMPERATURE if draw else 0.0, seed=seed * (1 + draws) + draw,
                )  # fmt: skip
                found |= {
                    i: c.text.strip()
                    for i, c in zip(wrong, written, strict=True)
                    if c.finish == "stop"
                    and is_right(c.text, every[i].answer)  # who is taught one that is cut learns to break off
                }
            bar.update(min(len(found), wanted) - bar.n)
            pace = (time.monotonic() - start_time) / (places.stop - done)
            say(f"{len(found)} of {places.stop} problems solved" + _left(len(found), places.stop, wanted, len(every), pace))
            if path is not None:
                rows = [{"question": p.question, "answer": written_answer(p.answer), "solution": found.get(i)}
                        for i, p in enumerate(every[: places.stop])]  # fmt: skip
                write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return [(every[i], found[i]) for i in sorted(found)][:wanted]


def _in_one(given: list[tuple[Problem, str]], prompt: Prompt, say: Callable[[str], object]) -> list[tuple[Problem, str]]:
    """The data's solutions without blank lines, where an answer ends at one: else it is learned to end before it is given."""
    joined = [(p, _unbroken(said, prompt)) for p, said in given]
    if parts := sum(a != b for a, b in zip(given, joined, strict=True)):
        say(f"{parts} of {len(given)} solutions have blank lines, and under this prompt an answer ends at one: they are taken "
            "without")  # fmt: skip
    return joined


def _unbroken(said: str, prompt: Prompt) -> str:
    return _BLANKS.sub("\n", said) if _BLANK in prompt.stop else said


def _left(found: int, asked: int, wanted: int, problems: int, pace: float) -> str:
    """How long writing goes on, in words: until so many are solved, at the share so far, or all problems are asked.

    Args:
        pace: seconds per problem.
    """
    more = problems - asked
    if found:
        more = min(more, round((wanted - found) * asked / found))
    return f"; about {more * pace / 60:.0f} min more" if found < wanted and more * pace >= 60 else ""


def writes_itself(every: Sequence[Problem], wanted: int) -> bool:
    """Whether so few of the problems have a solution that the model writes them."""
    return sum(p.has_solution for p in every) < min(wanted, len(every))


def asked(session: Session) -> tuple[Any, ...]:
    """Which model is asked, and how: what decides what it writes to a question."""
    model, prompt = session.run.manifest["model"], session.prompt
    way = [model[key] for key in ("weight_sha256", "dtype", "kernels")]
    return (*way, prompt.text(""), prompt.stop, session.config.new_tokens(prompt))


def _made_from(session: Session, every: Sequence[Problem], draws: int, seed: int) -> str:
    """The fingerprint of all that decides what the model writes to these problems."""
    sampled = (seed, _TEMPERATURE, _WRITTEN) if draws else ()
    return fingerprint(*asked(session), "ended", draws, *sampled, [(p.question, written_answer(p.answer)) for p in every])


def _kept(path: Path, every: Sequence[Problem]) -> tuple[dict[int, str], int]:
    """Solutions by place, and how many problems were asked: of a file's first rows that say what such a file says."""
    found = dict[int, str]()
    try:
        lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except (OSError, ValueError):
        return found, 0
    for i, (line, problem) in enumerate(zip(lines, every, strict=False)):
        try:
            row = json.loads(line)
            said = row["solution"] if row["question"] == problem.question else 0
        except (ValueError, KeyError, TypeError, RecursionError):
            said = 0
        if not (said is None or (isinstance(said, str) and is_right(said, problem.answer))):
            return found, i
        if said is not None:
            found[i] = said
    return found, min(len(lines), len(every))


def source(session: Session, every: Sequence[Problem]) -> str:
    """The fingerprint of what may be trained or searched on, and under which prompt: a file's name does not say it."""
    prompt = session.prompt
    return fingerprint(prompt.text(""), [(p.question, written_answer(p.answer), _unbroken(p.solution, prompt)) for p in every])


def made_with(chosen: Mapping[str, Any], questions: Sequence[str]) -> dict[str, list[str]]:
    """What an edit keeps of its problems: `evaluate` refuses to test on these, those that its neurons were found with among
    them, and counts those of the templates that it was trained or searched on."""
    prints = {fingerprint(question_key(q)) for q in questions}.union(chosen.get("questions", ()))
    return {"questions": sorted(prints), "templates": sorted({masked(q) for q in questions})}


def parted(
    given: Sequence[tuple[Problem, str]], validation: int, say: Callable[[str], object] = lambda text: None
) -> list[tuple[Problem, str]]:
    """`given` with `validation` problems last, of templates that the others are not; as it is, which is said, if that left less
    than half of the others to train on.

    These are of the templates that come up last; what is left of a template that they are of is dropped.
    """
    if not validation or len(given) <= validation:
        return list(given)
    of = templates([p.question for p, _ in given])
    sizes, spare = Counter(of), (len(given) + validation) // 2
    kept, count = set[int](), 0
    for template in reversed(list(dict.fromkeys(of))):
        if count < validation and count + sizes[template] <= spare:
            kept.add(template)
            count += sizes[template]
    if count < validation:
        say("the problems are of few templates: validation problems are of such as are trained on, too")
        return list(given)
    train = [g for g, t in zip(given, of, strict=True) if t not in kept]
    return [*train, *[g for g, t in zip(given, of, strict=True) if t in kept][:validation]]


def ended(loaded: LoadedModel, prompt: Prompt, said: str) -> tuple[int, ...]:
    """A solution as tokens, with what ends it under a prompt: a blank line after exemplars, else the end token.

    The end is learned too: a tokenizer may have one token for a full stop with a newline and another for one with a blank
    line, and who is taught the former where the latter belongs learns to go on.
    """
    ends = _BLANK in prompt.stop
    tokens = loaded.following(said + _BLANK * ends)
    return (*tokens, *([loaded.tokenizer.eos_token_id] if not ends and loaded.tokenizer.eos_token_id is not None else []))
