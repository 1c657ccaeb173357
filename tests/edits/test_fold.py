"""Exported models load in plain transformers and write what the engine writes with the edit, token by token."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers
from conftest import FAMILIES, tiny_model
from folders import edit as set_keys
from folders import edit_weights, make_folder
from safetensors.torch import load_file

from cotscope.edits import fold
from cotscope.edits.card import licence_of, measured_again, model_card
from cotscope.edits.edit import Base, Edit
from cotscope.edits.fold import export
from cotscope.edits.older import made_for_older
from cotscope.errors import EditError, ModelError
from cotscope.lm.engine import Engine
from cotscope.lm.families import value_vectors
from cotscope.lm.loading import load_model
from cotscope.records import Neuron, Pole
from cotscope.runs.files import held

TARGETS = [Neuron(layer, i) for layer in (0, 2) for i in range(1, 40, 3)]
PROMPTS = ("the same start and a", "What is 12 and 30?", "x")
TOKENS = 12
WITH_BIAS = ("gpt2", "gpt_neox", "opt", "phi")


def loud(tensors: dict[str, torch.Tensor]) -> None:
    """Weights so large that greedy texts differ from prompt to prompt."""
    generator = torch.Generator().manual_seed(3)
    for name, t in tensors.items():
        if t.ndim > 1:
            tensors[name] = torch.randn(t.shape, generator=generator) * 0.25
        elif "bias" in name:
            tensors[name] = torch.randn(t.shape, generator=generator) * 0.1


@pytest.fixture
def folder(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A base model's folder, of the family that is asked for or of qwen2."""
    made = make_folder(tmp_path / "base", getattr(request, "param", "qwen2"))
    edit_weights(made, loud)
    return made


def edit_of(folder: Path, factor: float = -0.7, **changes: object) -> Edit:
    base = Base.of(load_model(str(folder), dtype="float32"), str(folder))
    factors = {n: (factor + 0.01 * n.index,) * 2 for n in TARGETS}
    return Edit(**{"name": "an edit", "base": base, "factors": factors, "chosen": {"by": "hand"}} | changes)


