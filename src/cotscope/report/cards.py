"""The report's cards of single poles: what they promote, where they are active, what was said and measured of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

from ..data.roles import ROLES
from .reading import Reading, part
from .text import Chip, chip

CARDS = 12
_CONTEXT = 90  # characters of a context on either side of its token

_STRONGEST_SQL = """
    SELECT DISTINCT concept, layer, "index", sign, steps, problems, mean_update_size, promoted, suppressed
    FROM (SELECT DISTINCT layer, "index", sign, concept FROM annotations WHERE accepted)
    JOIN poles USING (layer, "index", sign)
    QUALIFY row_number() OVER (
        PARTITION BY concept ORDER BY steps * mean_update_size DESC, layer, "index", sign) <= ?
    ORDER BY concept, steps * mean_update_size DESC, layer, "index", sign
"""
_OF_SQL = """
    SELECT DISTINCT concept, layer, "index", sign, steps, problems, mean_update_size, promoted, suppressed
    FROM annotations JOIN poles USING (layer, "index", sign) WHERE accepted AND layer = ? AND "index" = ? ORDER BY sign, concept
"""
_SHOWN = """(SELECT unnest(?::SMALLINT[]) AS layer, unnest(?::INTEGER[]) AS "index", unnest(?::TINYINT[]) AS sign)"""
_WORDS_SQL = f'SELECT * FROM annotations JOIN {_SHOWN} USING (layer, "index", sign) WHERE accepted ORDER BY concept'
_EVIDENCE_SQL = f'SELECT * FROM candidates JOIN {_SHOWN} USING (layer, "index", sign) ORDER BY concept'
_CONTEXTS_SQL = f"""
    SELECT * FROM contexts JOIN {_SHOWN} USING (layer, "index", sign) WHERE token IS NOT NULL
    ORDER BY abs(coefficient) DESC, problem_id
"""
_PLACES_SQL = f"""
    SELECT layer, "index", sign, role, sum(steps)::BIGINT AS steps FROM activity JOIN {_SHOWN} USING (layer, "index", sign)
    WHERE family = 'study' AND prompt = ? GROUP BY ALL
"""
_TOKENS_SQL = """
    SELECT role, count(*) AS tokens FROM (SELECT unnest(roles) AS role FROM completions
    WHERE family = 'study' AND neuron_set = 'none' AND prompt = ?) GROUP BY role
"""
_EFFECTS_SQL = f"""
    SELECT layer, "index", sign, operator, result_margin FROM attributions JOIN {_SHOWN} USING (layer, "index")
"""
_CHECKS_SQL = f"""
    SELECT layer, "index", sign, zeroed FROM attribution_checks JOIN {_SHOWN} USING (layer, "index") WHERE zeroed IS NOT NULL
"""
_ALONE_SQL = f'SELECT layer, "index", sign, kl, perplexity_ratio FROM keystones JOIN {_SHOWN} USING (layer, "index")'
Key = tuple[int, int, int]


def cards(run: Reading, neurons: Sequence[tuple[int, int]] | None = None) -> list[dict[str, Any]]:
    """The strongest accepted poles (steps active × mean update size), of each concept in turn; or those of some neurons.

    Args:
        neurons: (layer, index), in whose order their cards come.
    """
    chosen = _strongest(run) if neurons is None else _of(run, neurons)
    if not chosen:
        return []
    where = [[key[i] for key in chosen] for i in range(3)]
    words, evidence = _by_pole(run, "annotations", _WORDS_SQL, where), _by_pole(run, "candidates", _EVIDENCE_SQL, where)
    contexts, effects = _by_pole(run, "contexts", _CONTEXTS_SQL, where), _by_pole(run, "attributions", _EFFECTS_SQL, where)
    checks, alone = _by_pole(run, "attribution_checks", _CHECKS_SQL, where), _by_pole(run, "keystones", _ALONE_SQL, where)
    tokens = {row["role"]: row["tokens"] for row in run.rows("completions", _TOKENS_SQL, [run.first_prompt])}
    places = _by_pole(run, "activity", _PLACES_SQL, [*where, run.first_prompt]) if tokens else {}
    made = []
    for key, (concepts, pole) in chosen.items():
        seeds = {t.strip().lower() for row in (*evidence.get(key, ()), *words.get(key, ())) for t in row["evidence"] or ()}
        active = {row["role"]: row["steps"] for row in places.get(key, ())}
        made.append({
            "pole": pole,
            "concepts": concepts,
            "promoted": _chips(pole["promoted"], seeds),
            "suppressed": _chips(pole["suppressed"], set()),
            "words": [w for w in words.get(key, ()) if w["description"] or w["confidence"] is not None],
            "contexts": [_context(row) for row in contexts.get(key, ())],
            "places": [(role, active.get(role, 0) / tokens[role]) for role in ROLES if tokens.get(role)] if active else [],
            "effect": next(iter(effects.get(key, ())), None),
            "zeroed": next((row["zeroed"] for row in checks.get(key, ())), None),
            "alone": next(iter(alone.get(key, ())), None),
        })  # fmt: skip
    return made


def rests_on(run: Reading) -> list[dict[str, Any]]:
    """The cards of the neurons that the prediction rests on most."""
    found = part(run.summary, "prediction").get("rests_on") or ()
    return cards(run, [(n["layer"], n["index"]) for n in found])


def _of(run: Reading, neurons: Sequence[tuple[int, int]]) -> dict[Key, tuple[list[str], dict[str, Any]]]:
    """Pole → its concepts and its row: all accepted poles of some neurons."""
    chosen: dict[Key, tuple[list[str], dict[str, Any]]] = {}
    for layer, index in neurons:
        for row in run.rows("annotations", _OF_SQL, [layer, index]) if run.has("poles") else []:
            chosen.setdefault((layer, index, row["sign"]), ([], row))[0].append(row["concept"])
    return chosen


def _strongest(run: Reading) -> dict[Key, tuple[list[str], dict[str, Any]]]:
    """Pole → its concepts and its row: of each concept the first, then of each the second, and so on."""
    of: dict[str, list[dict[str, Any]]] = {}
    for row in run.rows("annotations", _STRONGEST_SQL, [CARDS]) if run.has("poles") else []:
        of.setdefault(row["concept"], []).append(row)
    chosen: dict[Key, tuple[list[str], dict[str, Any]]] = {}
    for turn in zip_longest(*of.values()):
        for row in filter(None, turn):
            key = (row["layer"], row["index"], row["sign"])
            if key in chosen:
                chosen[key][0].append(row["concept"])
            elif len(chosen) < CARDS:
                chosen[key] = [row["concept"]], row
    return chosen


def _by_pole(run: Reading, table: str, sql: str, values: list[Any]) -> dict[Key, list[dict[str, Any]]]:
    found: dict[Key, list[dict[str, Any]]] = {}
    for row in run.rows(table, sql, values):
        found.setdefault((row["layer"], row["index"], row["sign"]), []).append(row)
    return found


def _chips(tokens: list[str] | None, seeds: set[str]) -> list[Chip]:
    return [chip(token, token.strip().lower() in seeds) for token in tokens or ()]


def _context(row: Mapping[str, Any]) -> dict[str, Any]:
    """A place where the pole was active: what stood before, the token that was about to be written, what came after."""
    before, after = row["before"] or "", row["after"] or ""
    return {
        "before": ("…" if len(before) > _CONTEXT else "") + before[-_CONTEXT:],
        "token": chip(row["token"], seed=True),
        "after": after[:_CONTEXT] + ("…" if len(after) > _CONTEXT else ""),
        "coefficient": row["coefficient"],
    }
