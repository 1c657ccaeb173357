"""Model folders that are damaged, do not fit together, or mean harm: one line each, and nothing of theirs is run."""

from __future__ import annotations

import ast
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from conftest import FAMILIES
from folders import edit, edit_weights, make_folder
from safetensors.torch import load_file
from tokenizers.processors import TemplateProcessing
from torch import Tensor

import cotscope
from cotscope.errors import ModelError, PromptError
from cotscope.lm.engine import Engine
from cotscope.lm.loading import load_model
from cotscope.lm.reading import not_finite
from cotscope.lm.scoring import Given, score


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("whole") / "model")


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(whole, tmp_path / "model"))


def refused(folder: Path, words: str, **settings: str) -> None:
    with pytest.raises(ModelError, match=words) as error:
        load_model(str(folder), **({"dtype": "float32"} | settings))
    assert "\n" not in str(error.value)


def test_a_whole_folder_is_loaded(folder: Path) -> None:
    for dtype in ("float32", "bfloat16", "float16"):
        loaded = load_model(str(folder), dtype=dtype)
        assert loaded.dtype_name == dtype
        assert loaded.kernels == "pytorch"  # its sizes don't suit the others
    assert Engine(loaded).generate(["1 + 2"], max_new_tokens=3)


CODE = """
import pathlib
pathlib.Path({marker!r}).write_text("run")
from transformers import Qwen2Config as Config, Qwen2ForCausalLM as Model, Qwen2Tokenizer as Words
"""


