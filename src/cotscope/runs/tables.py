"""Every table of a run folder: its columns, and what a row is. Nothing is written that does not have these columns.

A table is `tables/<name>.parquet`, or, where it has parts, `tables/<name>/<part>.parquet`; SQL sees all parts as one.
Kinds and families are columns: nothing has to be read off a name.
"""

from __future__ import annotations

import pyarrow as pa

from .schemas import NEURON, POLE, REAL, TEXT, TEXTS, WHOLE, YES, interval, table
from .schemas import TABLES as TABLES
from .schemas import Table as Table
from .tables_after import CASCADE as CASCADE
from .tables_after import COVERAGE as COVERAGE
from .tables_after import EARLY as EARLY
from .tables_after import EVALUATION_CANDIDATES as EVALUATION_CANDIDATES
from .tables_after import EVALUATION_CONTRASTS as EVALUATION_CONTRASTS
from .tables_after import EVALUATION_CURVES as EVALUATION_CURVES
from .tables_after import EVALUATION_SCORES as EVALUATION_SCORES
from .tables_after import EVALUATION_SKILLS as EVALUATION_SKILLS
from .tables_after import EVALUATIONS as EVALUATIONS
from .tables_after import EVALUATIONS_BY_PROBLEM as EVALUATIONS_BY_PROBLEM
from .tables_after import PREDICTED as PREDICTED
from .tables_after import PREDICTIONS as PREDICTIONS
from .tables_after import PREDICTORS as PREDICTORS
from .tables_after import SHARE_ERRORS as SHARE_ERRORS
from .tables_after import SHARES as SHARES
from .tables_after import STOPPING as STOPPING
from .tables_after import TRANSFERS as TRANSFERS

FAMILIES = ("discovery", "study", "ablation", "variant", "sentence", "push", "selection", "evaluation", "prediction",
            "cascade")  # fmt: skip
"""Of conditions: discovery's prompts; the study's prompts on test problems; sets of neurons disrupted under the first
prompt; prompts of random exemplars; zero-shot sentences; neurons disrupted along one path, or the logits in
their place; neurons that `attribute` chose; edits, and the base beside them; answers that are
predicted, and a larger model's to the same questions."""

