// The list of runs, one run, two runs side by side, and how far one is.

import {ask, fault, field, h, href, into, link, note, number, polling, redraw, right, runPath, seconds, seen, select, table} from "./page.js";

const WORDS = {done: "done", stale: "stale", stopped: "stopped", missing: "not run", started: "running"};
const badge = (status) => h("span", {class: `badge ${status}`}, WORDS[status] ?? status);
const at = (iso) => iso ? iso.replace("T", " ").slice(0, 16) : "–";

export async function runs(here) {
  const found = await ask("/api/runs");
  const picked = new Set(), both = h("button", {type: "button", disabled: true, onclick: () => {
    const [a, b] = picked;
    location.hash = `#/compare?a=${encodeURIComponent(a)}&b=${encodeURIComponent(b)}`;
  }}, "Show two side by side");
  const pick = (name) => h("input", {type: "checkbox", "aria-label": `compare ${seen(name)}`, checked: picked.has(name), onchange: (event) => {
    event.target.checked ? picked.add(name) : picked.delete(name);
    both.disabled = picked.size !== 2;
  }});
  const row = (run) => [pick(run.name), h("a", {href: href(run.name), "data-row": true}, h("bdi", {}, seen(run.name))), ...(run.fault ? [h("span", {class: "fault"}, seen(run.fault)), "", "", ""]
    : [h("bdi", {}, seen(run.model)), h("bdi", {}, `${seen(run.data)}, ${run.test} problems`), state(run), at(run.begun)])];
  const list = h("div"), wrong = h("div"), study = found.holders.length ? begin(found) : null;
  let drawn = "";
  const draw = (now) => {
    study?.draw(now.study);
    for (const name of picked) if (!now.runs.some((run) => run.name === name)) picked.delete(name);
    both.disabled = picked.size !== 2;
    both.hidden = now.runs.length < 2;
    if (drawn === JSON.stringify(now.runs)) return;
    drawn = JSON.stringify(now.runs);
    redraw(list, now.runs.length ? table(["", "run", "model", "data", "state", "begun"], now.runs.map(row), {label: "Runs", class: "cards"}) : note("No run is here yet."));
  };
  draw(found);
  polling(here, "/api/runs", (now) => {
    if (!(now instanceof Error)) { wrong.replaceChildren(); draw(now); }
    else if (wrong.textContent !== seen(now.message)) wrong.replaceChildren(fault(now));  // it is read out once
  });
  return [h("h1", {}, "Runs"), wrong, list, h("p", {}, both), study?.element ?? note("A study can be begun here when `cotscope view` is given a folder that holds runs.")];
}

const state = (run) => run.running ? [badge("started"), run.doing ? ` ${run.doing}, ` : " ", `${run.done} stages done`] : `${run.done} of ${run.begun_stages} stages done`;

/** A small study to begin, and what it prints. */
function begin(found) {
  const said = h("div"), log = h("pre", {class: "log", tabindex: "0", role: "region", "aria-label": "What the study prints"});
  const status = h("p", {role: "status"}), command = note(), stop = h("button", {type: "button", onclick: () => into(wrong, ask("/api/studies/stop", {}).then(draw))}, "Stop it"), wrong = h("div");
  let drawn = "";
  const draw = (study) => {
    if (!study || drawn === JSON.stringify(study)) return;
    drawn = JSON.stringify(study);
    if (!said.childElementCount) said.append(status, command, stop, log);
    const name = h("bdi", {}, seen(study.run ?? study.name));
    status.replaceChildren("Study ", study.run ? link(href(study.run), name) : name, " ", study.code === null ? badge("started") : study.code === 0 ? badge("done") : `ended with ${study.code}`);
    command.replaceChildren(h("code", {}, seen(study.command.join(" "))));
    stop.hidden = study.code !== null;
    log.textContent = study.said.split("\n").map(seen).join("\n");
    log.scrollTop = log.scrollHeight;
  };
  const start = h("button", {}, "Begin");
  const form = h("form", {class: "fields", onsubmit: (event) => {
    event.preventDefault();
    const values = Object.fromEntries(new FormData(form));
    start.disabled = true;
    const begun = ask("/api/studies", {...values, limit: Number(values.limit)}).then(draw).finally(() => { start.disabled = false; });
    into(wrong, begun, "Beginning it …");
  }},
    field("Model", h("input", {name: "model", required: true, list: "models", value: found.models[0] ?? ""}),
      "one that is installed, or a local folder; nothing is fetched"),
    h("datalist", {id: "models"}, found.models.map((name) => h("option", {value: name}))),
    field("Problems", h("input", {name: "data", required: true, value: "builtin"}), "builtin, or a .json or .jsonl file"),
    field("How many", h("input", {name: "limit", type: "number", min: 1, max: 2000, value: 16, required: true})),
    field("In", select(found.holders, found.holders[0], {name: "holder"})),
    field("Called", h("input", {name: "name", required: true, pattern: "[A-Za-z0-9_][A-Za-z0-9_.\\-]*", value: "first"})),
    start);
  return {draw, element: h("details", {open: Boolean(found.study) || !found.runs.length}, h("summary", {}, "Begin a small study"), form,
    note("It runs by itself and goes on when the viewer ends. A study with the same name and choices goes on where it stopped."), wrong, said)};
}

