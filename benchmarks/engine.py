"""cotscope's engine beside Hugging Face `generate` with recording hooks: same model, prompts, stop rules, poles.

    python benchmarks/engine.py --data FILE --prompt-file F --problems 16

Checks first, in float32 on 4 problems, that both write the same tokens and record the same poles; then times both in
bfloat16, alternating, and prints medians and the ratio. Loading the model is left out.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
from transformers.utils import logging as transformers_logging

import cotscope
from cotscope.lm.families import value_norms
from cotscope.lm.interventions import coefficient_hooks
from cotscope.lm.loading import LoadedModel
from cotscope.lm.models import DEFAULT_MODEL
from cotscope.prompts.files import load_prompt_file

Poles = dict[tuple[int, int, int, int], float]  # (row, step, layer, index) → coefficient


def with_cotscope(loaded: LoadedModel, texts: list[str], stop: tuple[str, ...]) -> tuple[list[tuple[int, ...]], Poles]:
    recorder = cotscope.ActivePoles(loaded.anatomy, k=10, keep_steps=True)
    completions = cotscope.Engine(loaded).generate(texts, stop=stop, recorder=recorder)
    poles: Poles = {}
    step = [0] * len(texts)
    for rows, index, coefficient in recorder.steps:
        for row, i, c in zip(rows.tolist(), index.tolist(), coefficient.tolist()):
            poles |= _entries(row, step[row], i, c)
            step[row] += 1
    return [c.token_ids for c in completions], poles


def _entries(row: int, step: int, index: list[list[int]], coefficient: list[list[float]]) -> Poles:
    return {(row, step, layer, i): c for layer, (ii, cc) in enumerate(zip(index, coefficient)) for i, c in zip(ii, cc)}


def with_transformers(loaded: LoadedModel, texts: list[str], stop: tuple[str, ...]) -> tuple[list, list]:
    """One left-padded batch; the hooks keep the ten active poles of the last position at every step."""
    tokenizer, norms = loaded.tokenizer, value_norms(loaded.anatomy)
    tokenizer.padding_side = "left"
    batch = tokenizer(texts, return_tensors="pt", padding=True)
    kept: list[tuple[torch.Tensor, torch.Tensor]] = []

    def observe(layer: int, m: torch.Tensor) -> None:
        last = m[:, -1].float()
        index = (last.abs() * norms[layer]).topk(10, dim=-1, sorted=False).indices
        kept.append((index, last.gather(-1, index)))

    with torch.inference_mode(), coefficient_hooks(loaded.anatomy, None, observe):
        out = loaded.model.generate(
            **batch, max_new_tokens=120, do_sample=False, stop_strings=list(stop), tokenizer=tokenizer
        )
    tokens = [row[batch.input_ids.shape[1] :].tolist() for row in out]
    layers = loaded.anatomy.layers
    return tokens, [kept[i : i + layers] for i in range(0, len(kept), layers)]


def check(loaded: LoadedModel, texts: list[str], stop: tuple[str, ...]) -> None:
    """The same tokens, and the same poles with the same coefficients, from both."""
    mine, poles = with_cotscope(loaded, texts, stop)
    theirs, steps = with_transformers(loaded, texts, stop)
    for row, tokens in enumerate(mine):
        assert list(tokens) == theirs[row][: len(tokens)], f"row {row}: other tokens"
    off = 0.0
    for row, tokens in enumerate(mine):
        for step in range(len(tokens)):
            for layer, (index, coefficient) in enumerate(steps[step]):
                for i, c in zip(index[row].tolist(), coefficient[row].tolist()):
                    off = max(off, abs(poles[row, step, layer, i] - c))
    print(f"check (float32, {len(texts)} problems): same tokens, same poles; coefficients differ by at most {off:.1e}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--data", required=True)
    parser.add_argument("--prompt-file", required=True, type=Path)
    parser.add_argument("--problems", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    transformers_logging.disable_progress_bar()
    prompt = load_prompt_file(arguments.prompt_file)
    problems = cotscope.load_problems(arguments.data).problems[: arguments.problems]
    texts = [prompt.text(p.question) for p in problems]
    check(cotscope.load_model(arguments.model, dtype="float32"), texts[:4], prompt.stop)
    loaded = cotscope.load_model(arguments.model)
    seconds: dict[str, list[float]] = {"transformers": [], "cotscope": []}
    engine = cotscope.Engine(loaded)
    engine.shares_prefix(1000)
    for _ in range(arguments.repeats):
        began = time.perf_counter()
        with_transformers(loaded, texts, prompt.stop)
        seconds["transformers"].append(time.perf_counter() - began)
        began = time.perf_counter()
        recorder = cotscope.ActivePoles(loaded.anatomy, k=10)
        written = sum(c.steps for c in engine.generate(texts, stop=prompt.stop, recorder=recorder))
        seconds["cotscope"].append(time.perf_counter() - began)
    ratios = [a / b for a, b in zip(seconds["transformers"], seconds["cotscope"])]
    result = {
        "problems": len(texts),
        "prompt_tokens": len(loaded.encode(prompt.prefix)),
        "tokens": written,
        "threads": torch.get_num_threads(),
        **{f"{name}_s": round(statistics.median(s), 2) for name, s in seconds.items()},
        "ratio_median": round(statistics.median(ratios), 2),
        "ratios": [round(r, 2) for r in ratios],
    }
    print(json.dumps(result) if arguments.json else "\n".join(f"{k:16} {v}" for k, v in result.items()))


if __name__ == "__main__":
    main()
