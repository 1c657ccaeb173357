// Lists of neurons that are kept in the browser: per model, so that they serve all runs of it; exported, and made edits of.

import {ask, field, goTo, h, href, into, link, note, poleKey, poleName, redraw, runPath, save, seen, select} from "./page.js";

export const SCOPES = [["all", "every token"], ["prompt", "the prompt"], ["generated", "what is generated"]];
const place = (weights) => `cotscope.lists.${weights.slice(0, 16)}`;

/** The lists of a model: name → [[layer, index, sign], …]. A map, since a list may have any name, `constructor` too. */
export function kept(weights) {
  try {
    const found = JSON.parse(localStorage.getItem(place(weights)) ?? "{}");
    return new Map(Object.entries(found).filter(([, poles]) => Array.isArray(poles)));
  } catch {
    return new Map();
  }
}

function keep(weights, lists) {
  localStorage.setItem(place(weights), JSON.stringify(Object.fromEntries(lists)));
}

/** Put poles into a list, or take them out of it. */
export function change(weights, name, poles, add = true) {
  const lists = kept(weights), known = new Map((lists.get(name) ?? []).map((pole) => [pole.join("."), pole]));
  for (const pole of poles) add ? known.set(pole.join("."), pole) : known.delete(pole.join("."));
  keep(weights, lists.set(name, [...known.values()]));
}

/** What is said where a link asks for a list that is not here. */
export const absent = (name) => h("p", {class: "warning"}, "This browser keeps no list ", h("bdi", {}, seen(name)),
  " for this model. Lists stay in the browser in which they were made: export it there, and read it here.");

/** A control that adds poles to a list, or to a new one. */
export function adder(weights, poles, said = () => {}) {
  const names = [...kept(weights).keys()];
  const name = h("input", {list: "kept", placeholder: "name of a list", value: names[0] ?? "", "aria-label": "list"});
  return h("form", {class: "pager", onsubmit: (event) => {
    event.preventDefault();
    const to = name.value.trim();
    if (!to) return;
    change(weights, to, poles());
    said(`${poles().length} in ${seen(to)}, which holds ${kept(weights).get(to).length} now.`);
  }}, name, h("datalist", {id: "kept"}, names.map((one) => h("option", {value: one}))), h("button", {}, "Keep"));
}

export async function lists(here) {
  const run = await ask(runPath(here.run)), weights = run.about?.model.weight_sha256, only = here.values.list;
  if (!weights) throw new Error(run.fault ?? "The run can't be opened.");
  const main = h("div"), wrong = h("div"), chosen = new Map();
  const draw = () => {
    const found = [...kept(weights)].filter(([name]) => !only || name === only);
    redraw(main, found.length ? found.map(([name, poles]) => one(here, weights, name, poles, chosen, draw))
      : only ? absent(only) : note("No lists yet. Open a neuron, or search for some, and keep them."));
  };
  draw();
  const every = href(here.run, "lists"), taken = (name) => only && name !== only ? goTo(every) : draw();
  const file = h("input", {type: "file", accept: "application/json,.json", "aria-label": "a list as it was exported",
    onchange: () => {
      if (file.files.length) into(wrong, read(file.files[0], weights).then(taken));
      file.value = "";  // so that the same file can be chosen again
    }});
  return [h("h1", {}, "Lists"),
    note("Kept in this browser, for every run of this model.", only && [" ", link(every, "All lists")]), main,
    h("details", {}, h("summary", {}, "Read a list that was exported"), h("p", {}, file), wrong)];
}

/** Keep a list that was exported; its name. */
async function read(file, weights) {
  const list = await file.text().then(JSON.parse).catch(() => null);
  const isPole = (pole) => Array.isArray(pole) && pole.length === 3 && pole.every(Number.isInteger);
  const good = Array.isArray(list?.poles) && list.poles.every(isPole);
  if (!good || typeof list.name !== "string" || !list.name) throw new Error("This file is no list that was exported here.");
  if ((list.weights ?? weights) !== weights) throw new Error("This list is of another model, whose neurons are others: it is not read.");
  change(weights, list.name, list.poles);
  return list.name;
}

/** A list. `chosen` has the factor and scope of each: they stay when the lists are drawn again. */
function one(here, weights, name, poles, chosen, draw) {
  if (!chosen.has(name)) chosen.set(name, {factor: 0, scope: "all"});
  const said = h("div", {"aria-live": "polite"}), asked = chosen.get(name);
  const factor = h("input", {type: "number", step: "any", value: asked.factor, "aria-label": `factor of ${seen(name)}`,
    oninput: () => { asked.factor = factor.value; }});
  const scope = select(SCOPES, asked.scope, {onchange: () => { asked.scope = scope.value; }});
  const edit = async () => {
    const body = {name, poles, factor: Number(asked.factor), scope: asked.scope};
    const response = await ask(runPath(here.run, "/edit"), body, {raw: true});
    save(`${name.replace(/[^\w.-]+/g, "-")}.json`, await response.text());
    return note("Saved. ", h("code", {}, "cotscope evaluate RUN --edit FILE"), " says what it does.");
  };
  const remove = h("button", {type: "button", "aria-label": `Delete ${seen(name)}`, onclick: () => {
    const lists = kept(weights);
    lists.delete(name);
    chosen.delete(name);
    keep(weights, lists);
    draw();
    if (document.activeElement === document.body) document.getElementById("main").focus();
  }}, "Delete");
  const shown = poles.slice(0, 200).map(([layer, index, sign]) => ({layer, index, sign}));
  const takeOut = (i) => {
    (outs[i + 1] ?? outs[i - 1] ?? remove).focus();  // this one goes
    change(weights, name, [poles[i]], false);
    draw();
  };
  const outs = shown.map((pole, i) => h("button", {type: "button", class: "plain", title: "take out",
    "aria-label": `take ${poleName(pole)} out of ${seen(name)}`, onclick: () => takeOut(i)}, " ×"));
  const card = (pole) => link(href(here.run, "neurons", {pole: poleKey(pole)}), poleName(pole));
  return h("section", {},
    h("h2", {}, link(href(here.run, "lists", {list: name}), h("bdi", {}, seen(name))), h("small", {}, ` ${poles.length} neurons`)),
    h("p", {class: "chips"}, shown.map((pole, i) => [card(pole), outs[i], "  "]),
      poles.length > 200 && ` and ${poles.length - 200} more`),
    h("div", {class: "fields"},
      field("Factor", factor, "0 switches off, 2 doubles"), field("At", scope),
      h("button", {type: "button", onclick: () => into(said, edit(), "Making the edit …")}, "Save as an edit"),
      h("button", {type: "button", onclick: () => save(`${name.replace(/[^\w.-]+/g, "-")}-list.json`, JSON.stringify({format: "cotscope-list", name, weights, poles}, null, 1))}, "Export"),
      h("button", {type: "button", onclick: () => goTo(href(here.run, "try", {by: "list", list: name, ...asked}))}, "Try it"),
      remove), said);
}
