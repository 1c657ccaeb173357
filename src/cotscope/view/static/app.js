// The router: which page an address is. Pages are functions of where they are; they return elements.

import {fault, h, href, lettersAreKeys, link, note, redraw, seen, takeToken} from "./page.js";
import {compare, overview, runs} from "./runs.js";
import {neurons} from "./neurons.js";
import {lists} from "./lists.js";
import {predictions} from "./predictions.js";
import {solutions} from "./solutions.js";
import {tryIt} from "./try.js";

const PARTS = {"": ["Overview", overview], neurons: ["Neurons", neurons], lists: ["Lists", lists],
  solutions: ["Solutions", solutions], predictions: ["Predictions", predictions], try: ["Try it", tryIt]};
let leave = new AbortController(), here = null;

/** What an address says: the page, the run, the values after the question mark. */
function where() {
  const [path, asked = ""] = location.hash.replace(/^#\/?/, "").split("?");
  const parts = path.split("/").map((part) => { try { return decodeURIComponent(part); } catch { return part; } });
  return {page: parts[0], run: parts[1] ?? "", part: parts[2] ?? "", values: Object.fromEntries(new URLSearchParams(asked))};
}

function top(at) {
  const inRun = at.page === "run";
  document.getElementById("top").replaceChildren(
    link("#/", h("span", {class: "brand"}, "cotscope")),
    inRun ? h("span", {class: "here"}, link(href(at.run), h("bdi", {}, seen(at.run)))) : "",
    inRun ? h("nav", {"aria-label": "This run"}, Object.entries(PARTS).map(([part, [title]]) =>
      h("a", {href: href(at.run, part), "aria-current": part === at.part ? "page" : undefined}, title))) : "");
}

async function show() {
  if (location.hash && !location.hash.startsWith("#/")) return;
  const at = where(), main = document.getElementById("main");
  const same = here !== null && ["page", "run", "part"].every((key) => here[key] === at[key]);
  here = at;
  leave.abort();
  leave = new AbortController();
  at.left = leave.signal;
  top(at);
  const [title, page] = at.page === "run" ? PARTS[at.part] ?? [] : at.page === "compare" ? ["Two runs", compare] : ["Runs", runs];
  document.title = `${title ?? "?"}${at.run ? " · " + seen(at.run) : ""} · cotscope`;
  const waiting = setTimeout(() => {
    if (at.left.aborted) return;  // what is there now is another page's
    same ? main.setAttribute("aria-busy", "true") : main.replaceChildren(note("Loading …"));
  }, 200);
  let found;
  try {
    if (!page) throw new Error("There is no such page.");
    found = await page(at);
  } catch (error) {
    found = [h("h1", {}, title ?? "Nothing is here"), fault(error)];
  }
  clearTimeout(waiting);
  if (at.left.aborted) return;
  main.removeAttribute("aria-busy");
  if (!same) main.replaceChildren();
  if (!redraw(main, found) && document.activeElement === document.body) main.focus({preventScroll: true});
  if (!same) scrollTo(0, 0);
}

/** `/` goes to the search field; arrows go between the rows of a table that has some to choose. Elsewhere they scroll. */
function keys(event) {
  const target = event.target, typing = target.matches("input, textarea, select");
  if (event.key?.length === 1 && !lettersAreKeys()) return;
  if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey) {
    const search = document.querySelector("[type=search]");
    if (search) { event.preventDefault(); search.focus(); search.select(); }
    return;
  }
  if (event.key === "Escape" && typing) return target.blur();
  const step = {ArrowDown: 1, ArrowUp: -1, j: 1, k: -1}[event.key];
  if (!step || typing && target.type !== "search" || event.altKey || event.ctrlKey || event.metaKey || typing && event.key.length === 1) return;
  const rows = [...document.querySelectorAll("[data-row]")], nowhere = target === document.body || target.id === "main";
  const among = target.closest("[data-rows]") || target.closest("table")?.querySelector("[data-row]");
  if (!rows.length || !(typing || nowhere || among)) return;
  const now = rows.indexOf(target.closest("[data-row]"));
  event.preventDefault();
  rows[Math.min(rows.length - 1, Math.max(0, now + step))].focus();
}

/** A link to the page that is there makes it again: it may have failed. */
function again(event) {
  const address = event.target.closest("a[href^='#/']")?.hash;
  if (address && address === location.hash && !(event.ctrlKey || event.metaKey || event.shiftKey)) show();
}

takeToken();
addEventListener("hashchange", show);
addEventListener("click", again);
addEventListener("keydown", keys);
document.getElementById("skip").addEventListener("click", () => document.getElementById("main").focus());
show();
