"""A run's test problems under its first prompt as a task of lm-evaluation-harness: other code can ask any model the same.

The harness reads answers by regular expressions, as in its GSM8K task: in solutions that end in “The answer is 8.” they find
what `data/answers.py` finds.
"""

from __future__ import annotations

import json
from pathlib import Path

from ..data.numbers import format_number
from ..errors import RunError
from ..runs.files import write_text
from ..runs.folder import Run
from ..runs.session import Session

FLEXIBLE = r"(-?[0-9](?:[0-9,]*[0-9])?(?:\.[0-9]*[1-9])?)\.?0*"
"""A number, without the zeros at the end of its decimals: texts are compared, and 2.50 is 2.5."""
STRICT = rf"(?i)the answer is:? \$?{FLEXIBLE}"
IGNORED = (",",)
"""What the harness takes out of an answer before it compares: separators of thousands."""


def write_task(run: Run, to: Path) -> tuple[list[Path], dict[str, str]]:
    """Write `NAME.jsonl`, a prompt and its answer on each line, and `NAME.yaml`, the task.

    Returns: the files; what is left out, and why: answers that are no decimals.

    Raises: RunError for answers in words, or if none is a decimal.
    """
    session = Session.reopen(run.folder, quiet=True)
    if session.inputs.words:
        raise RunError(f"the answers of {run.folder} are words", expected="numbers, which the harness is told to compare")
    prompt, every = session.prompt, session.inputs.split.test
    written = {p.id: format_number(p.answer) for p in every if not isinstance(p.answer, str)}
    test = [p for p in every if "/" not in written[p.id]]  # nor a decimal that is right when it is rounded: texts are compared
    if not test:
        raise RunError(f"no answer of {run.folder} is a decimal", expected="at least one, since texts are compared")
    name = f"cotscope_{''.join(c if c.isalnum() else '_' for c in run.folder.resolve().name)}"
    rows, task = to / f"{name}.jsonl", to / f"{name}.yaml"
    asked = [{"id": p.id, "prompt": prompt.text(p.question), "answer": written[p.id]} for p in test]
    write_text(rows, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in asked))
    filters = [
        {
            "name": kind,
            "filter": [{"function": "regex", "regex_pattern": found, "group_select": -1}, {"function": "take_first"}],
        }
        for kind, found in (("strict-match", STRICT), ("flexible-extract", FLEXIBLE))
    ]
    content = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(rows.resolve())}},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "{{prompt}}",
        "doc_to_target": "{{answer}}",
        "target_delimiter": "",
        "generation_kwargs": {
            "until": list(prompt.stop), "do_sample": False, "max_gen_toks": session.config.new_tokens(prompt),
        },
        "filter_list": filters,
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True,
                         "regexes_to_ignore": list(IGNORED)}],
        "metadata": {"version": 1.0},
    }  # fmt: skip
    write_text(task, "".join(f"{key}: {json.dumps(value)}\n" for key, value in content.items()))  # JSON is YAML
    fractions = len(every) - len(test)
    return [task, rows], {"problems": f"the answers of {fractions} are no decimals"} if fractions else {}