def plainly(folder: Path, prompts: tuple[str, ...] = PROMPTS) -> list[tuple[int, ...]]:
    """What plain transformers writes, without cotscope."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    found = []
    for text in prompts:
        ids = tokenizer(text, return_tensors="pt").input_ids
        out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=TOKENS, do_sample=False, pad_token_id=0)
        found.append(tuple(out[0, ids.shape[1] :].tolist()))
    return found


def by_engine(folder: Path, edit: Edit | None) -> list[tuple[int, ...]]:
    loaded = load_model(str(folder), dtype="float32")
    intervention = None if edit is None else edit.intervention(loaded.anatomy)
    return [c.token_ids for c in Engine(loaded).generate(PROMPTS, max_new_tokens=TOKENS, intervention=intervention)]


def without_end(rows: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """The engine keeps no end token."""
    return [row[: row.index(2)] if 2 in row else row for row in rows]


def left(place: Path) -> list[str]:
    """What stands in a folder, hidden files too."""
    return sorted(p.name for p in place.iterdir())


@pytest.mark.parametrize("folder", ["qwen2", "llama", "gemma2", "phi3", "gpt2", "opt", "gpt_neox"], indirect=True)
def test_it_writes_what_the_engine_writes_with_the_edit(folder: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    family = request.node.callspec.params["folder"]
    offsets = {n: 0.4 - 0.02 * n.index for n in [*TARGETS[::2], Neuron(1, 5)]} if family in WITH_BIAS else {}
    edit = edit_of(folder, offsets=offsets)
    expected = by_engine(folder, edit)
    made = export(edit, tmp_path / "made")
    assert without_end(plainly(made)) == expected != by_engine(folder, None)
    assert without_end(plainly(folder)) == by_engine(folder, None)
    assert {"edit.json", "README.md", "config.json", "model.safetensors", "tokenizer.json"} <= set(left(made))
    there = Edit.read(made / "edit.json")
    assert left(tmp_path) == ["base", "made"] and replace(there, chosen=edit.chosen) == edit
    written = load_model(str(made), dtype="float32").weight_hash(torch.bfloat16)
    assert there.chosen == edit.chosen | {"exported": {"weights": written, "dtype": "float32"}}
    assert made.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("folder", ["qwen2"], indirect=True)
def test_a_model_made_of_a_made_one_knows_the_problems_of_both(folder: Path, tmp_path: Path) -> None:
    first = replace(edit_of(folder), chosen={"by": "reasoning", "questions": ["a", "b"], "templates": ["t"]})
    between = export(first, tmp_path / "between")
    second = replace(edit_of(between), chosen={"by": "attribution", "questions": ["b", "c"]})
    chosen = Edit.read(export(second, tmp_path / "made") / "edit.json").chosen
    assert chosen.pop("exported")
    assert chosen == {"by": "attribution", "questions": ["a", "b", "c"], "templates": ["t"]}


@pytest.mark.parametrize("folder", ["qwen2", "llama"], indirect=True)
def test_offsets_need_a_bias(folder: Path, tmp_path: Path) -> None:
    refused = edit_of(folder, offsets={Neuron(1, 5): 0.1})
    with pytest.raises(EditError, match="an offset in layer 1, and this architecture's down-projections have no bias"):
        export(refused, tmp_path / "made")
    assert left(tmp_path) == ["base"]


def test_what_weights_cannot_hold_is_refused_with_its_reason(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = edit_of(folder).base
    signed = Edit.scaled("signed", base, [Pole(2, 3, -1)], 0.0)
    monkeypatch.setattr(fold, "load_model", lambda *a, **k: pytest.fail("it was loaded for nothing"))
    with pytest.raises(EditError, match="layer 2, neuron 3 depends on its coefficient's sign"):
        export(signed, tmp_path / "made")
    for scope in ("prompt", "generated"):
        with pytest.raises(EditError, match=f"holds for {scope} tokens only"):
            export(edit_of(folder, scope=scope), tmp_path / "made")
    with pytest.raises(EditError, match="it changes nothing"):
        export(Edit("control", base, {}, chosen={"nothing": "nothing was gained"}), tmp_path / "made")
    monkeypatch.undo()
    infinite = Edit.scaled("large", base, TARGETS[:1], 1e39)
    with pytest.raises(EditError, match="breaks the model"):
        export(infinite, tmp_path / "made")
    with pytest.raises(ModelError, match="unknown dtype"):
        export(edit_of(folder), tmp_path / "made", dtype="int8")
    assert left(tmp_path) == ["base"]


def test_weights_that_become_infinite_are_an_error() -> None:
    loaded = tiny_model("gpt2")
    base = Base.of(loaded)
    for broken in (Edit.scaled("e", base, TARGETS[:1], 1e39), Edit("e", base, {}, {TARGETS[0]: 1e39})):
        with pytest.raises(EditError, match="makes weights infinite"):
            fold.fold(broken, tiny_model("gpt2").model)


def test_another_base_is_refused(folder: Path, tmp_path: Path) -> None:
    edit = edit_of(folder)
    other = make_folder(tmp_path / "other")
    with pytest.raises(EditError, match="for another model"):
        export(edit, tmp_path / "made", source=str(other))
    edit_weights(folder, lambda tensors: tensors["model.norm.weight"].add_(1))
    with pytest.raises(EditError, match="for another model"):
        export(edit, tmp_path / "made")
    base = Base.of(load_model(str(folder), dtype="float32"), str(folder))
    larger = Base(base.model, base.weights, 9, base.neurons_per_layer)  # than its weights say
    with pytest.raises(EditError, match="for another model"):
        export(Edit.scaled("e", larger, [Neuron(8, 1)], 0.5), tmp_path / "made")
    assert left(tmp_path) == ["base", "other"]


def test_what_is_there_already_stays(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("made", "link", "base"):
        with pytest.raises(EditError, match="exists already"):
            export(edit_of(folder), tmp_path / name)
    assert left(tmp_path) == ["base", "link", "made"] and left(tmp_path / "made") == []


def test_no_room(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = (folder / "model.safetensors").stat().st_size
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage(1, 1, size - 10_000))
    with pytest.raises(EditError, match="no room for the exported model"):
        export(edit_of(folder), tmp_path / "deep" / "made")
    assert left(tmp_path) == ["base"]
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage(1, 1, 2 * size))
    assert export(edit_of(folder), tmp_path / "deep" / "made").is_dir()


@pytest.mark.parametrize("what", ["model_card", "check_run", "_compare"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_nothing_half_written_stays(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, error: BaseException
) -> None:
    def fails(*_: object) -> None:
        raise error

    edit = edit_of(folder)
    monkeypatch.setattr(fold, what, fails)
    with pytest.raises(type(error)):
        export(edit, tmp_path / "made")
    assert left(tmp_path) == ["base"]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_model_that_says_something_else_is_not_kept(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    """The check that loads the folder again is no ceremony."""
    edit = edit_of(folder)
    monkeypatch.setattr(fold, "fold", lambda edit, model: None)
    with pytest.raises(EditError, match="does not say what edit an edit does"):
        export(edit, tmp_path / "made", dtype=dtype)
    assert left(tmp_path) == ["base"]


@pytest.mark.parametrize("tied", [True, False])
def test_tied_embeddings_stay_as_they_are(tmp_path: Path, tied: bool) -> None:
    folder = make_folder(tmp_path / "base", "qwen2", tie_word_embeddings=tied)
    edit_weights(folder, loud)
    edit = edit_of(folder)
    made = export(edit, tmp_path / "made")
    model = transformers.AutoModelForCausalLM.from_pretrained(made)
    assert (model.get_input_embeddings().weight.data_ptr() == model.get_output_embeddings().weight.data_ptr()) == tied
    assert without_end(plainly(made)) == by_engine(folder, edit)


def test_only_the_neurons_weights_differ(folder: Path, tmp_path: Path) -> None:
    edit = edit_of(folder)
    made = export(edit, tmp_path / "made")
    before, after = (
        dict(transformers.AutoModelForCausalLM.from_pretrained(f, dtype=torch.float32).named_parameters())
        for f in (folder, made)
    )
    differ = {n for n in before if not torch.equal(before[n], after[n])}
    assert before.keys() == after.keys() and differ == {f"model.layers.{layer}.mlp.down_proj.weight" for layer in (0, 2)}
    for layer in (0, 2):
        name = f"model.layers.{layer}.mlp.down_proj.weight"
        by = torch.ones(48)
        for n in TARGETS:
            if n.layer == layer:
                by[n.index] = edit.factors[n][0]
        torch.testing.assert_close(after[name], before[name] * by, rtol=1e-6, atol=0)


@pytest.mark.parametrize(("how", "has"), [
    ({"max_shard_size": "20KB"}, "model.safetensors.index.json"), ({}, "pytorch_model.bin"),
])  # fmt: skip
def test_bases_in_other_files(folder: Path, tmp_path: Path, how: dict[str, str], has: str) -> None:
    expected = by_engine(folder, edit_of(folder))
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    (folder / "model.safetensors").unlink()
    if how:
        model.save_pretrained(folder, **how)
    else:
        torch.save(model.state_dict(), folder / has)
    assert has in left(folder) and len(left(folder)) >= 4
    edit = edit_of(folder)
    made = export(edit, tmp_path / "made")
    assert without_end(plainly(made)) == by_engine(folder, edit) == expected
    assert "model.safetensors" in left(made) and has not in left(made)


def test_what_a_killed_process_left_is_removed_before_room_is_looked_for(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But nothing that another process holds, or that one of an older version, which held nothing, may be writing."""
    edit, usage = edit_of(folder), namedtuple("usage", "total used free")
    dead, old, alive, new, other = (tmp_path / f".{name}.part" for name in (
        "made-12345678", "made-abcdefgh", "made-_bcdefgh", "made-aaaaaaaa", "made-2-12345678"))  # fmt: skip
    for part in (dead, old, alive, new, other):
        part.mkdir()
        (part / "model.safetensors").write_bytes(b"half")
    for part in (dead, other):
        (part / ".lock").write_text("1")
    os.utime(old, (1, 1))
    room = {True: 10**4, False: 10**9}
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage(1, 1, room[dead.exists()]))
    with held(alive):
        made = export(edit, tmp_path / "made")
    assert left(tmp_path) == sorted([alive.name, new.name, other.name, "base", "made"]) and ".lock" not in left(made)


