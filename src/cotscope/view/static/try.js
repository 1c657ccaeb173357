// A question of the reader's own: what the model writes as it is and with neurons changed, side by side, as it comes.

import {SCOPES, absent, kept} from "./lists.js";
import {ask, fault, field, h, href, note, number, runPath, seen, select, spelled} from "./page.js";
import {heat} from "./solutions.js";

const SIDES = {base: "As it is", changed: "Changed"};
const QUESTION = "Ann has 12 apples and buys 7 more. She gives 5 to Ben. How many apples has Ann now?";

export async function tryIt(here) {
  const [run, found, neurons] = await Promise.all([ask(runPath(here.run)), ask(runPath(here.run, "/conditions")), ask(runPath(here.run, "/neurons"))]);
  if (run.fault) throw new Error(run.fault);
  const weights = run.about.model.weight_sha256, lists = kept(weights), model = await ask(runPath(here.run, "/model")), values = here.values;
  const ways = [["nothing", "nothing: only what it writes"], ["reasoning", "reasoning neurons"], ...(neurons.about.attributed ? [["attribution", "neurons chosen by attribution"]] : []),
    ...(lists.size ? [["list", "a list that was kept"]] : []), ["edit", "an edit file"]];
  const way = values.by ?? "reasoning", isThere = way === "list" ? lists.has(values.list) : ways.some(([key]) => key === way);
  const by = select(ways, isThere ? way : "nothing", {name: "by", onchange: () => options()});
  const more = h("div"), sides = h("div", {class: "sides", "aria-live": "off"}), status = h("p", {role: "status", class: "meta"});
  let stopping = null;
  const concepts = neurons.about.accepted;
  const scaled = () => [field("Factor", h("input", {name: "factor", type: "number", step: "any", value: values.factor ?? 0}), "0 switches off, 2 doubles"),
    field("At", select(SCOPES, values.scope ?? "all", {name: "scope"}))];
  const options = () => more.replaceChildren(...[{
    nothing: () => [],
    reasoning: () => [h("fieldset", {}, h("legend", {}, "Of these concepts"), concepts.length ? concepts.map((name) => h("label", {class: "check"},
      h("input", {type: "checkbox", name: "concepts", value: name, checked: !values.concepts || values.concepts.split("\n").includes(name)}), seen(name))) : note("None: nothing was annotated.")), h("div", {class: "fields"}, scaled())],
    attribution: () => [h("div", {class: "fields"}, field("The first", h("input", {name: "first", type: "number", min: 1, value: values.first ?? 50})), scaled())],
    list: () => [h("div", {class: "fields"}, field("List", select([...lists.keys()], values.list ?? "", {name: "list"})), scaled())],
    edit: () => [h("p", {}, h("input", {type: "file", name: "edit", accept: ".json,application/json", "aria-label": "an edit file"}))],
  }[by.value]()].flat());
  const go = h("button", {class: "main"}, "Write"), stop = h("button", {type: "button", disabled: true, onclick: () => stopping?.()}, "Stop");
  const form = h("form", {onsubmit: async (event) => {
    event.preventDefault();
    const control = new AbortController();
    stopping = () => { ask("/api/stop", {}).catch(() => {}); setTimeout(() => control.abort(), 4000); };
    here.left.addEventListener("abort", () => control.abort());
    go.disabled = true; stop.disabled = false;
    try {
      const body = await asked(form, lists, concepts);
      history.replaceState(null, "", href(here.run, "try", remembered(form, body)));
      await written(here, body, sides, status, control, model);
    } catch (error) {
      status.replaceChildren(error.name === "AbortError" ? "Stopped." : fault(error));
    } finally {
      go.disabled = false; stop.disabled = true;
    }
  }},
    h("label", {class: "field"}, h("span", {}, "Question"), h("textarea", {name: "question", required: true, maxlength: 20000, value: values.question ?? QUESTION})),
    h("div", {class: "fields"}, field("Prompt", select(found.prompts, values.prompt ?? found.prompts[0], {name: "prompt"})),
      field("At most", h("input", {name: "tokens", type: "number", min: 1, max: 600, value: values.tokens ?? 120}), "tokens"), field("Change", by), ),
    more, h("p", {class: "pager"}, go, stop), status);
  options();
  return [h("h1", {}, "Try it"), lacking(values, way, isThere, found.prompts),
    note(model.loaded ? "The model is loaded." : `The model (${seen(model.name)}, about ${number(model.gigabytes, 1)} GB) is loaded when it first writes.`), form, sides];
}

