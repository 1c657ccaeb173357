"""How long the viewer takes with a run of 1,000,000 poles: its first paint, and a filtered list, as a browser shows them.

    PYTHONPATH=docs python benchmarks/viewer.py

makes the run in a temporary folder. Needs what `docs/picture.py` needs. Medians, least and most, in milliseconds.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from cotscope.runs.folder import Run
from cotscope.runs.tables import POLES

COUNT, TOKENS, WIDTH = 1_000_000, 20, 40_000
STUDY: dict[str, Any] = {
    "versions": {}, "config": {}, "prompts": [], "concepts": {"source": "none", "sha256": ""},
    "data": {"source": "none", "sha256": "", "test": 0, "discovery": 0, "tuning": 0, "duplicates": [], "halved": False},
    "model": {"name": "made", "weight_sha256": "0" * 64, "parameters": 0, "layers": COUNT // WIDTH, "neurons_per_layer": WIDTH,
              "dtype": "bfloat16", "dtype_why": "made", "kernels": "pytorch", "device": "cpu", "rows_per_batch": 1},
}  # fmt: skip
LISTS = (
    "", "page=15000", "sort=mean_update_size&descending=false", "token=word123", 'token="word77"&sort=layer',
    "sign=1&first_layer=5&last_layer=9&least=5000", "token=word4&sign=-1&sort=mean_update_size", "token=20:123",
)  # fmt: skip
"""What is asked for after `#/run/made/neurons?`."""
PAINTS, ROUNDS = 15, 5
# From a link that is followed to the frame after its rows are there.
_SHOW = """(hash) => new Promise((done) => {
  const began = performance.now(), main = document.getElementById("main");
  new MutationObserver((_, watch) => {
    if (!main.querySelector("[data-row]")) return;
    watch.disconnect();
    requestAnimationFrame(() => setTimeout(() => done(performance.now() - began)));
  }).observe(main, {childList: true});
  location.hash = hash;
})"""
_LISTED = """new MutationObserver((_, watch) => {
  if (!document.querySelector("[data-row]")) return;
  watch.disconnect();
  requestAnimationFrame(() => setTimeout(() => { window.listed = performance.now(); }));
}).observe(document, {childList: true, subtree: true});"""
_WHEN = "new Promise((done) => { const look = () => window.listed ? done(window.listed) : setTimeout(look, 5); look(); })"
_PAINT = "performance.getEntriesByName('first-contentful-paint')[0].startTime"


def million(folder: Path, count: int = COUNT) -> Run:
    """A run whose `poles` has so many rows, of random figures, that promote tokens of 5,000 words."""
    random, place = np.random.default_rng(0), np.arange(count)
    words = pa.array([f"{' ' * (i % 2)}word{i}" for i in range(5000)])
    promoted = pa.ListArray.from_arrays(
        pa.array(np.arange(0, count * TOKENS + 1, TOKENS), pa.int32()),
        pa.DictionaryArray.from_arrays(random.integers(0, 5000, count * TOKENS, np.int32), words).cast(pa.string()),
    )
    made = {"layer": (place // WIDTH).astype(np.int16), "index": (place % WIDTH).astype(np.int32), "promoted": promoted,
            "sign": (random.integers(0, 2, count) * 2 - 1).astype(np.int8),
            "steps": random.integers(1, 10_000, count, np.int32), "mean_update_size": random.random(count)}  # fmt: skip
    run = Run.create(folder, STUDY, {})
    run.write(POLES, pa.table([made.get(f.name, pa.nulls(count, f.type)) for f in POLES.schema], schema=POLES.schema))
    run.save()
    return Run.open(folder)


def said(what: str, milliseconds: list[float]) -> None:
    print(f"{what}: median {statistics.median(milliseconds):.0f} ms, {min(milliseconds):.0f} to {max(milliseconds):.0f}, "
          f"n = {len(milliseconds)}")  # fmt: skip


def main() -> None:
    from picture import PATIENCE, browser, viewing

    with tempfile.TemporaryDirectory() as folder:
        million(Path(folder) / "made")
        with viewing(Path(folder) / "made") as address, browser() as started:
            page = started.new_page(viewport={"width": 1100, "height": 900})
            page.set_default_timeout(PATIENCE)
            began = time.perf_counter()
            page.goto(f"{address}#/run/made/neurons")
            page.wait_for_selector("[data-row]")
            print(f"opened for the first time, the rows are there after {time.perf_counter() - began:.1f} s")
            page.add_init_script(_LISTED)
            paints, opened = [], []
            for _ in range(PAINTS):
                page.goto("about:blank")
                page.goto(f"{address}#/run/made/neurons")
                opened.append(page.evaluate(_WHEN))
                paints.append(page.evaluate(_PAINT))
            said("first contentful paint", paints)
            said("opened, the rows are there", opened)
            taken = {asked: [] for asked in LISTS}
            for _ in range(ROUNDS):
                for asked in (*LISTS[1:], LISTS[0]):
                    taken[asked].append(page.evaluate(_SHOW, f"#/run/made/neurons?{asked}"))
            for asked, milliseconds in taken.items():
                said(f"list of {asked or 'all'}", milliseconds)
            said("lists", [ms for some in taken.values() for ms in some])


if __name__ == "__main__":
    main()
