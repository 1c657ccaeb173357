"""The engine against `model.generate` on each prompt alone, and the recorder against a pass without a cache."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor

import cotscope.lm.rows
from cotscope.data.builtin import generate
from cotscope.errors import PromptError
from cotscope.lm.attention import Prefix
from cotscope.lm.engine import Engine
from cotscope.lm.hooks import coefficient_hooks
from cotscope.lm.interventions import scale
from cotscope.lm.jobs import Job, Work
from cotscope.lm.loading import LoadedModel
from cotscope.lm.passes import Passes, common_prefix
from cotscope.lm.prefixes import SLACK, Prefixes
from cotscope.lm.recorders import ActivePoles, ChosenNeurons, PoleTally
from cotscope.lm.scoring import Given, score
from cotscope.lm.select import sample
from cotscope.prompts.derive import derive_prompts
from cotscope.prompts.exemplars import load_exemplars
from cotscope.records import Neuron, Pole

NEW = 12
# Gemma 2 caps its attention scores and Falcon adds a bias to them: the plain path is right for those.
PLAIN = {"gemma2", "falcon_alibi", "qwen3_5"}


def prompts(count: int, shared: int = 20, seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    letters = "abcdefgh ijkl"
    common = "".join(rng.choices(letters, k=shared))
    return [common + "".join(rng.choices(letters, k=rng.randint(1, 15))) for _ in range(count)]


def alone(loaded: LoadedModel, text: str, new: int = NEW) -> tuple[int, ...]:
    """The tokens that transformers generates for this prompt alone, its end token left out."""
    ids = torch.tensor([loaded.encode(text)])
    out = loaded.model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, do_sample=False)
    tokens = out[0, ids.shape[1] :].tolist()
    end = next((i for i, token in enumerate(tokens) if token in loaded.end_tokens), len(tokens))
    return tuple(tokens[:end])


def test_same_tokens_as_transformers(tiny: LoadedModel) -> None:
    texts = prompts(9)
    expected = [alone(tiny, text) for text in texts]
    assert len(set(expected)) > 1, "the test model says the same whatever the prompt"
    for rows in (1, 4, 9):
        engine = Engine(tiny, rows=rows)
        got = engine.generate(texts, max_new_tokens=NEW)
        assert [c.token_ids for c in got] == expected
        assert engine.shares_prefix(40) == (tiny.name not in PLAIN)
    order = list(range(9))
    random.Random(1).shuffle(order)
    got = Engine(tiny, rows=4).generate([texts[i] for i in order], max_new_tokens=NEW)
    assert [c.token_ids for c in got] == [expected[i] for i in order]


def test_jobs_in_one_batch_are_as_jobs_alone(tiny: LoadedModel) -> None:
    """Rows of different prompts, interventions and recorders share a batch, and refill it, without a trace."""
    zeroed = scale(tiny.anatomy, [Neuron(layer, i) for layer in range(3) for i in range(0, 40, 3)], 0.0)
    doubled = scale(tiny.anatomy, [Pole(layer, i, 1) for layer in range(3) for i in range(1, 40, 2)], 2.0)
    settings = [(prompts(7), None, 5), (prompts(4, shared=0, seed=1), zeroed, 9), (prompts(1, seed=2), None, 12),
                (prompts(6, seed=3), doubled, 7)]  # fmt: skip
    apart, kept = [], []
    for texts, intervention, new in settings:
        recorder = ActivePoles(tiny.anatomy, k=4, keep_steps=True)
        apart.append(Engine(tiny).generate(texts, max_new_tokens=new, intervention=intervention, recorder=recorder))
        kept.append(recorder.steps)
    for rows, ahead in ((5, False), (18, False), (3, True), (18, True)):
        recorders = [ActivePoles(tiny.anatomy, k=4, keep_steps=True) for _ in settings]
        jobs = [Job(tuple(t), new, (), r, i) for (t, i, new), r in zip(settings, recorders)]
        ended: list[int] = []
        engine = Engine(tiny, rows=rows, ahead=ahead)
        got = engine.run(jobs, finished=lambda job, done, ended=ended: ended.append(job))
        assert got == apart
        assert engine.shares_prefix(40) == (tiny.name not in PLAIN)
        assert sorted(ended) == [0, 1, 2, 3]
        for recorder, expected in zip(recorders, kept):
            assert recorder.steps.keys() == expected.keys()
            for row, (index, coefficient) in expected.items():
                mine, order = recorder.steps[row], index.argsort(-1)
                again = mine[0].argsort(-1)
                assert torch.equal(mine[0].gather(-1, again), index.gather(-1, order))
                torch.testing.assert_close(mine[1].gather(-1, again), coefficient.gather(-1, order), atol=2e-4, rtol=1e-3)


def test_chosen_neurons_are_recorded_at_every_step(qwen: LoadedModel) -> None:
    texts, chosen = prompts(5), [Neuron(2, 7), Neuron(0, 3), Neuron(0, 1)]
    seen: dict[int, Tensor] = {}
    recorder = ChosenNeurons(qwen.anatomy, chosen, seen.__setitem__)
    assert recorder.neurons == [Neuron(0, 1), Neuron(0, 3), Neuron(2, 7)]
    completions = Engine(qwen, rows=2).generate(texts, max_new_tokens=NEW, recorder=recorder)
    for row, (text, completion) in enumerate(zip(texts, completions)):
        ids, m = qwen.encode(text), []
        with (
            torch.inference_mode(),
            coefficient_hooks(qwen.anatomy, None, lambda _, layer, m=m: m.append(layer[0].clone())),
        ):
            qwen.model(input_ids=torch.tensor([ids + list(completion.token_ids)]))
        expected = torch.stack([m[0][:, 1], m[0][:, 3], m[2][:, 7]], dim=1)[len(ids) - 1 :][: completion.steps]
        torch.testing.assert_close(seen[row], expected, atol=2e-4, rtol=1e-3)


def test_within_a_sliding_window_the_prefix_is_shared() -> None:
    from conftest import tiny_model

    texts = prompts(5, shared=5)
    for family in ("mistral_sliding", "gemma3"):
        loaded = tiny_model(family)
        engine = Engine(loaded)
        assert engine.shares_prefix(max(map(len, texts)) + 1 + NEW)
        assert [c.token_ids for c in engine.generate(texts, max_new_tokens=NEW)] == [alone(loaded, t) for t in texts]


@pytest.mark.parametrize("texts", [prompts(5, shared=0), ["same prompt"] * 3, ["x"]], ids=["nothing", "all", "one"])
def test_whatever_is_shared(qwen: LoadedModel, texts: list[str]) -> None:
    got = Engine(qwen).generate(texts, max_new_tokens=NEW)
    assert [c.token_ids for c in got] == [alone(qwen, t) for t in texts]


def test_which_families_share_a_prefix() -> None:
    from conftest import FAMILIES, tiny_model

    shares = {name: Engine(tiny_model(name)).shares_prefix(10) for name in FAMILIES}
    assert {name for name, share in shares.items() if not share} == PLAIN


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_paths_may_differ_by_rounding_only(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    from conftest import tiny_model

    loaded = tiny_model("qwen2", dtype=dtype)
    assert Engine(loaded).shares_prefix(10)
    real = cotscope.lm.rows.padded
    monkeypatch.setattr(cotscope.lm.rows, "padded", lambda ids, start, *more: real(ids, start + (start > 0), *more))
    assert not Engine(loaded).shares_prefix(10)  # the positions of what follows the prefix are wrong by one


def test_beyond_a_sliding_window_the_plain_path_is_taken() -> None:
    from conftest import tiny_model

    engine = Engine(tiny_model("mistral_sliding"))
    assert engine.shares_prefix(40)
    assert not engine.shares_prefix(41)


def test_rows_end_at_stop_strings(qwen: LoadedModel) -> None:
    [free] = Engine(qwen).generate(["hello there"], max_new_tokens=40)
    stop = free.text[10:12]
    [stopped] = Engine(qwen).generate(["hello there"], max_new_tokens=40, stop=(stop,))
    assert stopped.finish == "stop"
    assert stopped.text == free.text[: free.text.index(stop)]
    assert stopped.steps == len(stopped.token_ids) == free.text.index(stop) + 2
    assert free.finish == "length" or free.steps == len(free.token_ids) + 1


def test_a_prompt_beyond_the_context_is_refused(qwen: LoadedModel) -> None:
    with pytest.raises(PromptError, match=r"at most 246 tokens .*got 301"):
        Engine(qwen).generate(["a" * 300], max_new_tokens=10)


def test_prefixes_of_earlier_jobs_are_used_and_change_nothing(tiny: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same prompt, a longer one, a shorter one and another; untouched, disrupted, and scored as well as written."""
    zeroed = [scale(tiny.anatomy, [Neuron(layer, i) for layer in range(3) for i in range(start, 40, 3)], 0.0, scope)
              for start, scope in ((0, "all"), (0, "all"), (1, "all"), (0, "prompt"), (0, "generated"))]  # fmt: skip
    keys = [i.prefix_key for i in zeroed]
    assert keys[0] == keys[1] == keys[3] != keys[2]
    assert keys[4] == "", "a prompt is untouched where only generated tokens are disrupted"
    start = prompts(1, shared=60)[0][:60]
    texts = [[start[:n] + x + "?" for x in ("one", "two", "a third", "3")] for n in (60, 50, 57, 20)] + [prompts(4, seed=5)]
    answers = tuple(tuple(tiny.encode(a)[len(tiny.encode("")) :]) for a in (" one", " 2", " three", " x"))
    computed: list[int] = []
    run_prefix = Passes.run_prefix

    def counted(self: Passes, work: Work) -> Prefix:
        computed.append(work.common)
        return run_prefix(self, work)

    monkeypatch.setattr(Passes, "run_prefix", counted)
    engine, work = Engine(tiny), 0
    if not engine.shares_prefix(70):
        pytest.skip("this model takes the plain path")
    jobs = [(group, Given(tuple(group), answers, intervention=i)) for group in texts for i in (None, *zeroed)]
    expected = [
        (plain.generate(group, max_new_tokens=4, intervention=given.intervention), score(plain, given))
        for group, given in jobs
        for plain in (Engine(tiny, prefix_bytes=0),)
    ]
    for (group, given), (written, scores) in zip(jobs * 2, expected * 2, strict=True):
        computed.clear()
        assert engine.generate(group, max_new_tokens=4, intervention=given.intervention) == written
        for mine, plain in zip(score(engine, given), scores, strict=True):
            assert [t.log_prob for t in mine] == pytest.approx([t.log_prob for t in plain], abs=1e-4)
        work += len(computed)
    # The prompt of 60 letters serves the next two; one of 20 letters is its beginning; the last is another.
    assert work == 2 * 3, "prompts that differ times interventions that do"


