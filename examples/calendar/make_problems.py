"""Makes this example's `problems.jsonl` and `calendar.txt`: questions about days of the week and months, with worked solutions.

    python examples/calendar/make_problems.py

An answer is a word, not a number: cotscope reads both, but not both in one file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from random import Random

DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
MONTHS = ["January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
          "December"]  # fmt: skip
NAMES = ["Ada", "Bruno", "Chidi", "Elif", "Hana", "Jonas", "Mei", "Nikhil", "Olga", "Ravi", "Sofia", "Yusuf"]
THINGS = ["dentist appointment", "piano lesson", "exam", "football match", "job interview", "dance class"]
PLACES = ["library", "bakery", "museum", "swimming pool", "post office", "garden centre"]
TRIPS = ["language course", "building work", "training", "exhibition", "sea voyage", "internship"]

# Kinds of questions, their unit, whether they go back. {start}: a day or month; {n}: how many; {s}: plural; the rest is drawn.
KINDS = (
    ("Today is {start}. {name} has a {thing} in {n} day{s}. On which day of the week is it?", "day", False),
    ("The {place} closed on {start} and opens again {n} day{s} later. On which day does it open?", "day", False),
    ("A letter that is posted on {start} takes {n} day{s}. On which day is it there?", "day", False),
    ("{name} starts a {trip} on {start} and is home {n} day{s} later. Which day of the week is that?", "day", False),
    ("It is {start}, {n} day{s} before the {thing}. On what day of the week is the {thing}?", "day", False),
    ("Bread that keeps for {n} day{s} was bought on {start}. Up to which day can {name} eat it?", "day", False),
    ("{name} called {n} day{s} before the {thing}, which is on {start}. On which day did {name} call?", "day", True),
    ("A parcel came on {start}. It had been sent {n} day{s} earlier. On which day of the week was it sent?", "day", True),
    ("The {place} has been shut for {n} day{s}, and today is {start}. When did it shut?", "day", True),
    ("{name} must book {n} day{s} ahead for a {thing} on {start}. What is the last day to book?", "day", True),
    ("On {start} {name} had been ill for {n} day{s}. Which day of the week did it begin?", "day", True),
    ("Snow fell {n} day{s} before {start}, when {name} went to the {place}. On what day did it snow?", "day", True),
    ("{name} begins a {trip} in {start}. It ends {n} month{s} later. In which month does it end?", "month", False),
    ("The {place} is being rebuilt from {start} on and opens {n} month{s} later. In which month does it open?", "month", False),
    ("{name} pays {n} month{s} after an order. This one is from {start}. In which month is it paid?", "month", False),
    ("Seeds that are sown in {start} flower after {n} month{s}. In what month do they flower?", "month", False),
    ("It is {start}. In {n} month{s} {name} has a {thing}. Which month is that?", "month", False),
    ("A ticket for the {place}, bought in {start}, runs out {n} month{s} later. When does it run out?", "month", False),
    ("A {trip} ends in {start}. {name} signed up for it {n} month{s} earlier. In which month was that?", "month", True),
    ("{name} moved {n} month{s} before {start}. In which month did {name} move?", "month", True),
    ("In {start} {name} had been saving for {n} month{s}. In which month did {name} begin to save?", "month", True),
    ("The {place} opened in {start}, {n} month{s} late. In what month should it have opened?", "month", True),
    ("{name} practised for {n} month{s}, up to the {thing} in {start}. In which month did that begin?", "month", True),
    ("{name} got a bill in {start} for something bought {n} month{s} earlier. In which month was it bought?", "month", True),
)


def problem(rng: Random, kind: int) -> dict[str, str]:
    """A question of one kind, with the solution that walks there step by step, and the day or month as the answer."""
    text, unit, back = KINDS[kind]
    names, n = DAYS if unit == "day" else MONTHS, rng.randint(1, 6)
    at = rng.randrange(len(names))
    words = {"start": names[at], "n": str(n), "s": "s" if n > 1 else ""}
    drawn = {"name": NAMES, "thing": THINGS, "place": PLACES, "trip": TRIPS}
    question = text.format(**words, **{key: rng.choice(some) for key, some in drawn.items()})
    question = re.sub(r"\b(A|a) (?=[aeiou])", r"\1n ", question)
    walk = [names[(at + (-step if back else step)) % len(names)] for step in range(n + 1)]
    way = "before" if back else "after"
    lines = [f"We count {n} {unit}{words['s']} {'back' if back else 'on'} from {walk[0]}."]
    lines += [f"{step} {unit}{'s' * (step > 1)} {way} {walk[0]} is {walk[step]}." for step in range(1, n + 1)]
    return {"question": question, "solution": "\n".join(lines), "answer": walk[-1]}


def made(count: int, rng: Random, kinds: Sequence[int], but: Collection[str] = ()) -> list[dict[str, str]]:
    """So many of different questions, of these kinds in turn, none of them in `but`."""
    found: dict[str, dict[str, str]] = {}
    while len(found) < count:
        drawn = problem(rng, kinds[len(found) % len(kinds)])
        if drawn["question"] not in but:
            found.setdefault(drawn["question"], drawn)
    return list(found.values())


def main() -> None:
    """Write both files beside this one."""
    here = Path(__file__).parent
    problems = made(320, Random("calendar"), range(len(KINDS)))
    shown = made(6, Random("exemplars"), (0, 7, 18, 13, 6, 19), [p["question"] for p in problems])
    (here / "problems.jsonl").write_text("".join(f"{json.dumps(p)}\n" for p in problems), encoding="utf-8")
    blocks = [
        f"Question: {p['question']}\nLet's think step by step\n{p['solution']}\nThe answer is {p['answer']}.\n" for p in shown
    ]
    (here / "calendar.txt").write_text("\n".join(blocks), encoding="utf-8")


if __name__ == "__main__":
    main()