/** What a link asks for and can't have here. */
function lacking(values, way, isThere, prompts) {
  const said = (before, name, after) => h("p", {class: "warning"}, before, h("bdi", {}, seen(name)), after);
  return [
    !isThere && (way === "list" ? absent(values.list) : said("Nothing can be chosen by ", way, " in this run, so nothing is changed.")),
    way === "edit" && note("A link does not hold the edit itself: choose its file again."),
    values.prompt && !prompts.includes(values.prompt) && said("The study has no prompt ", values.prompt, ": its first one is chosen.")];
}

/** What is sent: the question and the change. */
async function asked(form, lists, concepts) {
  const data = new FormData(form), by = data.get("by"), change = {by, factor: Number(data.get("factor") ?? 0), scope: data.get("scope") ?? "all"};
  if (by === "reasoning") {
    change.concepts = data.getAll("concepts");
    if (!change.concepts.length) throw new Error("Choose at least one concept.");
    if (change.concepts.length === concepts.length) change.concepts = [];
  }
  if (by === "attribution") change.first = Number(data.get("first"));
  if (by === "list") change.poles = lists.get(data.get("list")) ?? [];
  if (by === "edit") {
    const file = data.get("edit");
    if (!file?.size) throw new Error("Choose an edit file.");
    try { change.edit = JSON.parse(await file.text()); } catch { throw new Error("The edit file is no JSON."); }
  }
  return {question: data.get("question"), prompt: data.get("prompt"), tokens: Number(data.get("tokens")), change};
}

/** What the address keeps of it, for a link. */
function remembered(form, {question, prompt, tokens, change}) {
  const list = new FormData(form).get("list") ?? "";
  return {question, prompt, tokens, by: change.by, list, concepts: (change.concepts ?? []).join("\n"), first: change.first ?? "", factor: change.by === "edit" ? "" : change.factor, scope: change.scope === "all" ? "" : change.scope};
}

async function written(here, body, sides, status, control, model) {
  status.replaceChildren(model.loaded ? "Reading the prompt …" : "Loading the model and reading the prompt …");
  const shown = {}, began = performance.now();
  let tokens = 0, most = 1;
  const names = body.change.by === "nothing" ? ["base"] : ["base", "changed"];
  sides.replaceChildren(...names.map((side) => {
    shown[side] = {box: h("div", {class: "tokens writing", "aria-label": SIDES[side]}), note: h("p", {class: "meta"}), all: 0, steps: 0, tokens: []};
    return h("section", {class: "side"}, h("h2", {}, SIDES[side]), shown[side].box, shown[side].note);
  }));
  let concepts = [];
  const take = (said) => {
    if (said.error) throw new Error(said.error);
    if (said.stopped) { status.textContent = "Stopped."; return; }
    if (said.concepts) { concepts = said.concepts; model.loaded = true; return; }
    const side = shown[said.side];
    if (said.text !== undefined) {
      side.box.classList.remove("writing");
      side.note.textContent = `${side.steps} tokens, ${said.finish === "stop" ? "ended by itself" : "cut at its limit"}; ${number(side.all / Math.max(1, side.steps))} active reasoning poles per token.`;
      return;
    }
    const active = said.active.at(-1);
    side.steps += 1; side.all += active; tokens += 1;
    if (!said.ends) {
      const parts = concepts.filter((_, i) => said.active[i]).map((name) => `${seen(name)} ${said.active[concepts.indexOf(name)]}`);
      const one = h("span", {class: "tok", title: `${spelled(said.token)}: ${active} active poles${parts.length ? ` (${parts.join(", ")})` : ""}`},
        said.token.split("\n").flatMap((line, i) => i ? [h("i", {}, "⏎"), "\n", seen(line)] : [seen(line)]));
      side.box.append(one);
      side.tokens.push([one, active]);
      if (active > most) { most = active; Object.values(shown).forEach((each) => each.tokens.forEach(([element, count]) => heat(element, count / most))); }
      heat(one, active / most);
    }
    status.textContent = `${tokens} tokens, ${number(tokens / (performance.now() - began) * 1000, 1)} a second. Coloured by active reasoning poles, at most ${most} at a token.`;
  };
  const response = await ask(runPath(here.run, "/try"), body, {signal: control.signal, raw: true});
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  try {
    for (let rest = "", {value, done} = await reader.read(); !done; {value, done} = await reader.read()) {
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const line of lines) take(JSON.parse(line));
    }
  } finally {
    for (const side of Object.values(shown)) side.box.classList.remove("writing");
  }
}
