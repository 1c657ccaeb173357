"""The edit file, and edits put together and undone, as arithmetic on coefficients."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

import cotscope.edits.edit
from cotscope.edits.edit import Base, Edit
from cotscope.errors import EditError
from cotscope.records import Neuron, Pole

BASE = Base("some/model", "ab" * 32, 4, 9)
NEURONS = [Neuron(layer, i) for layer in range(4) for i in range(9)]
FINITE = st.floats(allow_nan=False, allow_infinity=False)
MODERATE = st.floats(-8, 8).map(lambda f: round(f, 3))
LETTERS = st.characters() | st.just("\ud800")  # half a character, as JSON can have
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(LETTERS, max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(LETTERS, max_size=9), inner, max_size=4),
    max_leaves=8,
)
WRITABLE = st.recursive(
    st.none() | st.booleans() | st.integers() | FINITE | st.text(LETTERS, max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(LETTERS, max_size=9), inner, max_size=3),
    max_leaves=5,
)
SCHEMA = Draft202012Validator(json.loads(Path(cotscope.edits.edit.__file__).with_name("edit.schema.json").read_bytes()))
RELAXED = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@st.composite
def edits(draw: st.DrawFn, numbers: st.SearchStrategy[float] = FINITE, scope: str | None = None) -> Edit:
    one = numbers.map(lambda f: (f, f))
    factors = draw(st.dictionaries(st.sampled_from(NEURONS), one | st.tuples(numbers, numbers), min_size=1, max_size=6))
    offsets = draw(st.dictionaries(st.sampled_from(NEURONS), numbers, max_size=4))
    where = scope or draw(st.sampled_from(("all", "prompt", "generated")))
    return Edit("some edit", BASE, factors, offsets, where)


@RELAXED
@given(
    edits(),
    st.text(LETTERS, min_size=1, max_size=20).filter(str.strip),
    st.dictionaries(st.text(LETTERS, max_size=9).filter(lambda k: k != "questions"), WRITABLE, max_size=3),
    st.lists(st.dictionaries(st.text(LETTERS, max_size=9), WRITABLE, max_size=3), max_size=2),
)
def test_what_is_written_is_read(tmp_path: Path, edit: Edit, name: str, chosen: dict, measured: list) -> None:
    whole = replace(edit, name=name, chosen=chosen, measured=tuple(measured))
    whole.write(tmp_path / "e.json")
    again = Edit.read(tmp_path / "e.json")
    assert again == whole
    assert again.key == whole.key and again.neurons == whole.neurons
    SCHEMA.validate(json.loads((tmp_path / "e.json").read_bytes(), parse_constant=lambda _: pytest.fail("no JSON")))


@RELAXED
@given(JSON)
def test_any_json_is_an_edit_or_an_edit_error(tmp_path: Path, value: Any) -> None:
    (tmp_path / "e.json").write_text(json.dumps(value))
    with pytest.raises(EditError):
        Edit.read(tmp_path / "e.json")


def content() -> dict[str, Any]:
    """A right edit's."""
    return {
        "format": "cotscope-edit",
        "version": 1,
        "name": "right",
        "base": {"model": "m", "weights": "ab", "layers": 4, "neurons_per_layer": 9},
        "scope": "all",
        "factors": [[0, 1, 0.5], [3, 8, 1, -2]],
        "offsets": [[1, 2, 0.25]],
        "chosen": {"by": "hand", "questions": ["x"]},
        "measured": [{"n": 3, "p": 0.5}],
    }


@RELAXED
@given(st.sampled_from(sorted(content())), JSON)
def test_any_value_of_a_key_is_read_or_an_edit_error(tmp_path: Path, key: str, value: Any) -> None:
    """And what is read can be written, and means the same."""
    (tmp_path / "e.json").write_text(json.dumps(content() | {key: value}))
    try:
        edit = Edit.read(tmp_path / "e.json")
    except EditError as error:
        said = str(error)
    else:
        edit.write(tmp_path / "again.json")
        assert Edit.read(tmp_path / "again.json") == edit
        SCHEMA.validate(content() | {key: value})
        return
    assert len(said.splitlines()) == 1


@RELAXED
@given(st.sampled_from(["factors", "offsets"]), st.lists(st.lists(JSON, min_size=2, max_size=5), max_size=3))
def test_any_rows_are_read_or_an_edit_error(tmp_path: Path, key: str, rows: list) -> None:
    (tmp_path / "e.json").write_text(json.dumps(content() | {key: rows}))
    try:
        edit = Edit.read(tmp_path / "e.json")
    except EditError:
        return
    assert {tuple(n) for n in getattr(edit, key)} == {tuple(row[:2]) for row in rows}
    SCHEMA.validate(content() | {key: rows})