@pytest.mark.parametrize("kind", ["made-up", "qwen2"])
def test_code_of_a_model_is_not_run(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Not even where a terminal could be asked, and says yes."""
    marker = tmp_path / "marker"
    (folder / "modeling.py").write_text(CODE.format(marker=str(marker)), encoding="utf-8")
    code = {"AutoConfig": "modeling.Config", "AutoModelForCausalLM": "modeling.Model"}
    edit(folder, "config.json", model_type=kind, auto_map=code)
    code = {"AutoTokenizer": ["modeling.Words", "modeling.Words"]}
    edit(folder, "tokenizer_config.json", tokenizer_class="Words", auto_map=code)
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("somebody was asked"))
    if kind == "qwen2":
        load_model(str(folder), dtype="float32")  # transformers' own code of that name
    else:
        refused(folder, r"comes with code of its own, which cotscope does not run")
    assert not marker.exists()


def test_whatever_is_read_of_a_model_is_read_without_its_code() -> None:
    """Said in every call: where it is left open, transformers asks at a terminal."""
    source = Path(cotscope.__file__).parent
    calls = [
        (f"{path.name}:{node.lineno}", {k.arg: ast.unparse(k.value) for k in node.keywords})
        for path in source.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "from_pretrained"
    ]
    assert len(calls) >= 3
    for where, given in calls:
        assert given.get("trust_remote_code") == "False", where


class Harm:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[object, ...]:
        return open, (self.path, "w")


def test_old_checkpoints_are_read_by_their_weights_only(folder: Path, tmp_path: Path) -> None:
    expected = load_model(str(folder), dtype="float32").weight_hash()
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(tensors, folder / "pytorch_model.bin")
    assert load_model(str(folder), dtype="float32").weight_hash() == expected
    torch.save(tensors | {"more": Harm(tmp_path / "marker")}, folder / "pytorch_model.bin")
    refused(folder, r"a checkpoint of model .* holds more than weights, so it was not read")
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Harm(tmp_path / "marker")) + bytes(10_000))
    refused(folder, r"holds more than weights|can't be read")
    assert not (tmp_path / "marker").exists()


def without(name: str) -> Callable[[dict[str, Tensor]], object]:
    return lambda tensors: tensors.pop(name)


def with_one(name: str, value: float) -> Callable[[dict[str, Tensor]], object]:
    return lambda tensors: tensors[name].view(-1)[5].fill_(value)


UP = "model.layers.1.mlp.up_proj.weight"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without(UP), rf"are not whole; expected {UP}; got none"),
        (without("lm_head.weight"), r"are not whole; expected lm_head\.weight"),
        (
            lambda tensors: tensors.clear(),
            r"can't be those .*; expected 7,712 of them .*; got files of",
        ),
        (lambda tensors: tensors.update({UP: torch.zeros(3, 4)}), rf"expected {UP} of shape \(48, 32\); got \(3, 4\)"),
        (with_one(UP, float("nan")), rf"hold NaN or infinite numbers in float32; got {UP}"),
        (with_one("model.norm.weight", float("-inf")), r"hold NaN or infinite numbers in float32; got model\.norm\.weight"),
    ],
)
def test_weights_that_are_not_all_there(folder: Path, change: Callable, words: str) -> None:
    edit_weights(folder, change)
    refused(folder, words)


def test_weights_beyond_float16(folder: Path) -> None:
    edit_weights(folder, with_one(UP, 1e5))
    assert load_model(str(folder), dtype="float32")
    refused(folder, rf"numbers in float16; got {UP}\. float16 ends at 65,504", dtype="float16")


def test_sums_that_overflow_are_no_fault() -> None:
    huge = torch.full((100,), 3e38)
    assert not_finite(
        [("a", huge), ("b", torch.tensor([1.0, float("inf"), float("-inf")])), ("c", torch.ones(3, dtype=int))]
    ) == ["b"]
    assert not_finite([]) == []


def test_tied_weights_need_no_second_copy(tmp_path: Path) -> None:
    for family in ("qwen2", "gemma3", "gpt2"):
        folder = make_folder(tmp_path / family, family, tie_word_embeddings=True)
        assert "lm_head.weight" not in load_file(folder / "model.safetensors")
        loaded = load_model(str(folder), dtype="float32")
        assert torch.equal(loaded.anatomy.unembedding, loaded.model.get_input_embeddings().weight)


def test_truncated_weights(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    refused(folder, r"the weights of model .* can't be read")
    file.write_bytes(b"")
    refused(folder, r"the weights of model .* can't be read")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_hidden_layers": 0, "layer_types": []}, r"expected num_hidden_layers of at least 1; got 0"),
        ({"num_attention_heads": 0}, r"expected num_attention_heads of at least 1; got 0|config\.json"),
        ({"num_key_value_heads": 0}, r"expected num_key_value_heads of at least 1; got 0"),
        ({"num_key_value_heads": 3}, r"a multiple of num_key_value_heads; got 4 and 3"),
        ({"hidden_size": -32}, r"expected hidden_size of at least 1; got -32"),
        ({"hidden_size": "many"}, r"config\.json .*'hidden_size' expected int, got str"),
        ({"hidden_size": None}, r"config\.json"),
        ({"max_position_embeddings": 0}, r"expected max_position_embeddings of at least 1"),
        (
            {"hidden_size": 10**9},
            r"can't be those that its config\.json describes; expected [\d,]+ .*; got files of",
        ),
        ({"vocab_size": 10**12}, r"can't be those"),
        ({"intermediate_size": 10**10}, r"can't be those"),
        ({"head_dim": 10**10}, r"can't be those"),
        ({"num_hidden_layers": 10**5, "layer_types": None}, r"can't be those"),
        ({"num_hidden_layers": 2, "layer_types": None}, r"counts fewer layers than its files hold; expected at most 2 layers"),
        ({"intermediate_size": 50}, r"don't fit its config\.json; expected .*mlp.* of shape"),
        ({"hidden_act": "nothing"}, r"KeyError: 'nothing'"),
        ({"rope_parameters": {"rope_theta": "x", "rope_type": "default"}}, r"can't be read"),
        ({"rope_parameters": [1]}, r"config\.json"),
        ({"rms_norm_eps": "small"}, r"config\.json"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, r"the weights of model .* can't be read"),
        ({"rms_norm_eps": -1e30}, r"does not work; expected finite logits for '12 \+ 3' in float32; got NaN"),
        ({"model_type": 3}, r"config\.json"),
    ],
)
def test_configurations_that_cannot_be(folder: Path, changes: dict[str, object], words: str) -> None:
    edit(folder, "config.json", **changes)
    refused(folder, words)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[1]", b"null", '{"model_type": "é"}'.encode("latin-1"), bytes(range(128, 200)), b"{}"]
)
def test_configurations_that_are_none(folder: Path, content: bytes) -> None:
    (folder / "config.json").write_bytes(content)
    refused(folder, r"the config\.json of model .* can't be read")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer.json", "{}"),
        ("tokenizer.json", "[]"),
        ("tokenizer.json", "no JSON"),
        ("tokenizer_config.json", "[1]"),
        ("tokenizer_config.json", '{"tokenizer_class": 3}'),
        ("tokenizer.json", None),
    ],
)
def test_tokenizers_that_are_none(folder: Path, name: str, content: str | None) -> None:
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_text(content, encoding="utf-8")
    refused(folder, r"the tokenizer of model .* (can't be read|knows no words)")


def test_a_tokenizer_of_another_model(folder: Path) -> None:
    text = (folder / "tokenizer.json").read_text(encoding="utf-8")
    assert '"z": 84' in text
    (folder / "tokenizer.json").write_text(text.replace('"z": 84', '"z": 85'), encoding="utf-8")
    refused(folder, r"tokenizer of model .* is not its own; expected token numbers below 85, .* got 85 \('z'\)")


def test_special_tokens_without_embeddings(folder: Path) -> None:
    """Gemma's image token lies beyond its embeddings: the model is loaded, a text with the token is refused."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    tokenizer.save_pretrained(folder)
    loaded = load_model(str(folder), dtype="float32")
    assert loaded.encode("1 + 2")
    with pytest.raises(PromptError, match=r"no embedding for; got '<image>'"):
        loaded.encode("1 + <image>")


@pytest.mark.parametrize("content", ["[1]", '{"eos_token_id": "x"}', '{"eos_token_id": [2, "x"]}'])
def test_generation_configs_that_cannot_be(folder: Path, content: str) -> None:
    (folder / "generation_config.json").write_text(content, encoding="utf-8")
    refused(folder, r"the (weights|generation_config\.json) of model .* can't be")


def test_a_tokenizer_that_ends_every_text_is_gone_on_with(folder: Path) -> None:
    """`add_eos_token: true`: what it appends is no part of a prompt or of what follows one."""
    plain = load_model(str(folder), dtype="float32")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    special = [("<bos>", 1), ("<eos>", 2)]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<bos> $A <eos>", special_tokens=special)
    tokenizer.save_pretrained(folder)
    ends = load_model(str(folder), dtype="float32")
    assert tokenizer("4 + 5")["input_ids"] == [1, *plain.encode("4 + 5"), 2]
    for text in ("4 + 5", "\n", "a", ""):
        assert ends.encode(text) == [1, *plain.encode(text)]
        assert ends.following(text) == plain.following(text)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=special)
    tokenizer.save_pretrained(folder)
    begins = load_model(str(folder), dtype="float32")
    assert begins.encode("4") == [1, *plain.encode("4")] and begins.encode("") == [1]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="$A <eos>", special_tokens=special)
    tokenizer.save_pretrained(folder)
    assert load_model(str(folder), dtype="float32").encode("4") == plain.encode("4")


