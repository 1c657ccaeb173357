// The table of neurons and the card of one. The server filters, sorts and pages; the address holds what was asked.

import {adder} from "./lists.js";
import {ask, chip, chips, field, goTo, h, href, into, keySwitch, link, note, number, pager, poleKey, poleName, query, right, runPath, seen, select, sorter, staleness, table} from "./page.js";

const COLUMNS = [["", "neuron", "layer"], ["", "promotes", ""], ["", "stands for", "verdict"], ["n", "active at", "steps", "tokens at which it was active when discovery problems were solved"],
  ["n", "problems", "problems"], ["n", "update size", "mean_update_size", "mean of |coefficient| · size of its value vector"], ["n", "coefficient", "mean_coefficient"],
  ["n", "attribution", "attribution", "what zeroing it alone would do to the logit margin of results, to first order (nats)"]];
const ROLES = {operator: "operators", equals: "equals signs", result: "results", operand: "operands", elsewhere: "elsewhere"};

export async function neurons(here) {
  const {pole, ...asked} = here.values;
  const [found, run] = await Promise.all([ask(runPath(here.run, `/neurons?${query(asked)}`)), ask(runPath(here.run))]);
  if (run.fault) throw new Error(run.fault);
  const weights = run.about.model.weight_sha256;
  const go = (values) => goTo(href(here.run, "neurons", {...asked, pole, page: "", ...values}));
  const values = (row) => ({...asked, pole: row && poleKey(row)});
  const {about} = found;
  const parts = [h("h1", {}, "Neurons"), staleness(run, ["discover", "annotate", "keystones", "sets", ...(about.attributed ? ["attribute"] : [])]), filters(about, asked, go)];
  if (!about.neurons) return [...parts, note("The run has no poles: ", h("code", {}, "discover"), " has not run, or its tables are missing.")];
  const said = h("span", {class: "meta", role: "status"});
  const list = h("section", {"aria-label": "Neurons that were found"},
    pager(found, go),
    grid(found.rows, asked, go, (row) => href(here.run, "neurons", values(row)), pole),
    found.rows.length ? h("div", {class: "pager"}, h("span", {class: "meta"}, "These ", found.rows.length, " into"),
      adder(weights, () => found.rows.map((row) => [row.layer, row.index, row.sign]), (text) => { said.textContent = text; }), said) : "");
  const side = h("aside", {class: "card", "aria-label": "Neuron"});
  if (pole) into(side, card(here, run, pole, weights, () => goTo(href(here.run, "neurons", values(null)))));
  return [...parts, h("div", {class: pole ? "split open" : "split"}, pole ? side : "", list)];
}

function filters(about, asked, go) {
  const form = h("form", {class: "fields", role: "search", onsubmit: (event) => {
    event.preventDefault();
    go(Object.fromEntries(new FormData(form)));
  }},
    h("label", {class: "field grow"}, h("span", {}, "Promotes a token, or layer:neuron ", h("kbd", {}, "/")),
      h("input", {type: "search", name: "token", value: asked.token ?? "", placeholder: 'sum    "+"    12:345', autocomplete: "off", spellcheck: "false"})),
    field("Concept", select([["", "any"], ...Object.entries(about.concepts).map(([name, count]) => [name, `${name} (${count})`])], asked.concept ?? "", {name: "concept", onchange: () => form.requestSubmit()})),
    field("Word on it", select([["", "any"], ...Object.entries(about.verdicts).map(([name, count]) => [name, `${name === "none" ? "no candidate" : name} (${count})`])], asked.verdict ?? "", {name: "verdict", onchange: () => form.requestSubmit()})),
    field("Sign", select([["", "any"], ["1", "+"], ["-1", "−"], ...(about.attributed ? [["0", "not active"]] : [])], asked.sign ?? "", {name: "sign", onchange: () => form.requestSubmit()})),
    h("details", {class: "more", open: ["first_layer", "last_layer", "least", "attribution"].some((key) => asked[key])}, h("summary", {}, "More"), h("div", {class: "fields"},
      field("From layer", h("input", {type: "number", name: "first_layer", value: asked.first_layer ?? "", min: 0})),
      field("to layer", h("input", {type: "number", name: "last_layer", value: asked.last_layer ?? "", min: 0})),
      field("Active at least", h("input", {type: "number", name: "least", value: asked.least ?? "", min: 0}), "tokens"),
      about.attributed ? field("Attribution at least", h("input", {type: "number", name: "attribution", value: asked.attribution ?? "", min: 0, step: "any"}), "nats, either way") : "")),
    h("button", {}, "Search"),
    h("button", {type: "button", onclick: () => go(Object.fromEntries(Object.keys(asked).map((key) => [key, ""])))}, "Clear"),
    keySwitch());
  return form;
}