const pairs = (rows) => h("dl", {class: "pairs"}, rows.filter(([, value]) => value !== null && value !== undefined)
  .map(([key, value]) => h("div", {}, h("dt", {}, key), h("dd", {}, value))));

function about(run) {
  const {model, data, concepts, prompts, versions, command, begun} = run.about;
  return pairs([
    ["model", h("bdi", {}, seen(model.name))], ["size", `${number(model.parameters / 1e6, 0)} million parameters, ${model.layers} layers of ${number(model.neurons_per_layer, 0)} neurons`],
    ["in", seen(`${model.dtype} (${model.dtype_why}), ${model.kernels} kernels`)], ["weights", h("code", {}, seen(model.weight_sha256))],
    ["data", h("bdi", {}, seen(data.source))], ["problems", `${data.test} test, ${data.discovery} discovery, ${data.tuning} tuning`],
    ["data's hash", h("code", {}, seen(data.sha256))], ["concepts", h("bdi", {}, seen(concepts.source))],
    ["prompts", h("bdi", {}, prompts.map((prompt) => seen(prompt.name)).join(", "))],
    ["versions", seen(Object.entries(versions).map((pair) => pair.join(" ")).join(", "))],
    ["begun", at(begun)], ["command", command && h("code", {}, seen(command.join(" ")))]]);
}

function broken(run, name) {
  return [h("p", {class: "fault", role: "alert"}, seen(run.fault)),
    run.report && h("p", {}, link(runPath(name, "/report.html"), "Its report"), ", as it was last written."),
    h("h2", {}, "What is in the folder"),
    run.found.length ? h("ul", {}, run.found.map((file) => h("li", {}, h("code", {}, seen(file))))) : note("No tables.")];
}

export async function overview(here) {
  const run = await ask(runPath(here.run)), title = h("h1", {}, h("bdi", {}, seen(here.run)));
  if (run.fault) return [title, broken(run, here.run)];
  const live = h("section", {"aria-label": "Progress"});
  if (run.running) watch(here, live);
  const stages = run.stages.filter((stage) => stage.status !== "missing"), missing = run.stages.filter((stage) => stage.status === "missing");
  return [title, h("p", {class: "meta"}, seen(run.folder)), live,
    run.missing.length ? h("div", {class: "warning"}, h("p", {}, `${run.missing.length} files that the run had are missing or changed: `,
      h("code", {}, seen(run.missing.slice(0, 12).join(", "))), run.missing.length > 12 && " …", ". What rests on them is stale.")) : "",
    run.faults.map((text) => h("p", {class: "fault"}, seen(text))),
    figures([run]),
    h("p", {}, run.report && link(runPath(here.run, "/report.html"), "The report"), run.report && " · ", link(href(here.run, "neurons"), "Neurons"), " · ",
      link(href(here.run, "solutions"), "Solutions"), " · ", run.tables.predictions ? [link(href(here.run, "predictions"), "Predictions"), " · "] : "", link(href(here.run, "try"), "Try it")),
    run.notes.length ? h("details", {open: true}, h("summary", {}, `Notes to read first (${run.notes.length})`), h("ul", {}, run.notes.map((text) => h("li", {}, seen(text))))) : "",
    h("h2", {}, "Stages"),
    table(["stage", "state", "time", "finding"], stages.map((stage) => [h("span", {title: stage.about}, stage.name), [badge(stage.status), stage.why && h("small", {}, " ", seen(stage.why))],
      right(seconds(stage.seconds)), [h("bdi", {}, seen(stage.finding)), stage.again && h("small", {class: "meta"}, h("br"), h("code", {}, seen(stage.again)), " makes it again")]]), {label: "Stages"}),
    missing.length ? note("Not run: ", missing.map((stage) => stage.name).join(", "), ".") : "",
    run.headline && h("details", {}, h("summary", {}, "All headline figures"), h("pre", {tabindex: "0", role: "region", "aria-label": "All headline figures"}, run.headline.split("\n").map(seen).join("\n"))),
    h("h2", {}, "What it was made of"), about(run),
    h("details", {}, h("summary", {}, "Tables"), table(["table", "rows"], Object.entries(run.tables).map(([name, rows]) => [name, right(number(rows, 0))]), {label: "Tables"}))];
}