def test_prefixes_are_dropped_when_they_are_many() -> None:
    def prefix(length: int) -> Prefix:
        keys, values = (torch.arange(length, dtype=torch.float32).reshape(1, 1, length, 1) for _ in range(2))
        return Prefix([keys], [values], length)

    kept = Prefixes(limit=8 * 250)
    for name, start in (("a", 0), ("b", 1000), ("c", 2000)):
        kept.keep(name, range(start, start + 100), prefix(100))
    assert kept.find("a", range(100)) is None, "the first was dropped"
    assert kept.find("b", range(1000, 1100)).length == 100
    kept.keep("d", range(50), prefix(50))
    kept.keep("e", range(100), prefix(100))
    assert kept.find("c", range(2000, 2100)) is None, "b was used after it"
    found = kept.find("b", [*range(1000, 1090), 7])
    assert found.length == 90
    assert torch.equal(found.keys[0].flatten(), torch.arange(90.0))
    assert kept.find("b", [*range(1000, 1090), *range(SLACK)]).length == 90
    assert kept.find("b", [*range(1000, 1090), *range(SLACK + 1)]) is None
    assert kept.find("e", range(1000, 1100)) is None
    assert kept.find("e", []) is None
    nothing = Prefixes(limit=0)
    nothing.keep("", range(9), prefix(9))
    assert nothing.find("", range(9)) is None