function grid(rows, asked, go, address, chosen) {
  const sort = asked.sort ?? "steps", down = (asked.descending ?? "true") === "true";
  const attributed = rows.some((row) => row.attribution !== null) || sort === "attribution";
  const columns = COLUMNS.filter(([, , key]) => key !== "attribution" || attributed);
  const head = ([kind, text, key, title]) => key ? sorter(text, {on: key === sort, down, title, right: kind}, () => go({sort: key, descending: String(key === sort ? !down : key !== "layer")}))
    : h("th", {scope: "col", class: kind, title}, text);
  const row = (one) => h("tr", {class: poleKey(one) === chosen ? "chosen" : "", onclick: (event) => { if (!event.target.closest("a")) goTo(address(one)); }},
    h("td", {}, h("a", {href: address(one), "data-row": poleKey(one), "aria-current": poleKey(one) === chosen ? "true" : undefined}, poleName(one))), h("td", {class: "promoted"}, one.promoted ? chips(one.promoted) : h("span", {class: "meta"}, "not active in discovery")),
    h("td", {}, one.verdict === "none" ? "" : h("span", {class: `badge ${one.verdict}`}, one.verdict), " ", (one.concepts ?? []).map(seen).join(", ")),
    h("td", {class: "n"}, number(one.steps, 0)), h("td", {class: "n"}, number(one.problems, 0)), h("td", {class: "n"}, number(one.mean_update_size)),
    h("td", {class: "n"}, number(one.mean_coefficient, 2, true)), attributed && h("td", {class: "n"}, number(one.attribution, 3, true)));
  return h("div", {class: "wide", "data-rows": true}, h("table", {class: "neurons"}, h("thead", {}, h("tr", {}, columns.map(head))), h("tbody", {}, rows.map(row))));
}

// -- the card ----------------------------------------------------------------------------------------------------------------

async function card(here, run, key, weights, close) {
  const [layer, index, sign] = key.split(".").map(Number);
  const found = await ask(runPath(here.run, `/neurons/${layer}/${index}/${sign}`));
  const rows = (name) => Array.isArray(found[name]) ? found[name] : [];
  const faults = Object.entries(found).filter(([, part]) => typeof part === "string");
  const [pole] = rows("pole"), said = h("div", {"aria-live": "polite"}), seeds = new Set(rows("candidates").flatMap((row) => row.evidence ?? []));
  const ranked = (tokens, scores) => h("div", {}, (tokens ?? []).map((token, i) => chip(token, {class: seeds.has(token) ? "seed" : "", title: `${JSON.stringify(token)}, logit ${number(scores?.[i])}`})));
  const kept = h("span", {class: "meta", role: "status"});
  return [
    h("div", {class: "pager"}, h("h2", {}, poleName({layer, index, sign})), h("button", {type: "button", onclick: close, "aria-label": "close the card"}, "Close"),
      sign ? link(href(here.run, "neurons", {...here.values, pole: `${layer}.${index}.${-sign}`}), "the other sign") : ""),
    note(`Layer ${layer} of ${run.about.model.layers}, neuron ${index}`, sign ? `, when its coefficient is ${sign > 0 ? "positive" : "negative"}.` : "."),
    faults.map(([name, text]) => h("p", {class: "fault"}, `${name}: ${seen(text)}`)),
    pole ? [h("h3", {}, "Promotes"), ranked(pole.promoted, pole.promoted_scores), h("h3", {}, "Suppresses"), ranked(pole.suppressed, pole.suppressed_scores),
      h("p", {}, `Active at ${number(pole.steps, 0)} tokens of ${pole.problems} problems; update size ${number(pole.mean_update_size)}, coefficient ${number(pole.mean_coefficient, 2, true)}, on average.`)]
      : note("Not active at this sign when discovery problems were solved, so the run holds no tokens of it."),
    h("h3", {}, "What it stands for"), word(rows("annotations"), rows("candidates"), rows("names")),
    contexts(rows("contexts")), places(rows("places")), effects(rows),
    h("h3", {}, "Keep it"), adder(weights, () => [[layer, index, sign]], (text) => { kept.textContent = text; }), kept,
    h("p", {}, link(href(here.run, "solutions", {pole: key}), "Where it is active in solutions")),
    h("h3", {}, "Alike"), note("Value vectors of the whole model that point the same way, by cosine. Needs the model: it is loaded if it is not."),
    h("button", {type: "button", onclick: () => into(said, alike(here, {layer, index, sign}), "Loading the model and comparing …")}, "Find them"), said];
}