/** Keep up with a run that goes on, until it has ended or the page is left; when a stage ends, the page is made again. */
async function watch(here, live) {
  const doing = h("span", {role: "status"}), wrote = h("span"), shown = h("div", {class: "live"}, h("p", {}, badge("started"), " ", doing, " ", wrote));
  let done = null;
  const take = (now) => {
    if (now instanceof Error) { live.replaceChildren(fault(now)); return true; }
    const finished = now.stages.filter((stage) => stage.status === "done").length;
    if (!now.running || done !== null && finished !== done) { dispatchEvent(new Event("hashchange")); return true; }
    done = finished;
    const going = now.stages.find((stage) => stage.status === "started");
    const ago = now.at ? Math.max(0, (new Date(now.now) - new Date(now.at)) / 1000) : null;
    const said = going ? `${going.name} is running.` : "Between two stages.";
    if (doing.textContent !== said) doing.textContent = said;  // what did not change is not read out again
    wrote.replaceChildren(`${finished} stages are done, ${now.files} files and ${number(now.completions, 0)} completions written`, ...(ago === null ? ["."] : ["; the last, ", h("code", {}, seen(now.latest)), `, ${seconds(ago)} ago.`]));
    if (!shown.isConnected) live.replaceChildren(shown);
    return false;
  };
  const first = await ask(runPath(here.run, "/progress")).catch((error) => error);
  if (!take(first)) polling(here, runPath(here.run, "/progress"), take);
}

/** Headline figures of one run or several, those that differ marked. */
function figures(found, names = [""]) {
  const labels = [...new Set(found.flatMap((run) => (run.figures ?? []).map((figure) => figure.label)))];
  if (!labels.length) return note("No figures yet.");
  const value = (run, label) => run.figures?.find((figure) => figure.label === label)?.value ?? "–";
  return table(["", ...names.map((name) => right(h("bdi", {}, seen(name))))], labels.map((label) => {
    const values = found.map((run) => value(run, label));
    return [label, ...values.map((text) => right(h("span", {class: new Set(values).size > 1 ? "differs" : ""}, seen(text))))];
  }), {label: "Figures", class: "figures"});
}

export async function compare(here) {
  const names = [here.values.a ?? "", here.values.b ?? ""];
  const found = await Promise.all(names.map((name) => ask(runPath(name))));
  const text = (value) => value === undefined || value === null ? "–" : typeof value === "object" ? JSON.stringify(value) : String(value);
  const keys = {model: ["name", "dtype", "kernels", "parameters", "layers", "weight_sha256"], data: ["source", "test", "discovery", "sha256"], concepts: ["source", "sha256"]};
  const rows = Object.entries(keys).flatMap(([part, list]) => list.map((key) => [`${part}: ${key}`, ...found.map((run) => text(run.about?.[part]?.[key]))]));
  rows.push(["prompts", ...found.map((run) => (run.about?.prompts ?? []).map((prompt) => prompt.name).join(", "))]);
  const union = (each) => [...new Set(found.flatMap((run) => Object.keys(each(run) ?? {})))];
  rows.push(...union((run) => run.about?.config).map((key) => [`option ${key}`, ...found.map((run) => text(run.about?.config?.[key]))]).filter(([, a, b]) => a !== b));
  for (const name of union((run) => run.options)) for (const key of union((run) => run.options?.[name])) {
    const [a, b] = found.map((run) => text(run.options?.[name]?.[key])), both = found.every((run) => run.options?.[name]);
    if (`${name} ${key}` === "annotate annotator" || both && a !== b) rows.push([`${name}: ${key}`, a, b]);
  }
  const stage = (run, name) => run.stages?.find((one) => one.name === name);
  const stages = [...new Set(found.flatMap((run) => (run.stages ?? []).filter((one) => one.status !== "missing").map((one) => one.name)))];
  const marked = ([a, b]) => (value) => h("span", {class: a === b ? "" : "differs"}, h("bdi", {}, seen(value)));
  return [h("h1", {}, "Two runs"), found.map((run, i) => run.fault && h("p", {class: "fault"}, seen(names[i]), ": ", seen(run.fault))),
    h("h2", {}, "Figures"), figures(found, names), note("Marked: what differs. Intervals are each run's own; two runs that share problems are not independent."),
    h("h2", {}, "Findings"), table(["stage", ...names.map((name) => link(href(name), seen(name)))], stages.map((name) => [name, ...found.map((run) => {
      const one = stage(run, name);
      return one ? [badge(one.status), " ", h("bdi", {}, seen(one.finding))] : "–";
    })]), {label: "Findings"}),
    h("h2", {}, "What they were made of"), table(["", ...names.map(seen)], rows.map(([key, ...values]) => [seen(key), ...values.map(marked(values))]), {label: "Inputs"})];
}
