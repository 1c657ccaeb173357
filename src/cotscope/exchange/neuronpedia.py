"""Neuronpedia's bulk files: a run's poles written as its sources, and its features read back as neurons or poles.

The layout and the columns are those of Neuronpedia's own exports (hijohnnylin/neuronpedia,
`utils/neuronpedia-utils/neuronpedia_utils/export-data.py`, and the models Neuron, Activation, Explanation, Source, SourceSet
and SourceRelease of `apps/webapp/prisma/schema.prisma`; https://docs.neuronpedia.org/api-and-data/exports):

    <model>/<source>/release.jsonl, model.jsonl, sourceset.jsonl, source.jsonl
    <model>/<source>/features|activations|explanations/batch-<n>.jsonl.gz

A feature there has one direction, and a neuron here two poles: each polarity of each layer is a source of its own,
`<layer>-cotscope-pos` and `<layer>-cotscope-neg`, in which a feature's index is the neuron's.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from ..errors import RunError, UserError, shown
from ..records import Neuron, Pole
from ..report.reading import Reading
from ..runs.files import replacing

BATCH = 1024
CREATOR = "clkht01d40000jv08hvalcvly"
"""Whose rows they become, unless the importer says otherwise: the default of SAEDashboard's export."""
HOOK = "mlp.hook_post"  # TransformerLens's name for the down-projection's input
_SETS = {1: "cotscope-pos", -1: "cotscope-neg"}
_OF_NEURONS = ("", "neurons", *_SETS.values())
"""Names of sources that hold neurons even if they do not say so by a `hookName`."""
_LARGEST = 1 << 30  # bytes of one file once it is unpacked

_POLES_SQL = "SELECT * FROM poles WHERE layer = ? AND sign = ? ORDER BY index"
_CONTEXTS_SQL = """
    SELECT * FROM contexts WHERE layer = ? AND sign = ? AND token IS NOT NULL ORDER BY index, abs(coefficient) DESC, problem_id
"""
_WORDS_SQL = """
    SELECT DISTINCT index, concept, description, annotator FROM annotations WHERE layer = ? AND sign = ? AND accepted
    ORDER BY ALL
"""


def write_sources(run: Reading, to: Path) -> list[Path]:
    """Write every active pole of a run. Returns: the sources' folders. Raises: RunError if the run has no poles."""
    places = run.rows("poles", "SELECT DISTINCT layer, sign FROM poles ORDER BY layer, sign DESC")
    if not places:
        raise RunError(f"{run.folder} has no current poles", remedy="Run `cotscope discover` again.")
    name = run.manifest["model"]["name"]
    model = re.sub(r"[^a-z0-9.-]+", "-", name.rstrip("/").rsplit("/", 1)[-1].lower()).strip("-.") or "model"
    # Steps are of right answers, and so are tokens.
    sql = "SELECT sum(tokens)::BIGINT AS tokens FROM completions WHERE family = 'discovery' AND correct"
    written = run.rows("completions", sql)
    tokens = (written[0]["tokens"] if written else None) or 0
    made = []
    for place in places:
        layer, sign = place["layer"], place["sign"]
        source = f"{layer}-{_SETS[sign]}"
        folder = to / model / source
        _write_about(run, folder, model, source, sign)
        key = {"modelId": model, "layer": source}
        contexts = run.rows("contexts", _CONTEXTS_SQL, [layer, sign])
        highest: dict[int, float] = {}
        for row in contexts:
            highest[row["index"]] = max(highest.get(row["index"], 0.0), abs(row["coefficient"]))
        poles = run.rows("poles", _POLES_SQL, [layer, sign])
        _write_batches(folder / "features", [
            key | {"index": str(p["index"]), "creatorId": CREATOR, "sourceSetName": _SETS[sign], "hookName": HOOK,
                   "maxActApprox": highest.get(p["index"]), "frac_nonzero": p["steps"] / tokens if tokens else 0.0,
                   "hasVector": False, "vector": [],
                   "pos_str": p["promoted"], "pos_values": p["promoted_scores"],
                   "neg_str": p["suppressed"], "neg_values": p["suppressed_scores"]}
            for p in poles
        ])  # fmt: skip
        _write_batches(folder / "activations", [
            key | {"id": _id(model, source, row["index"], row["problem_id"], place), "index": str(row["index"]),
                   "creatorId": CREATOR, "dataSource": run.manifest["data"]["source"],
                   "tokens": [row["before"], row["token"], row["after"]],
                   "values": [0.0, abs(row["coefficient"]), 0.0], "maxValue": abs(row["coefficient"]), "minValue": 0.0,
                   "maxValueTokenIndex": 1}
            for place, row in enumerate(contexts)
        ])  # fmt: skip
        _write_batches(folder / "explanations", [
            key | {"id": _id(model, source, row["index"], row["concept"]), "index": str(row["index"]), "authorId": CREATOR,
                   "description": f"{row['concept']}: {row['description']}" if row["description"] else row["concept"],
                   "notes": row["annotator"], "typeName": None, "explanationModelName": None}
            for row in run.rows("annotations", _WORDS_SQL, [layer, sign])
        ])  # fmt: skip
        made.append(folder)
    return made