def test_a_right_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "e.json").write_text(json.dumps(content()))
    edit = Edit.read(tmp_path / "e.json")
    assert edit.factors == {Neuron(0, 1): (0.5, 0.5), Neuron(3, 8): (1.0, -2.0)}
    assert edit.offsets == {Neuron(1, 2): 0.25} and edit.neurons == (Neuron(0, 1), Neuron(1, 2), Neuron(3, 8))
    assert edit.base == Base("m", "ab", 4, 9) and edit.scope == "all" and edit.measured == ({"n": 3, "p": 0.5},)


WRONG: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "unknown key": (lambda c: c.update(colour=1), "unknown key"),
    "another version": (lambda c: c.update(version=2), "version"),
    "a version that is true": (lambda c: c.update(version=True), "version"),
    "another format": (lambda c: c.update(format="gguf"), "no edit"),
    "no base": (lambda c: c.pop("base"), "base"),
    "weights beside factors": (lambda c: c.update(weights="ab"), "two things of what it changes"),
    "nothing beside factors": (lambda c: c["chosen"].update(nothing="no gain"), "two things of what it changes"),
    "layers with a point": (lambda c: c["base"].update(layers=4.0), "base"),
    "no layers": (lambda c: c["base"].update(layers=0), "base"),
    "no weights": (lambda c: c["base"].pop("weights"), "base"),
    "more in the base": (lambda c: c["base"].update(dtype="x"), "base"),
    "layers true": (lambda c: c["base"].update(layers=True), "base"),
    "base a list": (lambda c: c.update(base=[]), "base"),
    "no name": (lambda c: c.pop("name"), "name"),
    "empty name": (lambda c: c.update(name=" \n"), "name"),
    "name a number": (lambda c: c.update(name=3), "name"),
    "scope unknown": (lambda c: c.update(scope="some"), "all or prompt or generated"),
    "scope a list": (lambda c: c.update(scope=["all"]), "scope"),
    "factors an object": (lambda c: c.update(factors={"0": 1}), "factors"),
    "a factor a number": (lambda c: c["factors"].append(3), "factors"),
    "a factor too short": (lambda c: c["factors"].append([0, 2]), "factors"),
    "a factor too long": (lambda c: c["factors"].append([0, 2, 1, 1, 1]), "factors"),
    "a factor true": (lambda c: c["factors"].append([0, 2, True]), "factors"),
    "a factor a text": (lambda c: c["factors"].append([0, 2, "1"]), "factors"),
    "a layer true": (lambda c: c["factors"].append([True, 2, 1]), "factors"),
    "a layer a fraction": (lambda c: c["factors"].append([1.0, 2, 1]), "factors"),
    "a factor twice": (lambda c: c["factors"].append([0, 1, 2]), "twice"),
    "an offset twice": (lambda c: c["offsets"].append([1, 2, 0.25]), "twice"),
    "an offset with two": (lambda c: c["offsets"].append([1, 3, 1, 2]), "offsets"),
    "NaN": (lambda c: c["factors"].append([0, 2, float("nan")]), "finite"),
    "Infinity": (lambda c: c["offsets"].append([0, 2, float("inf")]), "finite"),
    "-Infinity": (lambda c: c["factors"].append([0, 2, 1, float("-inf")]), "finite"),
    "a huge number": (lambda c: c["factors"].append([0, 2, 10**400]), "too large"),
    "a huge layer": (lambda c: c["factors"].append([10**400, 2, 1]), "base has not"),
    "a layer beyond": (lambda c: c["factors"].append([4, 0, 1]), "layers below 4"),
    "a neuron beyond": (lambda c: c["offsets"].append([0, 9, 1]), "neurons below 9"),
    "a layer below": (lambda c: c["factors"].append([-1, 0, 1]), "base has not"),
    "nothing": (lambda c: c.update(factors=[], offsets=[]), "changes nothing"),
    "chosen a list": (lambda c: c.update(chosen=[]), "chosen"),
    "NaN in chosen": (lambda c: c["chosen"].update(x=[float("nan")]), "finite"),
    "questions a number": (lambda c: c["chosen"].update(questions=3), "questions"),
    "questions in lists": (lambda c: c["chosen"].update(questions=[["x"]]), "questions"),
    "measured an object": (lambda c: c.update(measured={}), "measured"),
    "measured of numbers": (lambda c: c.update(measured=[3]), "measured"),
    "Infinity in measured": (lambda c: c["measured"][0].update(x=float("inf")), "finite"),
}  # fmt: skip


