"""cotscope beside its peers, and its own costs, each in one run. What it found stands in docs/benchmarks.md.

    make bench                                       # 16 problems, every peer
    python benchmarks/bench.py peers --problems 96 --peers transformers_generate
    python benchmarks/bench.py own                   # recording, projection, start-up
    python benchmarks/bench.py memory                # 96 and 960 problems
    python benchmarks/bench.py together              # conditions in shared batches
    python benchmarks/bench.py agreement             # tokens of the shared-prefix and the plain path

`peers` runs each peer in a process of its own, all on the same texts, stop rules and recorded quantity (the ten active
poles of every layer and token), one after another and round after round; first it checks in float32 that all write and
record the same. Loading is left out, and so is each peer's first job of two problems, which pays for what it prepares.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path

from floor import floor, gemm_rate, median_seconds
from peers import PEERS, Cotscope, compare
from transformers.utils import logging as transformers_logging

import cotscope
from cotscope.lm.jobs import Job
from cotscope.lm.models import DEFAULT_MODEL, resolve
from cotscope.lm.projection import project
from cotscope.lm.recorders import ChosenNeurons
from cotscope.prompts.derive import derive_prompts
from cotscope.prompts.exemplars import load_exemplars
from cotscope.prompts.files import load_prompt_file
from cotscope.records import Neuron, Prompt

# Rows at once where not 16: continuous batching attends over all rows' keys, TransformerLens keeps every logit.
BATCH = {"transformers_generate_batch": 8, "transformer_lens": 8}


def job(arguments: argparse.Namespace) -> tuple[list[str], Prompt]:
    given = arguments.prompt_file
    prompt = load_prompt_file(Path(given)) if given else derive_prompts(load_exemplars(None))[0]
    problems = cotscope.load_problems(arguments.data).problems
    return [prompt.text(p.question) for p in problems[: arguments.problems]], prompt


def peak_gib() -> float:
    """This process's peak memory. (`ru_maxrss` would begin with its parent's.)"""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 2**20


def child(arguments: argparse.Namespace) -> None:
    """One peer: loads, warms up, then runs the job once for each line that it reads."""
    texts, prompt = job(arguments)
    peer = PEERS[arguments.peer](str(resolve(arguments.model)), arguments.dtype)
    batch = arguments.batch or BATCH.get(arguments.peer, 16)
    peer.run(texts[:2], prompt.stop, 4, batch)
    print(json.dumps({"loaded_gib": round(peak_gib(), 2)}), flush=True)
    for _ in sys.stdin:
        began = time.perf_counter()
        recorded = peer.run(texts, prompt.stop, 120, batch)
        seconds = time.perf_counter() - began
        steps = [len(index) for index, _ in recorded.poles]
        result = {"seconds": seconds, "tokens": sum(steps), "peak_gib": round(peak_gib(), 2)}
        if arguments.peer == "cotscope":
            ids = [peer.loaded.encode(t) for t in texts]
            prefix = len(peer.loaded.encode(prompt.prefix))
            result["floor"] = floor(peer.loaded, prefix, [len(i) - prefix for i in ids], steps, 128)
        print(json.dumps(result), flush=True)


def peers(arguments: argparse.Namespace) -> None:
    texts, prompt = job(arguments)
    names = ["cotscope", *(p for p in arguments.peers if p != "cotscope")]
    folder = str(resolve(arguments.model))
    if arguments.check:
        few = (texts[: arguments.check], prompt.stop, 24, 2)
        mine = Cotscope(folder, "float32").run(*few)
        for name in names[1:]:
            off = compare(mine, PEERS[name](folder, "float32").run(*few))
            print(f"check, float32, {arguments.check} problems: {name} writes and records the same (to {off:.0e})", flush=True)
    same = ["--model", arguments.model, "--data", arguments.data, "--problems", str(arguments.problems)]
    same += ["--dtype", arguments.dtype, "--batch", str(arguments.batch), "--prompt-file", arguments.prompt_file]
    running = {}
    for name in names:
        command = [sys.executable, __file__, "child", *same, "--peer", name]
        pipe = subprocess.PIPE
        running[name] = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
        answer(running[name])
    results: dict[str, list[dict]] = {name: [] for name in names}
    for _ in range(arguments.rounds):
        for name, process in running.items():
            process.stdin.write("run\n")
            process.stdin.flush()
            results[name].append(answer(process))
            print(f"{name:28} {results[name][-1]['seconds']:8.1f} s", flush=True)
    for process in running.values():
        process.stdin.close()
        process.wait()
    mine = statistics.median(r["seconds"] for r in results["cotscope"])
    print(f"\n{'':28} {'median s':>9} {'tokens/s':>9} {'peak GiB':>9} {'ratio':>7}   each round's ratio")
    for name, rounds in results.items():
        seconds = statistics.median(r["seconds"] for r in rounds)
        ratios = [r["seconds"] / c["seconds"] for r, c in zip(rounds, results["cotscope"])]
        rate, peak = rounds[0]["tokens"] / seconds, rounds[-1]["peak_gib"]
        each = " ".join(f"{r:.2f}" for r in ratios)
        print(f"{name:28} {seconds:9.1f} {rate:9.1f} {peak:9.2f} {statistics.median(ratios):7.2f}   {each}")
    least = results["cotscope"][0]["floor"]
    print(f"\nfloor {least['floor_s']} s: cotscope takes {mine / least['floor_s']:.2f} times that; {json.dumps(least)}")


def answer(process: subprocess.Popen) -> dict:
    """The next line of JSON that a child prints; libraries print other things too."""
    for line in process.stdout:
        if line.startswith("{"):
            return json.loads(line)
    raise SystemExit("a peer ended before its time")


def own(arguments: argparse.Namespace) -> None:
    """What recording costs, how fast projection is, how long starting takes."""
    began = time.perf_counter()
    loaded = cotscope.load_model(arguments.model, dtype=arguments.dtype)
    print(f"model loaded in {time.perf_counter() - began:.2f} s")
    texts, prompt = job(arguments)
    engine = cotscope.Engine(loaded, prefix_bytes=0)  # each round computes its prefix
    every = [Neuron(layer, i) for layer in range(loaded.anatomy.layers) for i in range(loaded.anatomy.width)]
    chosen = every[:: len(every) // 2000][:2000]
    ways = {
        "nothing": lambda: None,
        "active poles": lambda: cotscope.ActivePoles(loaded.anatomy, k=10),
        "2,000 neurons": lambda: ChosenNeurons(loaded.anatomy, chosen, lambda row, m: None),
    }
    engine.generate(texts[:2], max_new_tokens=4)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(arguments.rounds):
        for name in list(ways)[:: 1 if turn % 2 else -1]:
            began = time.perf_counter()
            engine.generate(texts, stop=prompt.stop, recorder=ways[name]())
            seconds[name].append(time.perf_counter() - began)
    for name, times in seconds.items():
        ratios = [a / b for a, b in zip(times, seconds["nothing"])]
        print(f"recording {name:14} median {statistics.median(times):.2f} s, median ratio {statistics.median(ratios):.3f}, "
              f"each {[round(r, 3) for r in ratios]}", flush=True)  # fmt: skip
    vocabulary, hidden = loaded.anatomy.unembedding.shape
    before = peak_gib()
    for what, neurons in (("all", every), ("every tenth", every[::10])):
        began = time.perf_counter()
        project(loaded.anatomy, neurons, 20)
        took = time.perf_counter() - began
        rate = 2 * len(neurons) * vocabulary * hidden / took
        gemm = gemm_rate(1024, hidden, loaded.anatomy.width, loaded.dtype)
        print(f"projection of {what} ({len(neurons):,} neurons, both signs, top 20): {took:.1f} s, {rate / 1e9:.0f} of "
              f"{gemm / 1e9:.0f} GFLOP/s ({rate / gemm:.2f}), {peak_gib() - before:.2f} GiB over the peak before")  # fmt: skip
    for what in ("-m cotscope --help", "-c 'import cotscope'"):
        command = f"{sys.executable} {what}"
        took = median_seconds(lambda c=command: subprocess.run(c, shell=True, check=True, stdout=subprocess.DEVNULL), 1)
        print(f"python {what}: {took:.2f} s")


def memory(arguments: argparse.Namespace) -> None:
    """Peak memory for 96 and 960 rows of the same texts, recorded."""
    loaded = cotscope.load_model(arguments.model, dtype=arguments.dtype)
    arguments.problems = 96
    texts, prompt = job(arguments)
    weights = loaded.parameters() * loaded.dtype.itemsize / 2**30
    print(f"weights {weights:.2f} GiB; 1.4 times that and 1.5 GiB are {1.4 * weights + 1.5:.2f} GiB")
    print(f"after loading: peak {peak_gib():.2f} GiB")
    for times in (1, 10):
        engine = cotscope.Engine(loaded, rows=arguments.batch or 96)
        recorder = cotscope.ActivePoles(loaded.anatomy, k=10)
        engine.generate(texts * times, stop=prompt.stop, max_new_tokens=arguments.new, recorder=recorder)
        print(f"{96 * times} problems: peak {peak_gib():.3f} GiB", flush=True)


def together(arguments: argparse.Namespace) -> None:
    """Four conditions in shared batches, and one after another."""
    loaded = cotscope.load_model(arguments.model, dtype=arguments.dtype)
    texts, prompt = job(arguments)
    engine, rng = cotscope.Engine(loaded, prefix_bytes=0), random.Random(0)
    every = [Neuron(layer, i) for layer in range(loaded.anatomy.layers) for i in range(loaded.anatomy.width)]
    sets = [None, *(cotscope.scale(loaded.anatomy, rng.sample(every, 600), 0.0) for _ in range(3))]
    jobs = [Job(tuple(texts), 120, prompt.stop, None, intervention) for intervention in sets]
    engine.generate(texts[:2], max_new_tokens=4)
    ratios = []
    for _ in range(arguments.rounds):
        began = time.perf_counter()
        shared = engine.run(jobs)
        middle = time.perf_counter()
        apart = [engine.run([one])[0] for one in jobs]
        ended = time.perf_counter()
        ratios.append((ended - middle) / (middle - began))
        same = sum(a.token_ids == b.token_ids for x, y in zip(shared, apart) for a, b in zip(x, y))
        print(f"4 conditions of {len(texts)} problems: together {middle - began:.1f} s, apart {ended - middle:.1f} s, ratio "
              f"{ratios[-1]:.2f}; {same} of {4 * len(texts)} texts the same", flush=True)  # fmt: skip


def agreement(arguments: argparse.Namespace) -> None:
    """Where in this dtype the shared prefix and transformers' own attention lead to other tokens."""
    loaded = cotscope.load_model(arguments.model, dtype=arguments.dtype)
    texts, prompt = job(arguments)
    one, other = (cotscope.Engine(loaded, share_prefix=share).generate(texts, stop=prompt.stop) for share in (True, False))
    same = sum(a.token_ids == b.token_ids for a, b in zip(one, other))
    agreed = 0
    for a, b in zip(one, other):
        pairs = list(zip(a.token_ids, b.token_ids))
        agreed += next((i for i, (x, y) in enumerate(pairs) if x != y), len(pairs))
    tokens = sum(len(a.token_ids) for a in one)
    print(f"{arguments.dtype}: {same} of {len(texts)} texts the same; {agreed} of {tokens} tokens before a text's first "
          f"difference")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    modes = {"peers": peers, "own": own, "memory": memory, "together": together, "agreement": agreement,
             "child": child}  # fmt: skip
    parser.add_argument("mode", choices=list(modes))
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--data", default="builtin")
    parser.add_argument("--prompt-file", default="", help="default: the packaged full prompt")
    parser.add_argument("--problems", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--batch", type=int, default=0, help="rows at once; 0: 16, or as in BATCH")
    parser.add_argument("--new", type=int, default=120, help="tokens to generate at most (memory)")
    parser.add_argument("--check", type=int, default=3, help="problems of the float32 check; 0 leaves it out")
    parser.add_argument("--peers", nargs="*", choices=list(PEERS), default=list(PEERS))
    parser.add_argument("--peer", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    transformers_logging.disable_progress_bar()
    modes[arguments.mode](arguments)


if __name__ == "__main__":
    main()
