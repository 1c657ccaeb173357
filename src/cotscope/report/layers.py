"""The report's part on where the accepted poles are."""

from __future__ import annotations

from typing import Any

from . import figures
from .charts import Chart
from .reading import Reading, part

_BY_LAYER_SQL = """
    SELECT concept, layer, count(*) AS poles
    FROM (SELECT DISTINCT layer, "index", sign, concept FROM annotations WHERE accepted)
    GROUP BY ALL ORDER BY ALL
"""


def layers(run: Reading) -> dict[str, Any]:
    """The accepted poles: how many per layer and concept."""
    counts = {(row["concept"], row["layer"]): row["poles"] for row in run.rows("annotations", _BY_LAYER_SQL)}
    by_concept = part(run.summary, "neurons", "by_concept")
    names = list(dict.fromkeys([*by_concept, *(concept for concept, _ in counts)]))
    layers = part(run.manifest, "model").get("layers")
    highest = max((layer for _, layer in counts), default=-1) + 1
    columns = max(layers if isinstance(layers, int) else 0, highest)
    if not (run.has("annotations") and names and columns):
        return {"annotated": run.has("annotations"), "chart": None}
    chart = Chart(
        figures.heat_map(names, columns, counts, "Number of reasoning poles in each layer, by concept"),
        "Accepted poles by layer and concept; an empty cell is 0, and a pole of two concepts counts under both. Darker (in "
        "dark mode, lighter) means more, on a square-root scale.",
        "annotate",
        "layers",
        [{"concept": concept, "layer": layer, "poles": n} for (concept, layer), n in counts.items()],
    )
    return {"annotated": True, "chart": chart}
