// Lists of neurons that are kept in the browser: per model, so that they serve all runs of it; exported, and made edits of.

import {ask, fault, field, h, href, into, link, note, poleKey, poleName, runPath, save, seen, select} from "./page.js";

const place = (weights) => `cotscope.lists.${weights.slice(0, 16)}`;

/** The lists of a model: name → [[layer, index, sign], …]. */
export function kept(weights) {
  try {
    const found = JSON.parse(localStorage.getItem(place(weights)) ?? "{}");
    return Object.fromEntries(Object.entries(found).filter(([, poles]) => Array.isArray(poles)));
  } catch {
    return {};
  }
}

function keep(weights, lists) {
  localStorage.setItem(place(weights), JSON.stringify(lists));
}

/** Put poles into a list, or take them out of it. */
export function change(weights, name, poles, add = true) {
  const lists = kept(weights), known = new Map((lists[name] ?? []).map((pole) => [pole.join("."), pole]));
  for (const pole of poles) add ? known.set(pole.join("."), pole) : known.delete(pole.join("."));
  keep(weights, {...lists, [name]: [...known.values()]});
}

/** A control that adds poles to a list, or to a new one. */
export function adder(weights, poles, said = () => {}) {
  const names = Object.keys(kept(weights));
  const name = h("input", {list: "kept", placeholder: "name of a list", value: names[0] ?? "", "aria-label": "list"});
  return h("form", {class: "pager", onsubmit: (event) => {
    event.preventDefault();
    if (!name.value.trim()) return;
    change(weights, name.value.trim(), poles());
    said(`${poles().length} in ${name.value.trim()}, which holds ${kept(weights)[name.value.trim()].length} now.`);
  }}, name, h("datalist", {id: "kept"}, names.map((one) => h("option", {value: one}))), h("button", {}, "Keep"));
}

export async function lists(here) {
  const run = await ask(runPath(here.run)), weights = run.about?.model.weight_sha256;
  if (!weights) throw new Error(run.fault ?? "The run can't be opened.");
  const main = h("div");
  const draw = () => {
    const found = kept(weights);
    main.replaceChildren(...(Object.keys(found).length ? Object.entries(found).map(([name, poles]) => one(here, weights, name, poles, draw))
      : [note("No lists yet. Open a neuron, or search for some, and keep them.")]));
  };
  draw();
  const file = h("input", {type: "file", accept: "application/json,.json", "aria-label": "a list as it was exported", onchange: async () => {
    try {
      const {name, poles} = JSON.parse(await file.files[0].text());
      const good = Array.isArray(poles) && poles.every((pole) => Array.isArray(pole) && pole.length === 3 && pole.every(Number.isInteger));
      if (typeof name !== "string" || !good) throw new Error("This file is no list that was exported here.");
      change(weights, name, poles);
      draw();
    } catch (error) {
      main.prepend(fault(error));
    }
  }});
  return [h("h1", {}, "Lists"), note("Kept in this browser, for every run of this model."), main,
    h("details", {}, h("summary", {}, "Read a list that was exported"), h("p", {}, file))];
}

function one(here, weights, name, poles, draw) {
  const said = h("div", {"aria-live": "polite"});
  const factor = h("input", {type: "number", step: "any", value: 0, "aria-label": "factor"});
  const scope = select([["all", "every token"], ["prompt", "the prompt"], ["generated", "what is generated"]], "all");
  const edit = async () => {
    const response = await ask(runPath(here.run, "/edit"), {name, poles, factor: Number(factor.value), scope: scope.value}, {raw: true});
    save(`${name.replace(/[^\w.-]+/g, "-")}.json`, await response.text());
    return note("Saved. ", h("code", {}, "cotscope evaluate RUN --edit FILE"), " says what it does.");
  };
  const forget = () => {
    const {[name]: gone, ...rest} = kept(weights);
    localStorage.setItem(place(weights), JSON.stringify(rest));
    draw();
  };
  return h("section", {}, h("h2", {}, h("bdi", {}, seen(name)), h("small", {}, ` ${poles.length} neurons`)),
    h("p", {class: "chips"}, poles.slice(0, 200).map(([layer, index, sign]) => {
      const pole = {layer, index, sign};
      return [link(href(here.run, "neurons", {pole: poleKey(pole)}), poleName(pole)),
        h("button", {type: "button", class: "plain", title: "take out", "aria-label": `take ${poleName(pole)} out`,
          onclick: () => { change(weights, name, [[layer, index, sign]], false); draw(); }}, " ×"), "  "];
    }), poles.length > 200 && ` and ${poles.length - 200} more`),
    h("div", {class: "fields"},
      field("Factor", factor, "0 switches off, 2 doubles"), field("At", scope),
      h("button", {type: "button", onclick: () => into(said, edit(), "Making the edit …")}, "Save as an edit"),
      h("button", {type: "button", onclick: () => save(`${name.replace(/[^\w.-]+/g, "-")}-list.json`, JSON.stringify({format: "cotscope-list", name, weights, poles}, null, 1))}, "Export"),
      h("button", {type: "button", onclick: () => { location.hash = href(here.run, "try", {by: "list", list: name}); }}, "Try it"),
      h("button", {type: "button", onclick: forget}, "Delete")), said);
}