function word(annotations, candidates, names) {
  if (!annotations.length && !candidates.length && !names.length) return note("No candidate: it promotes fewer than two words of every concept.");
  return [annotations.map((row) => h("p", {}, h("span", {class: `badge ${row.status === "failed" ? "failed" : row.accepted ? "accepted" : "rejected"}`}, row.status === "failed" ? "no word" : row.accepted ? "accepted" : "rejected"),
    " ", h("b", {}, seen(row.concept)), h("small", {}, ` by ${seen(row.annotator)}${row.confidence === null ? "" : `, confidence ${number(row.confidence)}`}`),
    row.description ? [h("br"), h("bdi", {}, seen(row.description))] : "", row.evidence?.length ? [h("br"), chips(row.evidence, {class: "seed"})] : "")),
    annotations.length ? "" : candidates.map((row) => h("p", {}, h("span", {class: "badge candidate"}, "candidate"), " ", h("b", {}, seen(row.concept)), ` by ${row.matches} words `, chips(row.evidence, {class: "seed"}))),
    names.map((row) => h("p", {}, "Named freely: ", h("b", {}, seen(row.name)), row.concept ? ` (${seen(row.concept)})` : "", h("small", {}, ` by ${seen(row.annotator)}`), row.description ? [h("br"), seen(row.description)] : ""))];
}

const contexts = (rows) => [h("h3", {}, "Where it was most active"), rows.length ? rows.map((row) => h("p", {class: "context"},
  h("bdi", {}, seen(row.before), h("mark", {}, seen(row.token)), seen(row.after)), " ",
  h("bdi", {}, h("small", {}, `${number(row.coefficient, 2, true)}, ${seen(row.problem_id)}`)))) : note("The run has looked up no contexts of it (only a judge that is a model asks for them).")];

function places(rows) {
  if (!rows.length) return "";
  const most = Math.max(...rows.map((row) => row.steps));
  return [h("h3", {}, "Activity by place"), table(["tokens", right("active at"), "", right("update size")], rows.map((row) => {
    const bar = h("span", {class: "bar"});
    bar.style.width = `${(row.steps / most * 6).toFixed(2)}rem`;
    return [ROLES[row.role] ?? seen(row.role), right(number(row.steps, 0)), bar, right(number(row.update_size))];
  }), {label: "Activity by place"})];
}

function effects(rows) {
  const [attribution] = rows("attribution"), [keystone] = rows("keystone"), checked = rows("checked");
  const lines = [
    keystone && `Zeroed alone: KL ${number(keystone.kl, 4)} nats, perplexity times ${number(keystone.perplexity_ratio, 3)}${keystone.keystone ? "; a keystone, left out of every set" : ""}.`,
    checked.length && `Zeroed alone, results' logit margin ${number(checked[0].zeroed, 3, true)} nats; its attribution said ${number(checked[0].predicted, 3, true)}.`,
    rows("selections").length && `Chosen by ${rows("selections").map((row) => `${row.selection} (place ${row.rank})`).join(", ")}.`,
    rows("sets").length && `In the sets ${rows("sets").slice(0, 12).map((row) => row.neuron_set).join(", ")}${rows("sets").length > 12 ? " …" : ""}.`];
  const names = ["result_margin", "operator", "equals", "result", "elsewhere", "battery", "text"];
  const found = lines.filter(Boolean);
  return [h("h3", {}, "Effect"), attribution || found.length ? "" : note("Not measured for this neuron alone."), found.map((line) => h("p", {}, seen(line))),
    attribution ? [note("What zeroing it alone would change, to first order (nats):"), table(["outcome", right("in all"), right("directly")],
      names.filter((name) => name in attribution).map((name) => [name.replace("_", " "), right(number(attribution[name], 3, true)), right(number(attribution[`${name}_direct`], 3, true))]), {label: "Attribution"})] : ""];
}

async function alike(here, pole) {
  const found = await ask(runPath(here.run, "/similar"), pole, {signal: here.left});
  return [h("p", {}, "It promotes ", chips(found.own.promoted), " and suppresses ", chips(found.own.suppressed)),
    table(["neuron", right("cosine"), "promotes"], found.rows.map((row) => [link(href(here.run, "neurons", {...here.values, pole: poleKey(row)}), poleName(row)), right(number(row.cosine, 3)), chips(row.promoted)]), {label: "Alike"})];
}
