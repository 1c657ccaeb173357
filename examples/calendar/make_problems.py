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
    ("{name} called {n} day{s} before the {thing}, which is on {start}. On which day did {name} call?", "day", True),
    ("A parcel came on {start}. It had been sent {n} day{s} earlier. On which day of the week was it sent?", "day", True),
    ("{name} begins a {trip} in {start}. It ends {n} month{s} later. In which month does it end?", "month", False),
    ("The {place} is being rebuilt from {start} on and opens {n} month{s} later. In which month does it open?", "month", False),
    ("A {trip} ends in {start}. {name} signed up for it {n} month{s} earlier. In which month was that?", "month", True),
    ("{name} moved {n} month{s} before {start}. In which month did {name} move?", "month", True),
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
    shown = made(6, Random("exemplars"), (0, 3, 6, 5, 2, 7), [p["question"] for p in problems])
    (here / "problems.jsonl").write_text("".join(f"{json.dumps(p)}\n" for p in problems), encoding="utf-8")
    blocks = [
        f"Question: {p['question']}\nLet's think step by step\n{p['solution']}\nThe answer is {p['answer']}.\n" for p in shown
    ]
    (here / "calendar.txt").write_text("\n".join(blocks), encoding="utf-8")


if __name__ == "__main__":
    main()