def test_what_gained_nothing_is_an_edit_that_changes_nothing(tmp_path: Path) -> None:
    edit = Edit("control", Base("m", "0" * 64, 4, 9), {}, chosen={"by": "size", "nothing": "nothing was gained"})
    edit.write(tmp_path / "e.json")
    assert Edit.read(tmp_path / "e.json") == edit and edit.nothing and not edit.neurons
    SCHEMA.validate(json.loads((tmp_path / "e.json").read_bytes()))
    for wrong in ({"factors": {Neuron(0, 1): (2.0, 2.0)}}, {"weights": "ab" * 32}, {"chosen": {}}):
        with pytest.raises(EditError, match="changes nothing|two things of what it changes"):
            replace(edit, **wrong)


BEYOND_A_SCHEMA = {
    "a factor twice", "an offset twice", "a layer a fraction", "layers with a point", "NaN", "Infinity", "-Infinity",
    "a huge number", "a huge layer",
    "a layer beyond", "a neuron beyond", "NaN in chosen", "Infinity in measured",
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_said_in_a_line(tmp_path: Path, what: str) -> None:
    change, words = WRONG[what]
    change(wrong := content())
    (tmp_path / "e.json").write_text(json.dumps(wrong))
    with pytest.raises(EditError) as caught:
        Edit.read(tmp_path / "e.json")
    assert words in str(caught.value) and len(str(caught.value).splitlines()) == 1
    assert SCHEMA.is_valid(wrong) == (what in BEYOND_A_SCHEMA)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "no edit file"), (b"{", "no edit file"), (b"[]", "JSON object"), (b"\xff\xfe{}", "no edit file"),
        (b'{"format": "caf\xe9"}', "no edit file"), (b'{"version": ' + b"9" * 5000 + b"}", "no edit file"),
        (b"[" * 100_000, "no edit file"), (b'{"chosen": ' + b"[" * 900 + b"]" * 900 + b"}", "no edit"),
    ],
)  # fmt: skip
def test_bytes_that_are_no_edit(tmp_path: Path, data: bytes, words: str) -> None:
    (tmp_path / "e.json").write_bytes(data)
    with pytest.raises(EditError) as caught:
        Edit.read(tmp_path / "e.json")
    assert words in str(caught.value) and len(str(caught.value).splitlines()) == 1


def test_deep_lists_that_could_not_be_written_again_are_not_read(tmp_path: Path) -> None:
    text = json.dumps(content()).replace('"hand"', "[" * 400 + "]" * 400)
    (tmp_path / "e.json").write_text(text)
    with pytest.raises(EditError, match="few levels"):
        Edit.read(tmp_path / "e.json")