PROBLEMS = table("problems", "a problem", {"problem_id": TEXT, "split": TEXT, "question": TEXT, "answer": TEXT})
_CONDITION = {"condition": TEXT, "family": TEXT, "prompt": TEXT}
COMPLETIONS = table(
    "completions",
    "what the model wrote for one problem under one condition",
    _CONDITION
    | {"neuron_set": TEXT, "split": TEXT, "problem_id": TEXT, "text": TEXT, "token_ids": pa.list_(pa.int32()),
       "roles": TEXTS, "tokens": WHOLE, "finish": TEXT, "strict": TEXT, "flexible": TEXT, "correct_strict": YES,
       "correct": YES},
    part="condition",
)  # fmt: skip
_ACTIVE = {"problem_id": TEXT, "role": TEXT} | POLE | {"steps": WHOLE, "update_size": REAL, "coefficient": REAL}
ACTIVITY = table(
    "activity",
    "a pole that was active at tokens of one role of one completion; update sizes and coefficients are sums over its steps",
    _CONDITION | _ACTIVE,
    part="condition",
)
POLES = table(
    "poles",
    "a pole that was active when discovery problems were solved, with the tokens it promotes and suppresses",
    POLE
    | {"steps": WHOLE, "problems": WHOLE, "mean_update_size": REAL, "mean_coefficient": REAL, "prompts": TEXTS,
       "promoted": TEXTS, "promoted_scores": pa.list_(REAL), "suppressed": TEXTS, "suppressed_scores": pa.list_(REAL)},
)  # fmt: skip
CANDIDATES = table(
    "candidates",
    "a pole and a concept whose seeds it promotes",
    POLE | {"concept": TEXT, "matches": WHOLE, "evidence": TEXTS},
)
CONTEXTS = table(
    "contexts",
    "a place where a pole was most active in what the model wrote; without a token: the pole has none",
    POLE | {"problem_id": TEXT, "before": TEXT, "token": TEXT, "after": TEXT, "coefficient": REAL},
    part="poles looked up together",
)
_WORD = {"accepted": YES, "annotator": TEXT, "status": TEXT, "confidence": REAL, "description": TEXT, "evidence": TEXTS}
_ANNOTATION = POLE | {"concept": TEXT} | _WORD
ANNOTATIONS = table("annotations", "the annotator's word on one candidate", _ANNOTATION)
JUDGEMENTS = table(
    "judgements", "an annotator's word on a candidate or a decoy", {"id": TEXT, "kind": TEXT} | _ANNOTATION, part="annotator"
)
AUDIT = table(
    "audit",
    "a measure of how far to trust an annotator",
    {"measure": TEXT, "annotator": TEXT, "other": TEXT, "n": WHOLE, "count": WHOLE, "value": REAL, "low": REAL, "high": REAL},
)
NAMES = table(
    "names",
    "an active pole that a judge named freely",
    POLE | {"name": TEXT, "concept": TEXT, "description": TEXT, "status": TEXT, "strength": REAL, "annotator": TEXT},
)
KEYSTONES = table(
    "keystones",
    "a neuron that was zeroed alone, the largest KL first",
    NEURON
    | {"kl": REAL, "perplexity_ratio": REAL, "max_update_size": REAL, "relative_update_size": REAL, "keystone": YES,
       "reasoning": YES},
)  # fmt: skip
SETS = table("sets", "a neuron of a set that is disrupted", {"neuron_set": TEXT, "kind": TEXT, "seed": pa.int64()} | NEURON)
_TRAITS = [f"{trait}_{end}" for trait in ("steps", "update_size") for end in ("q10", "q50", "q90", "max", "smd")]
MATCHING = table(
    "matching",
    "how like the target a set is in both traits",
    {"neuron_set": TEXT, "kind": TEXT, "target": TEXT, "neurons": WHOLE}
    | dict.fromkeys([f"{of}mean_{t}" for t in ("steps", "update_size") for of in ("", "target_")] + _TRAITS, REAL),
)
TEXT_SCORES = table(
    "text_scores",
    "perplexity on general text, and KL from the untouched model (nats), with a set zeroed",
    {"neuron_set": TEXT, "perplexity": REAL, "kl": REAL},
    part="set",
)
_ACCURACY = {"accuracy": REAL, "low": REAL, "high": REAL}
ABLATION = table(
    "ablation",
    "a set of neurons zeroed: accuracy on test problems, perplexity and KL on general text",
    {"neuron_set": TEXT, "kind": TEXT, "neurons": WHOLE, "correct": WHOLE, "n": WHOLE}
    | _ACCURACY
    | {"perplexity": REAL, "kl": REAL, "accuracy_strict": REAL},
)
SOLUTIONS = table(
    "solutions",
    "a role in one reference solution",
    {"problem_id": TEXT, "source": TEXT, "text": TEXT, "role": TEXT, "tokens": WHOLE},
)
_PATH = {"neuron_set": TEXT, "role": TEXT, "path": TEXT}
SOLUTION_SCORES = table(
    "solution_scores",
    "tokens of one role in one reference solution with a set zeroed, by path: mean log-probability and logit margin (nats)",
    {"problem_id": TEXT} | _PATH | {"tokens": WHOLE, "log_prob": REAL, "margin": REAL},
    part="set",
)
BATTERY = table(
    "battery",
    "an item of the battery of other skills with a set zeroed",
    {"neuron_set": TEXT, "task": TEXT, "item": TEXT, "hit": YES},
    part="set",
)
DAMAGE = table(
    "damage",
    "a set's battery, against the untouched model",
    {"neuron_set": TEXT, "items": WHOLE, "battery": REAL, "battery_low": REAL, "battery_high": REAL, "battery_p": REAL},
)
_MEASURED = [
    {name: REAL} | {f"{name}_{end}": REAL for end in ("change", "low", "high", "p")} | {f"{name}_within": YES}
    for name in ("log_prob", "margin")
]
DAMAGE_SOLUTIONS = table(
    "damage_solutions",
    "what tokens of one role in reference solutions lose with a set zeroed, by path (nats; intervals over problems; "
    "within: the verdict's rule lets it be called no effect)",
    _PATH | {"kind": TEXT, "problems": WHOLE} | {k: t for measure in _MEASURED for k, t in measure.items()},
)
PUSH = table(
    "push",
    "the reasoning neurons zeroed, or zeroed along one path, or the logits biased in their place: what the model solves",
    {"way": TEXT, "correct": WHOLE, "n": WHOLE}
    | _ACCURACY
    | {"against_untouched": REAL, "against_zeroed": REAL}
    | dict.fromkeys(("operator", "equals", "result", "elsewhere"), REAL),
)
ATTRIBUTED = ("operator", "equals", "result", "elsewhere", "result_margin", "battery", "text")
"""Outcomes that are attributed to neurons: log-probability of reference solutions' tokens by role; logit margin of their
results, and of the battery's answers; log-probability of general text."""
_SMALL = pa.float32()
ATTRIBUTIONS = table(
    "attributions",
    "what zeroing one neuron alone would change, to first order (nats), in all and directly; its mean update size on "
    "reference solutions and on general text",
    NEURON
    | {column: _SMALL for name in ATTRIBUTED for column in (name, f"{name}_direct")}
    | dict.fromkeys(("result_margin_even", "result_margin_odd", "solutions_size", "text_size"), _SMALL),
)
ATTRIBUTION_CHECKS = table(
    "attribution_checks",
    "a neuron that was zeroed alone: what its attribution said, and what came of it (results' logit margin, nats)",
    NEURON | {"drawn": TEXT, "predicted": REAL, "zeroed": REAL},
)
SELECTIONS = table(
    "selections",
    "a neuron that one way of choosing chose, the first one first",
    {"selection": TEXT, "rank": WHOLE} | NEURON,
)
_SELECTED = {"selection": TEXT, "part": TEXT, "neurons": WHOLE, "control": WHOLE}
SELECTION_SCORES = table(
    "selection_scores",
    "tokens of one role in one reference solution with a selection, a part of it, or a random set like it (control) zeroed, by "
    "path",
    _SELECTED | {"problem_id": TEXT, "role": TEXT, "path": TEXT, "log_prob": REAL, "margin": REAL},
    part="set",
)
SELECTION_SUMS = table(
    "selection_sums",
    "a sum with its formula given, with a selection or a random set like it zeroed",
    _SELECTED | {"level": TEXT, "item": TEXT, "hit": YES, "log_prob": REAL},
    part="set",
)
SELECTION_SKILLS = table(
    "selection_skills",
    "other skills with a selection or a random set like it zeroed: share of the battery right; KL on general text (nats)",
    _SELECTED | {"battery": REAL, "items": WHOLE, "perplexity": REAL, "kl": REAL},
    part="set",
)
SELECTED = table(
    "selected",
    "a way of choosing neurons, or the first ones that it chose, beside random sets like it: what is lost without them",
    {"neuron_set": TEXT, "selection": TEXT, "part": TEXT, "neurons": WHOLE, "shared": WHOLE, "shared_by_chance": REAL,
     "compared": WHOLE, "controls": WHOLE}
    | {k: t for path in ("total", "direct", "indirect") for k, t in interval(f"result_margin_{path}").items()}
    | {k: t for role in ("operator", "equals", "result", "elsewhere") for k, t in interval(role).items()}
    | {"compared_margin": REAL, "controls_margin": REAL, "p_value": REAL, "p_beyond": REAL}
    | interval("sums") | {"compared_sums": REAL, "controls_sums": REAL, "sums_p": REAL, "p_sums": REAL}
    | interval("accuracy") | {"n": WHOLE, "controls_accuracy": REAL}
    | {"battery": REAL, "controls_battery": REAL, "kl": REAL, "verdict": TEXT},
)  # fmt: skip
_CHANGE = {"change": REAL, "low": REAL, "high": REAL}
OPERATION_PROBLEMS = table(
    "operation_problems",
    "one problem of one operation with one operation's neurons zeroed: mean log-probability of tokens of a role (nats)",
    {"disrupted": TEXT, "role": TEXT, "operation": TEXT, "problem_id": TEXT, "log_prob": REAL},
    part="operation zeroed",
)
OPERATIONS = table(
    "operations",
    "one operation's neurons zeroed, another's problems asked",
    {"role": TEXT, "disrupted": TEXT, "neurons": WHOLE, "operation": TEXT, "problems": WHOLE, "untouched": REAL} | _CHANGE,
)
_DISRUPTED = {"neuron_set": TEXT, "kind": TEXT, "dose": REAL, "scope": TEXT}
SWEEP_ITEMS = table(
    "sweep_items",
    "one problem or item, by outcome, under one set and one way to disrupt it",
    _DISRUPTED | {"outcome": TEXT, "item": TEXT, "value": REAL},
    part="set and disruption",
)
SWEEP_TEXT = table(
    "sweep_text",
    "the same on the text's first window, under one set and one way to disrupt it",
    _DISRUPTED | {"perplexity": REAL, "kl": REAL},
    part="set and disruption",
)
SWEEP = table(
    "sweep",
    "an outcome under one set and one way to disrupt it, against the untouched model",
    {"neuron_set": TEXT, "set_kind": TEXT, "kind": TEXT, "dose": REAL, "scope": TEXT, "outcome": TEXT, "n": WHOLE,
     "value": REAL} | _CHANGE | {"p": REAL},
)  # fmt: skip
FORCED = table(
    "forced",
    "a pole that was active at tokens of one role of one reference solution under a prompt (sums as in `activity`)",
    {"family": TEXT, "prompt": TEXT} | _ACTIVE,
    part="prompt",
)
FORCED_SCORES = table(
    "forced_scores",
    "mean log-probability (nats) of the results in one reference solution under a prompt",
    {"family": TEXT, "prompt": TEXT, "problem_id": TEXT, "log_prob": REAL},
    part="prompt",
)
_PER_TOKEN = {"poles_per_token": REAL, "poles_per_token_first": REAL}
PROMPT_PROBLEMS = table(
    "prompt_problems",
    "generated activity and the answer of one problem under one prompt",
    {"family": TEXT, "prompt": TEXT, "problem_id": TEXT, "correct": YES, "correct_strict": YES, "tokens": WHOLE}
    | _PER_TOKEN
    | {"strength_per_token": REAL},
    part="study or extra prompts",
)
FORCED_PROBLEMS = table(
    "forced_problems",
    "teacher-forced activity on one reference solution under one prompt",
    {"family": TEXT, "prompt": TEXT, "problem_id": TEXT} | _PER_TOKEN | {"log_prob": REAL},
    part="study or extra prompts",
)
PROMPTS = table(
    "prompts",
    "a prompt: accuracy, generated (own) and teacher-forced (fixed) activity, means over problems",
    {"family": TEXT, "kind": TEXT, "prompt": TEXT, "exemplars": WHOLE, "prompt_tokens": WHOLE, "n": WHOLE, "correct": WHOLE}
    | _ACCURACY
    | {"accuracy_strict": REAL, "tokens_per_problem": REAL}
    | _PER_TOKEN
    | {"strength_per_token": REAL, "distinct_poles": WHOLE, "fixed_activity": REAL, "fixed_activity_first": REAL,
       "given_log_prob": REAL},
    part="study or extra prompts",
)  # fmt: skip
_BOTH = {"own_activity": REAL, "fixed_activity": REAL}
PROMPT_CONCEPTS = table(
    "prompt_concepts",
    "generated activity of one concept's poles under one prompt",
    {"prompt": TEXT, "concept": TEXT, "poles_per_token": REAL, "strength_per_token": REAL, "distinct_poles": WHOLE},
)
PROMPT_ROLES = table(
    "prompt_roles",
    "activity of one concept's poles, or (concept null) of all reasoning poles, at tokens of one role under one prompt",
    {"prompt": TEXT, "concept": TEXT, "role": TEXT} | _BOTH,
)
HELD_OUT = table(
    "held_out",
    "activity under one prompt of the reasoning poles (how many) that discovery finds without one of its prompts",
    {"prompt": TEXT, "left_out": TEXT, "poles": WHOLE} | _BOTH,
)
JUDGED_ACTIVITY = table(
    "judged_activity",
    "activity of all, accepted or rejected candidates under one prompt",
    {"prompt": TEXT, "poles": TEXT} | _BOTH,
)
SENTENCE_KINDS = table(
    "sentence_kinds",
    "what a kind of sentence does, intervals over problems",
    {"kind": TEXT, "prompts": WHOLE}
    | {k: t for name in ("accuracy", "activity", "fixed") for k, t in ({f"{name}_n": WHOLE} | interval(name)).items()},
)
_SPEARMAN = {"spearman": REAL, "low": REAL, "high": REAL, "p_value": REAL}
CORRELATIONS = table(
    "correlations",
    "a rank correlation of activity and accuracy over one family of prompts; between: over its kinds' means",
    {"family": TEXT, "prompts": WHOLE, "activity": TEXT, "poles": TEXT, "given": TEXT} | _SPEARMAN,
)
RANDOM_CORRELATIONS = table(
    "random_correlations",
    "the rank correlation of one set's activity, its labels permuted, with accuracy (not a set of `permuted`)",
    {"family": TEXT, "neuron_set": TEXT, "spearman": REAL},
)
JUDGED = table(
    "judged",
    "the rank correlation with accuracy of all, accepted or rejected candidates' activity",
    {"poles": TEXT, "activity": TEXT, "prompts": WHOLE, "first": REAL} | _SPEARMAN,
)
MEASURED = {"activity": "verdict", "activity_first": "verdict_first", "fixed": "verdict_fixed",
            "fixed_first": "verdict_fixed_first"}  # fmt: skip