def test_common_prefix_leaves_a_token_to_each_row() -> None:
    assert common_prefix([[1, 2, 3], [1, 2, 3, 4]]) == 2
    assert common_prefix([[1, 2], [1, 3]]) == 1
    assert common_prefix([[5], [5]]) == 0
    assert common_prefix([[7, 8, 9]]) == 2


def test_a_prompt_without_a_token_is_refused_and_spoils_no_other(tiny: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    encode = tiny.encode
    monkeypatch.setattr(LoadedModel, "encode", lambda self, text: encode(text) if text else [])
    with pytest.raises(PromptError, match="a prompt has no tokens"):
        Engine(tiny).generate(["A question", ""], max_new_tokens=2)


def naive(loaded: LoadedModel, text: str, written: tuple[int, ...], steps: int, k: int) -> tuple[Tensor, Tensor]:
    """Active poles by one pass over the whole sequence without a cache: indices and coefficients (steps, layers, k)."""
    ids = loaded.encode(text) + list(written)
    seen: list[Tensor] = []
    with (
        torch.inference_mode(),
        coefficient_hooks(loaded.anatomy, None, lambda _, m: seen.append(m.flatten(0, -2).float().clone())),
    ):
        loaded.model(input_ids=torch.tensor([ids]))
    first = len(loaded.encode(text)) - 1
    m = torch.stack(seen, dim=1)[first : first + steps]
    index = (m.abs() * loaded.anatomy.norms).topk(k, dim=-1).indices
    return index, m.gather(-1, index)


def test_recorder_is_exact(tiny: LoadedModel) -> None:
    loaded, texts = tiny, prompts(7)
    tallies: list[PoleTally] = []
    recorder = ActivePoles(loaded.anatomy, k=5, sink=tallies.append, keep_steps=True)
    completions = Engine(loaded, rows=3).generate(texts, max_new_tokens=NEW, recorder=recorder)
    assert len(tallies) == 1
    for number, (text, completion) in enumerate(zip(texts, completions)):
        index, coefficient = naive(loaded, text, completion.token_ids, completion.steps, 5)
        mine = recorder.steps[number]
        assert len(mine[0]) == completion.steps
        for step, (i, c) in enumerate(zip(*mine)):
            order, expected = i.long().argsort(-1), index[step].argsort(-1)
            assert torch.equal(i.long().gather(-1, order), index[step].gather(-1, expected))
            torch.testing.assert_close(c.gather(-1, order), coefficient[step].gather(-1, expected), atol=2e-4, rtol=1e-3)
    total = sum(int(t.steps.sum()) for t in tallies)
    silent = sum(int((c == 0).sum()) for _, c in recorder.steps.values())  # OPT's ReLU leaves fewer than 5 in some layers
    assert total == sum(c.steps for c in completions) * loaded.anatomy.layers * 5 - silent


def test_tally_sums_the_steps(qwen: LoadedModel) -> None:
    tallies: list[PoleTally] = []
    recorder = ActivePoles(qwen.anatomy, k=4, sink=tallies.append, keep_steps=True)
    Engine(qwen).generate(prompts(4), max_new_tokens=6, recorder=recorder)
    [tally] = tallies
    expected: dict[tuple[int, Pole], list[float]] = {}
    for row, (index, coefficient) in recorder.steps.items():
        for step in range(len(index)):
            for layer in range(qwen.anatomy.layers):
                for i, c in zip(index[step, layer].tolist(), coefficient[step, layer].tolist()):
                    expected.setdefault((row, Pole(layer, i, 1 if c > 0 else -1)), []).append(c)
    columns = (tally.row, tally.layer, tally.index, tally.sign, tally.steps, tally.coefficient, tally.update_size)
    got = {(r, Pole(l, i, s)): (n, c, u) for r, l, i, s, n, c, u in zip(*(a.tolist() for a in columns))}  # noqa: E741
    norms = qwen.anatomy.norms
    assert got.keys() == expected.keys()
    for key, values in expected.items():
        steps, coefficient, size = got[key]
        assert steps == len(values)
        assert coefficient == pytest.approx(sum(values), rel=1e-6)
        assert size == pytest.approx(sum(map(abs, values)) * norms[key[1].layer, key[1].index].item(), rel=1e-5)


def test_zeroing_neurons_is_zeroing_their_value_vectors(tiny: LoadedModel) -> None:
    from cotscope.lm.families import value_matrix

    texts, targets = prompts(4), [Neuron(layer, i) for layer in range(3) for i in range(layer, 40, 2)]
    plain = Engine(tiny).generate(texts, max_new_tokens=NEW)
    before = tiny.weight_hash()
    disrupted = Engine(tiny).generate(texts, max_new_tokens=NEW, intervention=scale(tiny.anatomy, targets, 0.0))
    assert tiny.weight_hash() == before
    assert Engine(tiny).generate(texts, max_new_tokens=NEW) == plain
    assert disrupted != plain
    for layer, index in targets:
        value_matrix(tiny.anatomy.down[layer])[:, index] = 0
    assert tiny.weight_hash() != before
    assert [c.token_ids for c in disrupted] == [alone(tiny, t) for t in texts]


def test_a_pole_is_zeroed_with_its_sign_only(qwen: LoadedModel) -> None:
    seen: dict[str, Tensor] = {}

    def look(name: str, intervention: object) -> None:
        def keep(layer: int, m: Tensor) -> None:
            if layer == 0:
                seen[name] = m.clone()

        with torch.inference_mode(), coefficient_hooks(qwen.anatomy, intervention, keep):
            qwen.model(input_ids=torch.tensor([qwen.encode("some words to look at")]))

    look("none", None)
    look("pole", scale(qwen.anatomy, [Pole(0, 5, 1)], 0.0))
    look("half", scale(qwen.anatomy, [Neuron(0, 5)], 0.5))
    column = seen["none"][..., 5]
    assert (column > 0).any()
    assert (column < 0).any()
    assert torch.equal(seen["pole"][..., 5], column.clamp(max=0))
    assert torch.equal(seen["half"][..., 5], column * 0.5)
    rest = [i for i in range(qwen.anatomy.width) if i != 5]
    assert torch.equal(seen["pole"][..., rest], seen["none"][..., rest])


@pytest.mark.model
def test_default_model_writes_what_transformers_writes(default_model) -> None:
    """5 real few-shot prompts in float32, in batches of 3, against transformers on each prompt alone: `generate` on one, and of
    each a pass over prompt and text, whose most likely token must be the next one everywhere."""
    loaded = default_model("float32")
    full = derive_prompts(load_exemplars(None))[0]
    prefix = full.prefix[: full.prefix.index("Question:", 900)]  # two or three exemplars
    texts = [f"{prefix}Question: {p.question}{full.cue}" for p in generate(5, seed=5)]
    engine = Engine(loaded, rows=3)
    assert engine.shares_prefix(500)
    got = [c.token_ids for c in engine.generate(texts, max_new_tokens=20)]
    assert got[0] == alone(loaded, texts[0], 20)
    for text, written in zip(texts, got, strict=True):
        ids = torch.tensor([[*loaded.encode(text), *written]])
        with torch.inference_mode():
            best = loaded.model(input_ids=ids, logits_to_keep=len(written) + 1).logits[0].argmax(-1).tolist()
        assert tuple(best[:-1]) == written and (len(written) == 20 or best[-1] in loaded.end_tokens)


def test_sampled_rows_are_their_own_draws(tiny: LoadedModel) -> None:
    """What a row draws does not depend on its batch; greedy rows beside it are greedy; another seed draws otherwise."""
    texts = prompts(6)
    greedy = Engine(tiny).generate(texts, max_new_tokens=NEW)
    jobs = [Job(tuple(texts), NEW, temperature=1.0, seed=seed) for seed in (1, 2)] + [Job(tuple(texts), NEW)]
    alone = [Engine(tiny).run([job])[0] for job in jobs]
    for rows, ahead in ((1, False), (7, False), (18, True)):
        assert Engine(tiny, rows=rows, ahead=ahead).run(jobs) == alone
    assert alone[2] == greedy and alone[0] != greedy and alone[0] != alone[1]
    cold = Engine(tiny).generate(texts, max_new_tokens=NEW, temperature=1e-4, seed=3)
    assert [c.token_ids for c in cold] == [c.token_ids for c in greedy]


def test_samples_follow_the_softmax() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0, -torch.inf, 1.5, -torch.inf]])
    n = 40_000
    uniform = (torch.arange(n, dtype=torch.float64) + 0.5) / n  # every quantile once: shares are exact to 1 / n
    drawn = sample(logits.expand(n, -1), torch.full((n,), 2.0, dtype=torch.float64), uniform)
    shares = torch.bincount(drawn, minlength=6) / n
    assert torch.allclose(shares, torch.softmax(logits[0] / 2, 0), atol=2 / n)
    ends = torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64)
    assert sample(logits.expand(2, -1), torch.ones(2, dtype=torch.float64), ends).tolist() == [0, 4]