def _write_about(run: Reading, folder: Path, model: str, source: str, sign: int) -> None:
    """The rows that a source's features refer to."""
    facts, begun, version = run.manifest["model"], run.manifest["begun"], run.manifest["versions"].get("cotscope", "")
    creator = {"creatorId": CREATOR, "createdAt": begun}
    about = f"Feed-forward neurons of {facts['name']} whose coefficient is {'positive' if sign > 0 else 'negative'}"
    for name, row in {
        "release": {"name": "cotscope", "description": f"Poles found by cotscope {version}", "creatorName": "cotscope"},
        "model": {"id": model, "displayName": facts["name"], "displayNameShort": model, "instruct": False, "owner": "",
                  "layers": facts["layers"], "neuronsPerLayer": facts["neurons_per_layer"], "updatedAt": begun},
        "sourceset": {"modelId": model, "name": _SETS[sign], "description": about, "type": "neurons",
                      "creatorName": "cotscope", "releaseName": "cotscope"},
        "source": {"modelId": model, "id": source, "setName": _SETS[sign], "dataset": run.manifest["data"]["source"],
                   "num_prompts": run.manifest["data"]["discovery"],
                   "notes": "Tokens of a context are the text before the token, the token that was about to be written, "
                            "and the text after it. frac_nonzero: share of the tokens at which it was among the "
                            f"{run.manifest['config'].get('k')} largest updates of its layer."},
    }.items():  # fmt: skip
        _write_lines(folder / f"{name}.jsonl", [row | creator])


def _write_batches(folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    for start in range(0, len(rows), BATCH):
        _write_lines(folder / f"batch-{start // BATCH}.jsonl.gz", rows[start : start + BATCH])


def _write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()  # ASCII: halves of characters are escaped
    with replacing(path) as temporary:
        temporary.write_bytes(gzip.compress(text, 5, mtime=0) if path.suffix == ".gz" else text)


def _id(*of: object) -> str:
    """An id of a row that is the same whenever it is written, in the shape of those that Neuronpedia's database makes."""
    return "c" + sha256(repr(of).encode("utf-8", "surrogatepass")).hexdigest()[:24]


# -- read -----------------------------------------------------------------------------------------------------------------


def read_features(path: Path) -> list[Neuron] | list[Pole]:
    """The neurons or poles that a file of Neuronpedia's names, or all files in the `features` folders below a folder.

    A line needs `layer` (a source, which begins with the layer's number) and `index`. Sources that cotscope has written say the
    pole; of others both signs of the neuron are meant. They are in the files' order, each once.

    Raises: UserError if there is none, for lines that are no features, for those of a dictionary (whose `hookName` is not that
    of the neurons themselves, or where there is none, whose source has a name of another kind), and where neurons and poles are
    mixed.
    """
    files = [path]
    if path.is_dir():
        files = sorted(p for p in path.rglob("batch-*.jsonl*") if p.parent.name == "features")
    found = list(dict.fromkeys(target for file in files for target in _targets(file)))
    if not found:
        raise UserError(f"{path} names no neurons", expected="JSON lines with layer and index, as Neuronpedia's features")
    if len({type(target) for target in found}) > 1:
        raise UserError(f"{path} names neurons and poles", expected="one of the two", remedy="Give them one after the other.")
    return found  # type: ignore[return-value]  # all of one kind


def _targets(path: Path) -> Iterator[Neuron | Pole]:
    for number, line in enumerate(_lines(path), 1):
        where = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{where} is no JSON", got=str(error)) from error
        layer = re.match(r"(\d{1,5})(?:-|$)", str(row.get("layer"))) if isinstance(row, dict) else None
        if layer is None or not re.fullmatch(r"\d{1,9}", str(row.get("index"))):
            expected = "an object with layer, such as 17-cotscope-pos, and index"
            raise UserError(f"{where} is no feature", expected=expected, got=shown(row))
        source = str(row["layer"])[len(layer[1]) + 1 :]
        hook = row.get("hookName")
        own = source in _OF_NEURONS if hook is None else str(hook).endswith(HOOK)
        if not own:
            raise UserError(
                f"{where} is no neuron", expected=f"a hookName that ends in {HOOK}, or a layer such as 17 or 17-{_SETS[1]}",
                got=shown(row["layer"] if hook is None else hook),
                remedy="Features of a dictionary, such as a sparse autoencoder's, are no neurons of the model.",
            )  # fmt: skip
        neuron = Neuron(int(layer[1]), int(row["index"]))
        sign = next((s for s, name in _SETS.items() if str(row["layer"]).endswith(f"-{name}")), None)
        yield neuron if sign is None else Pole(*neuron, sign)


def _lines(path: Path) -> list[str]:
    try:
        if path.exists() and not path.is_file():  # to read a pipe could wait for ever
            raise UserError(f"{path} can't be read", expected="a regular file")
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            content = file.read(_LARGEST + 1)
        if len(content) > _LARGEST:
            raise UserError(f"{path} is too large", expected=f"at most {_LARGEST >> 20} MiB")
        return [line for line in content.decode("utf-8").split("\n") if line.strip()]
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise UserError(f"{path} can't be read", expected="JSON lines in UTF-8, perhaps gzipped", got=str(error)) from error