def test_places_where_no_edit_is(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    os.mkfifo(tmp_path / "pipe")  # a reader must not wait
    for path, words in ((tmp_path / "pipe", "no edit file"),
                        (tmp_path, "no edit file"), (tmp_path / "none.json", "there is no edit file"),
                        (tmp_path / "file" / "e.json", "no edit file")):  # fmt: skip
        with pytest.raises(EditError, match=words):
            Edit.read(path)


# -- put together, undone ------------------------------------------------------------------------------------------------


def changed(edit: Edit, m: np.ndarray) -> np.ndarray:
    """Coefficients (…, layers, neurons) under an edit, by definition."""
    found = m.copy()
    for n in NEURONS:
        p, q = edit.factors.get(n, (1.0, 1.0))
        here = m[..., n.layer, n.index]
        found[..., n.layer, n.index] = np.where(here > 0, p * here, q * here) + edit.offsets.get(n, 0.0)
    return found


def coefficients(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(0, 2, (50, 4, 9)) * (rng.random((50, 4, 9)) > 0.1)


@RELAXED
@given(edits(MODERATE, "all"), edits(MODERATE, "all"), st.integers(0, 99))
def test_two_edits_as_one(one: Edit, other: Edit, seed: int) -> None:
    m = coefficients(seed)
    refused = [
        n for n in other.neurons
        if len({*other.factors.get(n, (1.0, 1.0))}) == 2
        and (one.offsets.get(n, 0.0) != 0 or min(one.factors.get(n, (1.0, 1.0))) < 0)
    ]  # fmt: skip
    if refused:
        with pytest.raises(EditError, match="can't be put together as one"):
            one.then(other)
        return
    np.testing.assert_allclose(changed(one.then(other), m), changed(other, changed(one, m)), atol=1e-9)


def test_what_changes_nothing_stays_so_undone_or_with_another() -> None:
    nothing = Edit("control", BASE, {}, chosen={"nothing": "nothing was gained", "questions": ["q"]})
    undone, twice = nothing.inverse(), nothing.then(nothing.inverse())
    assert undone.nothing and twice.nothing and undone.chosen["questions"] == twice.chosen["questions"] == ["q"]
    some = Edit.scaled("some", BASE, [Neuron(0, 1)], 2.0)
    for both in (nothing.then(some), some.then(nothing)):
        assert both.factors == some.factors and not both.nothing


@RELAXED
@given(edits(MODERATE), st.integers(0, 99))
def test_an_edit_undone(edit: Edit, seed: int) -> None:
    m = coefficients(seed)
    pairs = {n: (*edit.factors.get(n, (1.0, 1.0)), edit.offsets.get(n, 0.0)) for n in edit.neurons}
    if any(p == 0 or q == 0 or (p != q and (o != 0 or min(p, q) < 0)) for p, q, o in pairs.values()):
        with pytest.raises(EditError, match="can't be undone"):
            edit.inverse()
        return
    undone = edit.inverse()
    assert undone.scope == edit.scope
    np.testing.assert_allclose(changed(undone, changed(edit, m)), m, atol=1e-7, rtol=1e-6)


ALIKE = st.floats(0.1, 8) | st.floats(-8, -0.1)
POSITIVE = st.floats(0.1, 8)


@RELAXED
@given(
    st.dictionaries(st.sampled_from(NEURONS), st.tuples(ALIKE, MODERATE), min_size=1, max_size=9),
    st.dictionaries(st.sampled_from(NEURONS), st.tuples(POSITIVE, POSITIVE), max_size=9),
    st.integers(0, 99),
)
def test_what_can_be_undone_is(alike: dict, signed: dict, seed: int) -> None:
    """One factor, of either sign, and an offset; or two that keep signs."""
    factors = signed | {n: (f, f) for n, (f, _) in alike.items()}
    edit, m = Edit("e", BASE, factors, {n: o for n, (_, o) in alike.items()}), coefficients(seed)
    undone = edit.inverse()
    np.testing.assert_allclose(changed(undone, changed(edit, m)), m, atol=1e-9)
    np.testing.assert_allclose(changed(edit, changed(undone, m)), m, atol=1e-9)
    np.testing.assert_allclose(changed(edit.then(undone), m), m, atol=1e-9)


def test_of_another_base_or_scope_is_not_put_together() -> None:
    one = Edit.scaled("one", BASE, [Neuron(0, 1)], 2.0)
    for other in (replace(one, scope="prompt"), replace(one, base=replace(BASE, weights="cd"))):
        with pytest.raises(EditError, match="one base and one scope"):
            one.then(other)
    assert one.then(one).factors == {Neuron(0, 1): (4.0, 4.0)} and one.then(one).chosen == {"composed": ["one", "one"]}
    # What they were made with is kept: `evaluate` refuses to test on it.
    made = replace(one, chosen={"questions": ["b", "a"], "templates": ["t"]}), replace(one, chosen={"questions": ["c"]})
    both = {"questions": ["a", "b", "c"], "templates": ["t"]}
    assert made[0].then(made[1]).chosen == both | {"composed": ["one", "one"]}
    assert made[0].inverse().chosen == {"questions": ["a", "b"], "templates": ["t"], "inverse": "one"}


def test_numbers_that_grow_beyond_all_bounds_are_an_error() -> None:
    for edit, way in ((Edit.scaled("e", BASE, [Neuron(0, 1)], 1e200), lambda e: e.then(e)),
                      (Edit.scaled("e", BASE, [Neuron(0, 1)], 5e-324), lambda e: e.inverse())):  # fmt: skip
        with pytest.raises(EditError, match="finite numbers"):
            way(edit)


def test_poles_have_their_sign_only() -> None:
    edit = Edit.scaled("e", BASE, [Pole(0, 1, 1), Pole(1, 2, -1), Pole(2, 3, 1), Pole(2, 3, -1), Neuron(3, 4)], 0.5)
    assert edit.factors == {
        Neuron(0, 1): (0.5, 1.0), Neuron(1, 2): (1.0, 0.5), Neuron(2, 3): (0.5, 0.5), Neuron(3, 4): (0.5, 0.5)
    }  # fmt: skip


def test_what_was_measured_again_takes_the_place_of_what_was() -> None:
    edit = Edit.scaled("e", BASE, [Neuron(0, 1)], 0.5)
    about = {"data": "a", "data_sha256": "1", "prompt": "p", "n": 8, "dtype": "float32"}
    edit = edit.with_measured(about | {"accuracy": 0.1}).with_measured(about | {"n": 9, "accuracy": 0.2})
    edit = edit.with_measured(about | {"accuracy": 0.3})
    assert [m["accuracy"] for m in edit.measured] == [0.2, 0.3]
    assert edit.key == Edit.scaled("another name", BASE, [Neuron(0, 1)], 0.5).key