"""Kind of activity → the column of `phenomena` with the verdict on it."""
_TESTED = [
    {f"{name}_change": REAL, f"{name}_low": REAL, f"{name}_high": REAL, f"{name}_p": REAL, f"{name}_p_holm": REAL}
    | (
        {}
        if name == "accuracy"
        else {f"{name}_n": WHOLE}
        | dict.fromkeys((f"{name}_{c}" for c in ("p_beyond", "p_beyond_holm", "low90", "high90", "bound")), REAL)
    )
    for name in ("accuracy", *MEASURED)
]
PHENOMENA = table(
    "phenomena",
    "one of the four phenomena: changes from the first prompt, tests, verdicts, and how many problems one at least needs that "
    "could not be told; beyond: of permuted sets; 90: the 90 % interval; null: that activity was not measured",
    {"phenomenon": TEXT, "prompts": TEXTS, "n": WHOLE}
    | {k: t for tested in _TESTED for k, t in tested.items()}
    | {"detectable": REAL}
    | {k: t for verdict in MEASURED.values() for k, t in ((verdict, TEXT), (f"{verdict}_needs", WHOLE))},
)
_CALIBRATION = (
    {"run": TEXT, "kind": TEXT, "concepts": TEXTS, "neurons": WHOLE, "compared": WHOLE, "solved": WHOLE, "problems": WHOLE}
    | {f"{c}_{v}": REAL for c in ("pushes", "matters") for v in ("change", "permuted_mean", "p_value", "p_beyond")}
    | {"pushes": YES, "matters": YES, "verdict": TEXT}
)
CALIBRATION_RUNS = table("calibration_runs", "one run of the calibration", _CALIBRATION, part="run")
CALIBRATION_SHUFFLES = table(
    "calibration_shuffles", "one shuffle of the labels that `predict` learned from",
    {"data": TEXT, "shuffle": WHOLE, "auroc": REAL, "low": REAL, "high": REAL}, part="data",
)  # fmt: skip
CALIBRATION = table("calibration", "one run of the calibration that its rate counts", _CALIBRATION)