def test_a_file_system_without_locks(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*args: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", none)
    assert ".lock" not in left(export(edit_of(folder), tmp_path / "made"))


def test_settings_and_tokenizer_are_kept(folder: Path, tmp_path: Path) -> None:
    set_keys(folder, "tokenizer_config.json", chat_template="{{ messages }} by template")
    settings = {"eos_token_id": [2, 9], "pad_token_id": 0, "repetition_penalty": 1.25, "max_new_tokens": 77}
    (folder / "generation_config.json").write_text(json.dumps(settings))
    made = export(edit_of(folder), tmp_path / "made")
    kept = transformers.GenerationConfig.from_pretrained(made)
    assert {k: getattr(kept, k) for k in settings} == settings
    old, new = (transformers.AutoTokenizer.from_pretrained(f) for f in (folder, made))
    assert new.get_vocab() == old.get_vocab() and new.chat_template == old.chat_template == "{{ messages }} by template"
    assert new.special_tokens_map == old.special_tokens_map and new("12 + 3?").input_ids == old("12 + 3?").input_ids
    before, after = (json.loads((f / "config.json").read_text()) for f in (folder, made))
    added = {"transformers_version": after["transformers_version"], "torch_dtype": before["dtype"]}
    assert after == before | added | {"rope_theta": before["rope_parameters"]["rope_theta"]}


@pytest.mark.parametrize("turning", [
    {"rope_type": "default", "rope_theta": 5e5},
    {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
     "original_max_position_embeddings": 64},
])  # fmt: skip
def test_older_programs_find_what_positions_turn_by(folder: Path, tmp_path: Path, turning: dict[str, object]) -> None:
    """Without a word transformers 4 takes its own `rope_theta` where there is none at the top."""
    set_keys(folder, "config.json", rope_parameters=turning, auto_map={"AutoConfig": "code_of_its_own.Config"})
    made = export(edit_of(folder), tmp_path / "made")
    config = json.loads((made / "config.json").read_text())
    assert config["rope_theta"] == 5e5 and config["torch_dtype"] == config["dtype"] and "auto_map" not in config
    scaled = {k: v for k, v in turning.items() if k != "rope_theta"} if turning["rope_type"] != "default" else None
    assert config.get("rope_scaling") == scaled
    read = transformers.AutoConfig.from_pretrained(made)
    assert read.rope_parameters == transformers.AutoConfig.from_pretrained(folder).rope_parameters
    assert read.rope_parameters.items() >= turning.items()


@pytest.mark.parametrize("folder", ["gpt_neox", "phi3", "gemma3"], indirect=True)
def test_where_older_programs_read_otherwise_nothing_is_added(folder: Path, tmp_path: Path) -> None:
    config = json.loads((export(edit_of(folder), tmp_path / "made") / "config.json").read_text())
    assert "rope_parameters" in config and not {"rope_theta", "rope_scaling"} & {*config}


def test_older_programs_know_the_tokenizer(folder: Path) -> None:
    set_keys(folder, "tokenizer_config.json", tokenizer_class="TokenizersBackend", extra_special_tokens=["3", "4"])
    old = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
    made_for_older(folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    assert config["model_input_names"] == ["input_ids", "attention_mask"]
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast" and "extra_special_tokens" not in config
    new = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
    assert new.extra_special_tokens == old.extra_special_tokens == config["additional_special_tokens"] == ["3", "4"]
    assert new("3 + 4").input_ids == old("3 + 4").input_ids


def test_in_16_bits_what_it_says_is_compared_in_float32(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a factor stands decides what bfloat16 rounds: some models say other things by that alone."""
    said, compared = fold._said, list[tuple[torch.dtype, float]]()

    def watched(model: transformers.PreTrainedModel) -> torch.Tensor:
        found = said(model)
        compared.append((next(model.parameters()).dtype, float(found.square().sum())))
        return found

    monkeypatch.setattr(fold, "_said", watched)
    made = export(edit_of(folder), tmp_path / "made", dtype="bfloat16")
    assert [dtype for dtype, _ in compared] == [torch.float32] * 2 and compared[0][1] == pytest.approx(compared[1][1], rel=0.02)
    assert {t.dtype for t in load_file(made / "model.safetensors").values()} == {torch.bfloat16}


@pytest.mark.parametrize("folder", ["qwen2", "gpt2"], indirect=True)
def test_other_dtypes(folder: Path, tmp_path: Path) -> None:
    edit = edit_of(folder)
    made = export(edit, tmp_path / "made", dtype="bfloat16")
    assert json.loads((made / "config.json").read_text())["dtype"] == "bfloat16"
    loaded = load_model(str(made), dtype="bfloat16", kernels="pytorch")
    assert any(c.token_ids for c in Engine(loaded).generate(PROMPTS, max_new_tokens=4))
    n = TARGETS[0]
    before = load_model(str(folder), dtype="bfloat16", kernels="pytorch").anatomy
    factor = torch.tensor(edit.factors[n][0])
    expected = (value_vectors(before, n.layer)[:, n.index] * factor).bfloat16().float()
    assert torch.equal(value_vectors(loaded.anatomy, n.layer)[:, n.index], expected)
    assert (made / "model.safetensors").stat().st_size < 0.6 * (folder / "model.safetensors").stat().st_size
    stored = export(Edit(edit.name, Base.of(loaded, str(made)), edit.factors), tmp_path / "again")
    assert json.loads((stored / "config.json").read_text())["dtype"] == "bfloat16"  # as the base's files


def test_an_exported_model_is_a_base_for_the_edit_that_undoes_it(folder: Path, tmp_path: Path) -> None:
    edit = edit_of(folder)
    edit.write(tmp_path / "edit.json")
    made = export(str(tmp_path / "edit.json"), str(tmp_path / "made"))  # as a notebook calls it
    undone = Edit("undone", Base.of(load_model(str(made), dtype="float32"), str(made)), edit.inverse().factors)
    back = export(undone, tmp_path / "back")
    assert plainly(back) == plainly(folder)
    with pytest.raises(EditError, match="for another model"):
        export(edit, tmp_path / "more", source=str(made))


# -- the card ------------------------------------------------------------------------------------------------------------

MEASURED = {
    "data": "builtin", "n": 48, "accuracy_base": 0.5, "accuracy": 0.25, "difference": -0.25, "difference_low": -0.4,
    "difference_high": -0.1, "p_value": 0.0042, "battery_base": 0.9, "battery": 0.875, "perplexity_ratio": 1.023,
}  # fmt: skip


def test_the_card_tells_base_edit_and_what_was_measured(folder: Path, tmp_path: Path) -> None:
    (folder / "README.md").write_text("---\nlanguage: en\nlicense: MIT\n---\n# Base\n")
    edit = edit_of(folder, measured=(MEASURED,))
    card = (export(edit, tmp_path / "made") / "README.md").read_text()
    head, body = card.split("\n---\n", 1)
    assert head.startswith("---\nlicense: mit\nlibrary_name: transformers") and "base_model" not in head
    assert edit.base.weights in body and "26 of its 144 feed-forward neurons" in body and "by hand" in body
    assert "from -0.69 to -0.33" in body and "Layers: 0, 2\n" in body and "(the edit on the base)" in body
    row = "| builtin (the edit on the base) | 48 | 0.500 | 0.250 | -0.250 [-0.400, -0.100] | 0.0042 | 0.900 → 0.875 | × 1.023 |"
    assert row in body.splitlines()


def test_the_card_tells_how_factors_were_found(folder: Path, tmp_path: Path) -> None:
    tuned = {"method": "factors", "data": "more.jsonl", "own": True, "rate": 0.003, "seed": 2, "of": "cd" * 32, "curve": [1, 2]}
    chosen = {"by": "all", "found": "ef" * 32, "among": "12" * 32, "questions": ["34" * 32]}
    card = model_card(edit_of(folder, chosen=chosen | {"tuned": tuned}), str(folder), folder, "float32")
    assert "- Training: method factors, data more.jsonl, own True, rate 0.003, seed 2\n" in card
    assert "- Chosen by: by all\n" in card and not any(digits * 32 in card for digits in ("cd", "ef", "12", "34"))
    steered = {"goal": "worse", "group": "all 26", "factor": 0.5, "candidates": 8, "solved": 1, "untouched": 5, "problems": 6}
    card = model_card(edit_of(folder, chosen={"by": "all", "steered": steered}), str(folder), folder, "float32")
    assert "- Search: searched to be worse, the best of 8 candidates: all 26, factor 0.5 (1 of 6" in card
    assert "Training" not in card


def test_a_card_is_told_what_was_measured_since(folder: Path, tmp_path: Path) -> None:
    edit = edit_of(folder)
    before = (export(edit, tmp_path / "made") / "README.md").read_text()
    assert "Nothing yet" in before
    card, after = tmp_path / "made/README.md", replace(edit, measured=(MEASURED | {"data": "half \ud800"},))
    measured_again(tmp_path / "made", after)
    expected = model_card(after, str(folder), folder, "float32")
    assert (
        card.read_text() == expected.encode("utf-8", "backslashreplace").decode()
        and "half \\" in expected.encode("utf-8", "backslashreplace").decode()
    )
    for mine in (b"# Mine\n", b"\xff\xfe", before.replace(edit.base.weights, "ab" * 32).encode()):
        card.write_bytes(mine)
        measured_again(tmp_path / "made", after)
        assert card.read_bytes() == mine
    measured_again(tmp_path / "nowhere", after)


def test_a_card_of_a_hub_model_names_it() -> None:
    edit = Edit.scaled("e", Base("some/model", "ab", 3, 48), TARGETS, 0.5)
    card = model_card(edit, "some/model", Path("/nowhere"), "bfloat16")
    assert "\nbase_model: some/model\n" in card and "Nothing yet" in card and "license: " not in card
    assert "One factor of the neurons' coefficients" in card and ": 0.5\n" in card


HOSTILE = "<script>alert(1)</script> | x |\n# Big\n- ![i](http://x/y) `code` --- \u2028 line"


def test_what_others_wrote_is_not_acted_on() -> None:
    """Each text stays on its line, and Markdown and HTML see none of it."""
    base = Base(HOSTILE, "ab", 3, 48)
    strange = {"data": HOSTILE, "n": HOSTILE, "accuracy": HOSTILE, "p_value": None, "difference": 10**400, "battery": [1]}
    edit = Edit.scaled(HOSTILE, base, TARGETS, 0.5, chosen={"by": HOSTILE, HOSTILE: 1, "list": [HOSTILE]})
    plain = Edit.scaled("name", Base("model", "ab", 3, 48), TARGETS, 0.5, chosen={"by": "x", "y": 1})
    card = model_card(edit.with_measured(strange), HOSTILE, Path("/nowhere"), "float32")
    same = model_card(plain.with_measured({"data": "d", "n": 1}), "model", Path("/nowhere"), "float32")
    lines, expected = card.split("\n"), same.split("\n")
    assert len(card.splitlines()) + 1 == len(lines) == len(expected)
    for line, other in zip(lines, expected, strict=True):
        unescaped = [c for i, c in enumerate(line) if c in "<>|`[]*_!#" and (i == 0 or line[i - 1] != "\\")]
        assert [c for c in unescaped if c != "!"] == [c for c in other if c in "<>|`[]*_#"], line


def test_half_a_character_in_a_name_ends_nothing(folder: Path, tmp_path: Path) -> None:
    made = export(edit_of(folder, name="half \ud800"), tmp_path / "made")
    assert "# half \\ud800\n" in (made / "README.md").read_text(encoding="utf-8")
    assert Edit.read(made / "edit.json").name == "half \ud800"


def test_licences(tmp_path: Path) -> None:
    for content, expected in (
        ("---\nlicense: Apache-2.0\n---\n", {"license": "apache-2.0"}), ("---\nx: y\n---\nlicense: mit\n", {}), ("", {}),
        ("---\nlicense: a b\n---\n", {}), ("---\nlicense: 'mit\n---\n", {}), ("---\nlicense_name: x\n---\n", {}),
        ("---\nlicense: \"mit\"\n---\n", {"license": "mit"}),
        ("---\nlicense: other\nlicense_name: Some-research\nlicense_link: https://x.example/LICENSE\n---\n",
         {"license": "other", "license_name": "Some-research", "license_link": "https://x.example/LICENSE"}),
        ("---\nlicense: other\nlicense_name: 'x:'\nlicense_link: LICENSE\n---\n", {"license": "other"}),
    ):  # fmt: skip
        (tmp_path / "README.md").write_text(content)
        assert licence_of("x/y", tmp_path) == expected
    assert licence_of("x/y", tmp_path / "none") == {}
    assert licence_of("smollm2-135m", tmp_path / "none") == {"license": "apache-2.0"}


def test_every_family_with_a_bias_is_known_here() -> None:
    """Those whose down-projections have one."""
    found = {f for f in FAMILIES if getattr(tiny_model(f).anatomy.down[0], "bias", None) is not None}
    assert found == set(WITH_BIAS)
