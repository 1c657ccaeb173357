"""Tables of what comes after a study: edits beside their base, and predictions of what is right."""

from __future__ import annotations

from ..data.reckoning import OUTCOMES
from .schemas import LONG, REAL, TEXT, TEXTS, WHOLE, YES, interval, table

EVALUATION_SCORES = table(
    "evaluation_scores",
    "tokens of one role in one reference solution with an edit, or of the base: mean log-probability (nats)",
    {"edit": TEXT, "data": TEXT, "problem_id": TEXT, "role": TEXT, "tokens": WHOLE, "log_prob": REAL},
    part="edit and data",
)
EVALUATION_SKILLS = table(
    "evaluation_skills",
    "an item of the battery of other skills with an edit, or of the base; perplexity, its ratio to the base's and KL (nats) of "
    "general text",
    {"edit": TEXT, "task": TEXT, "item": TEXT, "hit": YES, "perplexity": REAL, "kl": REAL} | interval("perplexity_ratio"),
    part="edit",
)
EVALUATIONS_BY_PROBLEM = table(
    "evaluations_by_problem",
    "what the base and an edited model wrote for one problem; first_result: of the first formula of numbers that is written "
    "(right, wrong, missing: no number after its equals sign; empty: there is none)",
    {"edit": TEXT, "data": TEXT, "problem_id": TEXT, "question": TEXT, "answer": TEXT}
    | {
        f"{k}{end}": t
        for end in ("_base", "")
        for k, t in (("text", TEXT), ("flexible", TEXT), ("correct", YES), ("first_result", TEXT))
    },
)
EVALUATIONS = table(
    "evaluations",
    "an edit on one data set, beside the base: problems solved, log-probability of reference solutions (change, nats), other "
    "skills, general text; templates_trained_on: problems of templates that it was made with; new_…: on the problems of "
    "others, where a tenth or more are known; rounding_…: the untouched model in another precision, less the "
    "base; less_rounding: the edit less that; first_…: texts whose first formula's result is right, wrong, or missing; if it "
    "was trained, how, of how many numbers, validation loss (nats per token), peak memory (GiB); written: of the weights in "
    "its folder, which may be rounded; how: what else is its own of its training; terms: the same where edits differ by seed "
    "and rate alone",
    {"edit": TEXT, "data": TEXT, "neurons": WHOLE, "n": WHOLE, "templates": WHOLE, "templates_trained_on": WHOLE}
    | interval("accuracy_base") | interval("accuracy") | interval("difference")
    | {"new_n": WHOLE, "new_templates": WHOLE} | interval("new_difference") | {"new_p_value": REAL}
    | {"rounding_dtype": TEXT, "rounding_accuracy": REAL} | interval("rounding_difference") | interval("less_rounding")
    | {"gained": WHOLE, "lost": WHOLE, "p_value": REAL, "p_mcnemar": REAL, "p_holm": REAL, "detectable": REAL}
    | {f"first_{outcome}{end}": WHOLE for end in ("_base", "") for outcome in OUTCOMES}
    | {"solutions": WHOLE}
    | {k: t for name in ("log_prob", "operator", "equals", "result", "elsewhere") for k, t in interval(name).items()}
    | {"battery_base": REAL, "battery": REAL, "items": WHOLE, "battery_p": REAL, "perplexity_base": REAL, "perplexity": REAL,
       "kl": REAL}
    | interval("perplexity_ratio")
    | {"search": TEXT, "method": TEXT, "chosen_by": TEXT, "random": LONG, "first": LONG, "trained_on": TEXT, "train": LONG,
       "own": YES, "draws": LONG, "loss": TEXT, "trained_dtype": TEXT, "how": TEXT, "numbers": LONG, "terms": TEXT,
       "rate": REAL, "seed": LONG, "validation_base": REAL, "validation": REAL, "written": REAL, "minutes": REAL,
       "peak_gib": REAL},
)  # fmt: skip
EVALUATION_CONTRASTS = table(
    "evaluation_contrasts",
    "edits that differ by their seeds beside others, or beside the base, on one data set: mean share of the problems solved; "
    "difference: the first's less the others'; p_unlike: that chosen neurons are as unlike the random sets as this were they "
    "one more of them, p_unlike_holm over all such; share: of the gain of what was trained of the whole model, if it has any; "
    "first…: the same of the share of texts whose first formula's result is right (empty: no text has one), not corrected",
    {"data": TEXT, "chosen": TEXT, "beside": TEXT, "edits": WHOLE, "edits_beside": WHOLE, "n": WHOLE, "templates": WHOLE,
     "accuracy": REAL, "accuracy_beside": REAL}
    | interval("difference") | {"p_value": REAL, "p_holm": REAL, "p_unlike": REAL, "p_unlike_holm": REAL} | interval("share")
    | {"first": REAL, "first_beside": REAL} | interval("first_difference") | {"first_unlike": REAL},
)  # fmt: skip
EVALUATION_CURVES = table(
    "evaluation_curves",
    "a training after so many passes at one learning rate: loss during the pass and on validation problems (nats per token), "
    "how many of these the model then solves; taken: what the edit is of",
    {"edit": TEXT, "rate": REAL, "passes": WHOLE, "training": REAL, "validation": REAL, "solved": LONG, "problems": LONG,
     "taken": YES},
)  # fmt: skip
EVALUATION_CANDIDATES = table(
    "evaluation_candidates",
    "what a search for one factor tried: the perplexity of the tuning text over the untouched model's, of its beginning and of "
    "all of it; what each round of solutions scored (nats; the larger the better for the search); tuning problems solved; "
    "empty where it did not get so far, or came to nothing finite; taken: what the edit is",
    {"edit": TEXT, "neurons": TEXT, "factor": REAL, "perplexity_begins": REAL, "round_1": REAL, "round_2": REAL,
     "perplexity": REAL, "solved": LONG, "taken": YES},
)  # fmt: skip
_AREA = {"auroc": REAL, "low": REAL, "high": REAL}
PREDICTIONS = table(
    "predictions",
    "the probability that one way of telling gave one answer of being right; it saw no problem of the same template",
    {"data": TEXT, "predictor": TEXT, "problem_id": TEXT, "template": WHOLE, "correct": YES, "probability": REAL},
)
PREDICTED = table(
    "predicted",
    "a problem whose answer was predicted",
    {"data": TEXT, "problem_id": TEXT, "question": TEXT, "answer": TEXT},
)
PREDICTORS = table(
    "predictors",
    "a way of telling right answers from wrong ones on one data set; difference: the reasoning neurons' AUROC less its own",
    {"data": TEXT, "predictor": TEXT, "kind": TEXT, "costs": TEXT, "features": WHOLE, "n": WHOLE, "templates": WHOLE,
     "accuracy": REAL} | _AREA | {"average_precision": REAL, "brier": REAL}
    | interval("difference") | {"p_value": REAL, "p_holm": REAL},
)  # fmt: skip
TRANSFERS = table(
    "transfers",
    "a way of telling, trained on the other data sets, or on other models' answers (model: whose), on one that it never saw; "
    "expected: the share that it takes for right",
    {"data": TEXT, "model": TEXT, "trained_on": TEXTS, "predictor": TEXT, "kind": TEXT, "n": WHOLE, "accuracy": REAL,
     "expected": REAL} | _AREA,
)  # fmt: skip
SHARES = table(
    "shares",
    "how many answers to one data set, or under one prompt, are right, estimated without their labels",
    {"family": TEXT, "kind": TEXT, "name": TEXT, "method": TEXT, "problems": WHOLE, "accuracy": REAL, "estimated": REAL},
)
SHARE_ERRORS = table(
    "share_errors",
    "how far off one way of estimating is over many prompts: mean absolute error (shares), rank correlation",
    {"family": TEXT, "method": TEXT, "problems": WHOLE, "prompts": WHOLE} | interval("error") | interval("spearman"),
)
EARLY = table(
    "early",
    "a way of telling after a part of the answer (stop: the share of its tokens; 0: the first one); tokens seen by then",
    {"data": TEXT, "predictor": TEXT, "kind": TEXT, "stop": REAL, "tokens": REAL} | _AREA,
)
STOPPING = table(
    "stopping",
    "the answers least likely to be right after a part are not finished: shares of all tokens saved, of right answers lost",
    {"data": TEXT, "predictor": TEXT, "stop": REAL, "stopped": REAL, "saved": REAL, "lost": REAL},
)
COVERAGE = table(
    "coverage",
    "the share right among the answers that a way of telling trusts most",
    {"data": TEXT, "predictor": TEXT, "coverage": REAL, "accuracy": REAL},
)
CASCADE = table(
    "cascade",
    "a share of the questions sent on to a larger model by one router: problems solved, and the cost (generated tokens × "
    "parameters) as a share of the larger model's alone",
    {"data": TEXT, "router": TEXT, "share": REAL, "accuracy": REAL, "cost": REAL},
)