def test_a_context_that_nobody_states_is_no_overflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FAMILIES, "bloom", ("Bloom", {"hidden_size": 32, "n_layer": 3, "n_head": 4}))
    loaded = load_model(str(make_folder(tmp_path, "bloom")), dtype="float32")
    assert loaded.context == 2**31 - 1
    [scores] = score(Engine(loaded), Given(("12 + 3",), (loaded.following(" = 15"),)))
    assert len(scores) == len(loaded.following(" = 15"))


def test_head_sizes_that_differ_by_layer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gemma 4, whose layers that see everything have larger heads."""
    same = {"num_key_value_heads": 2, "hidden_size_per_layer_input": 0}
    monkeypatch.setitem(FAMILIES, "gemma4", ("Gemma4Text", FAMILIES["llama"][1] | same))
    kinds = ["sliding_attention", "full_attention", "full_attention"]
    sizes = {"head_dim": 8, "global_head_dim": 16, "layer_types": kinds, "sliding_window": 40}
    loaded = load_model(str(make_folder(tmp_path, "gemma4", **sizes)), dtype="float32")
    wrote = Engine(loaded).generate(["12 + 3"], max_new_tokens=5)[0].token_ids
    ids = torch.tensor([loaded.encode("12 + 3")])
    assert list(wrote) == loaded.model.generate(ids, max_new_tokens=5, do_sample=False)[0, ids.shape[1] :].tolist()


def test_a_model_that_was_saved_without_its_cache(folder: Path) -> None:
    """`use_cache: false`, as training with checkpointing leaves it."""
    wrote = Engine(load_model(str(folder), dtype="float32")).generate(["12 + 3"], max_new_tokens=3)[0].token_ids
    edit(folder, "config.json", use_cache=False)
    assert Engine(load_model(str(folder), dtype="float32")).generate(["12 + 3"], max_new_tokens=3)[0].token_ids == wrote


def test_models_that_can_not_be_had_say_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FAMILIES, "openai", ("OpenAIGPT", {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 256}))
    (tmp_path / "gpt").mkdir()
    make_folder(tmp_path / "gpt", "openai")
    with pytest.raises(ModelError, match="keeps no cache, without which it is not gone on with here"):
        load_model(str(tmp_path / "gpt"), dtype="float32")
    make_folder(tmp_path / "opt", "opt", word_embed_proj_dim=16)
    with pytest.raises(
        ModelError, match="reads its logits off something narrower than what its blocks write; expected an unem"
    ):
        load_model(str(tmp_path / "opt"), dtype="float32")


def test_float16_is_of_the_same_base(folder: Path) -> None:
    """Small weights are others in it; an edit is of the model whichever dtype it was made in."""
    edit_weights(folder, lambda tensors: tensors["model.layers.0.mlp.down_proj.weight"].mul_(1e-6))
    loaded = {dtype: load_model(str(folder), dtype=dtype) for dtype in ("bfloat16", "float32", "float16")}
    assert len({one.base_hash() for one in loaded.values()}) == 1
    assert loaded["float16"].weight_hash(torch.bfloat16) != loaded["float16"].base_hash()


def test_devices_that_are_not_there(folder: Path) -> None:
    refused(folder, r"device 'moon' can't be used here", device="moon")
    if not torch.cuda.is_available():
        refused(folder, r"device 'cuda' can't be used here", device="cuda")
