// What the model wrote, token by token, coloured by activity; two conditions side by side, differences marked.

import {ask, chip, chips, fault, field, h, href, into, note, number, poleKey, poleName, query, runPath, seen, select, spelled} from "./page.js";

const FAMILIES = {study: "prompts of the study", ablation: "neurons zeroed", discovery: "discovery", push: "their own push", selection: "chosen by attribution and others zeroed",
  evaluation: "edits", variant: "prompts of random exemplars", sentence: "zero-shot sentences", prediction: "answers that were predicted",
  cascade: "a larger model's answers"};
export const verdict = (correct) => h("span", {class: `badge ${correct ? "right" : "wrong"}`}, correct ? "right" : "wrong");

const warning = (before, name = "", after = "") => h("p", {class: "warning"}, seen(before), name && h("bdi", {}, seen(name)), after);

export async function solutions(here) {
  const found = await ask(runPath(here.run, "/conditions"));
  if (!found.conditions.length) return [h("h1", {}, "Solutions"), note("The model has not written anything in this run, or its tables are missing.")];
  const values = {...here.values}, names = found.conditions.map((one) => one.condition);
  const ofStudy = `study.${found.prompts[0]}`, first = names.includes(ofStudy) ? ofStudy : names[0];  // sets are zeroed under it
  values.condition = names.includes(values.condition) ? values.condition : first;
  if (!names.includes(values.beside)) values.beside = values.condition !== first || here.values.condition ? "" : names.includes("ablation.reasoning") ? "ablation.reasoning" : "";
  const unknown = [here.values.condition, here.values.beside].filter((name) => name && !names.includes(name));
  const problems = await ask(runPath(here.run, `/problems?${query({condition: values.condition, beside: values.beside})}`));
  const differ = (one) => one.beside !== null && one.beside !== one.correct;
  values.problem = problems.some((one) => one.problem_id === values.problem) ? values.problem : (problems.find((one) => one.correct && differ(one)) ?? problems[0])?.problem_id;
  const other = here.values.problem && values.problem !== here.values.problem;
  if (unknown.length || other) values.token = "";  // it is one of a text that is not shown
  const go = (more) => { location.hash = href(here.run, "solutions", {...values, ...more}); };
  const shown = h("div");
  into(shown, solution(here, values, go));
  const text = (one) => `${one.problem_id} ${one.correct ? "✓" : "✗"}${one.beside === null ? "" : one.beside ? " ✓" : " ✗"} ${(one.question ?? "").slice(0, 60)}`;
  const place = problems.findIndex((one) => one.problem_id === values.problem);
  const step = (by, label, sign) => h("button", {type: "button", "aria-label": label, disabled: !problems[place + by], onclick: () => go({problem: problems[place + by].problem_id, token: ""})}, sign);
  return [h("h1", {}, "Solutions"),
    unknown.map((name) => warning("Nothing was written under ", name, " in this run: something else is shown.")),
    other && warning("Problem ", here.values.problem, ` was not asked under ${seen(values.condition)}: another one is shown.`),
    h("div", {class: "fields"}, field("Under", conditions(found.conditions, values.condition, (condition) => go({condition, token: ""}))),
      field("beside", conditions(found.conditions, values.beside, (beside) => go({beside, condition: values.condition, token: ""}), "nothing")),
      h("label", {class: "field grow"}, h("span", {}, `Problem (${problems.filter((one) => one.correct).length} of ${problems.length} right${values.beside ? `, ${problems.filter((one) => one.beside).length} beside` : ""})`),
        h("span", {class: "pager"}, select(problems.map((one) => [one.problem_id, text(one)]), values.problem, {onchange: (event) => go({problem: event.target.value, token: ""})}), step(-1, "problem before", "◀"), step(1, "next problem", "▶")))),
    shown];
}

function conditions(all, value, change, none) {
  const families = [...new Set(all.map((one) => one.family))];
  return h("select", {onchange: (event) => change(event.target.value)}, none && h("option", {value: ""}, none),
    families.map((family) => h("optgroup", {label: FAMILIES[family] ?? family}, all.filter((one) => one.family === family).map((one) =>
      h("option", {value: one.condition, selected: one.condition === value}, `${seen(one.condition.slice(one.family.length + 1))} (${one.correct} of ${one.n})`)))));
}

// What the prompt and the disrupted neurons do not tell: data, samples, edits, another model.
const TOLD = {prediction: "", evaluation: "edit ", cascade: "larger model, "};

function titleOf(side) {
  const family = side.condition.split(".")[0], rest = side.condition.slice(family.length + 1);
  if (family in TOLD) return `${side.prompt}, ${TOLD[family]}${rest}`;
  return side.neuron_set === "none" ? side.prompt : `${side.prompt}, ${family === "ablation" ? `zeroed: ${side.neuron_set}` : side.neuron_set}`;
}

async function solution(here, values, go) {
  const asked = {problem: values.problem, condition: values.condition, beside: values.beside ?? ""};
  const [found, model] = await Promise.all([ask(runPath(here.run, `/solution?${query(asked)}`)), ask(runPath(here.run, "/model"))]);
  const tokens = (side) => h("div", {class: "tokens", onkeydown: among}, words(side));
  const sides = found.sides.map((side) => ({...side, tokens: tokens(side), wrong: h("div")}));
  if (found.fault) asked.beside = "";
  const below = h("div"), bar = h("div", {class: "fields"});
  const colour = async () => {
    here.left.throwIfAborted();  // nothing is begun, nor drawn, for a page that was left
    const [pole, concept] = values.pole ? [values.pole, null] : [null, values.concept ?? ""];
    const [layer, index, sign] = (pole ?? "0.0.0").split(".").map(Number);
    const body = {...asked, pole: pole ? {layer, index, sign} : null};
    const activity = await ask(runPath(here.run, "/activity"), body, {signal: here.left});
    here.left.throwIfAborted();
    draw(here, values, sides, activity, concept, below);
    const known = activity.filter((side) => !side.error);
    return [chooser(values, known, go), legend(pole, known, values)];
  };
  const show = h("button", {type: "button", class: "main", onclick: () => colouring()}, "Show tokens and activity");
  const colouring = () => {
    show.disabled = true;
    into(bar, colour().catch((error) => {
      here.left.throwIfAborted();
      show.disabled = false;
      return [fault(error), show];
    }), model.loaded ? "Computing the activity …" : `Loading ${seen(model.name)} and computing the activity …`);
  };
  if (model.loaded) colouring();
  else bar.append(h("div", {class: "pager"}, show, note(`Loads the model (about ${number(model.gigabytes, 1)} GB) and makes it write the same tokens again.`, model.other ? " Another run's model makes room for it." : "")));
  return [h("p", {class: "problem"}, h("bdi", {}, seen(found.problem.question)), " ", h("b", {}, `Answer: ${seen(found.problem.answer)}`)), bar,
    h("div", {class: "sides"}, sides.map((side) => h("section", {class: "side"}, h("h2", {}, h("bdi", {}, seen(titleOf(side))), " ", verdict(side.correct)), side.stale ? warning(`${side.stale}: the study may write something else now.`) : "", side.tokens, side.wrong,
      note(`Says ${seen(side.flexible ?? "no answer")}; ${found.sides[sides.indexOf(side)].tokens} tokens, ${side.finish === "stop" ? "ended by itself" : "cut at its limit"}.`))),
      found.fault && h("section", {class: "side"}, h("h2", {}, h("bdi", {}, seen(values.beside))), warning(found.fault))), sides.length > 1 ? note("Underlined in red: what the other one does not have.") : "", below];
}

/** Arrows go from token to token; Enter and Space choose one. Tokens are no button elements: those do not break lines. */
function among(event) {
  if (event.key === "Enter" || event.key === " ") {
    event.preventDefault();
    return event.target.closest("[data-token]")?.click();
  }
  const step = {ArrowRight: "nextElementSibling", ArrowLeft: "previousElementSibling"}[event.key];
  const next = step && event.target.closest("[data-token]")?.[step];
  if (!next) return;
  event.preventDefault();
  event.target.tabIndex = -1;
  next.tabIndex = 0;
  next.focus();
}

/** A text as it is, lines as lines, what cannot be seen as signs. */
function plain(text) {
  return text.split("\n").flatMap((line, i) => i ? [h("i", {"aria-hidden": "true"}, "⏎"), "\n", seen(line)] : [seen(line)]);
}

function words(side) {
  const differs = new Set(side.differs);
  return side.words.map((word, i) => h("span", {class: `tok ${differs.has(i) ? "other" : ""}`}, plain(word)));
}

/** A colour for a share of the most. */
export const heat = (element, share) => { element.style.backgroundColor = share > 0 ? `rgba(var(--heat), ${(0.1 + 0.5 * Math.min(1, share)).toFixed(3)})` : ""; };

function draw(here, values, sides, activity, concept, below) {
  const of = (side) => side.error ? [] : side.of_pole ?? side.active[concept] ?? side.active[""];
  const most = Math.max(1e-9, ...activity.flatMap(of)), unit = values.pole ? "update size" : "active poles";
  sides.forEach((side, which) => {
    if (activity[which].error) return side.wrong.replaceChildren(warning(activity[which].error));
    const levels = of(activity[which]), differs = new Set(activity[which].differs), condition = which ? values.beside : values.condition;
    side.tokens.replaceChildren(...activity[which].pieces.map((piece, i) => {
      const key = `${which}.${i}`;
      const token = h("span", {role: "button", class: `tok ${differs.has(i) ? "other" : ""}`, "data-token": key, tabindex: i === 0 ? "0" : "-1", "aria-pressed": String(values.token === key),
        title: `token ${i}, ${spelled(piece)}: ${number(levels[i], values.pole ? 2 : 0)} ${unit}`, onclick: () => pick(key, condition, i)}, plain(piece));
      heat(token, levels[i] / most);
      return token;
    }));
  });
  const pick = (key, condition, i) => {
    if (here.left.aborted) return;  // the address is another page's
    values.token = key;
    for (const token of document.querySelectorAll("[data-token]")) token.setAttribute("aria-pressed", String(token.dataset.token === key));
    history.replaceState(null, "", href(here.run, "solutions", values));
    into(below, poles(here, values, condition, i, activity[Number(key.split(".")[0])].pieces[i] ?? ""));
  };
  if (values.token) {
    const [which, i] = values.token.split(".").map(Number);
    queueMicrotask(() => sides[which] && !activity[which].error && pick(values.token, which ? values.beside : values.condition, i));
  }
}

async function poles(here, values, condition, i, piece) {
  const rows = await ask(runPath(here.run, "/token"), {problem: values.problem, condition, token: i}, {signal: here.left});
  const layers = new Map();
  for (const row of rows) layers.set(row.layer, [...(layers.get(row.layer) ?? []), row]);
  const one = (row) => h("a", {class: `pole ${row.concepts.length ? "marked" : ""}`, href: href(here.run, "neurons", {pole: poleKey(row)}),
    title: `${poleName(row)}: update size ${number(row.size)}, coefficient ${number(row.coefficient, 2, true)}${row.promoted.length ? `, promotes ${row.promoted.map(spelled).join(" ")}` : ""}`},
    `#${row.index}${row.sign > 0 ? "+" : "−"} `, row.concepts.length ? h("b", {}, seen(row.concepts.join(", ")), " ") : "", row.promoted.length ? chips(row.promoted.slice(0, row.concepts.length ? 3 : 1)) : "");
  return [h("h2", {}, "Active poles as ", chip(piece), ` (token ${i}) was chosen`), note(`The ${Math.max(...[...layers.values()].map((found) => found.length))} with the largest updates of each layer, the largest first. Marked: accepted for a concept.`),
    h("div", {class: "layers"}, [...layers].reverse().map(([layer, found]) => [h("b", {}, `layer ${layer}`), h("div", {}, found.map(one))]))];
}

function chooser(values, activity, go) {
  const concepts = Object.keys(activity[0].active ?? {}).filter(Boolean);
  if (values.pole) return [field("Coloured by", h("span", {}, poleName(Object.fromEntries(["layer", "index", "sign"].map((key, i) => [key, Number(values.pole.split(".")[i])]))))), h("button", {type: "button", onclick: () => go({pole: ""})}, "By concept instead")];
  const pole = h("input", {placeholder: "12.345.1", "aria-label": "a pole: layer.neuron.sign"});
  return [field("Coloured by active poles of", select([["", "any concept"], ...concepts], values.concept ?? "", {onchange: (event) => go({concept: event.target.value})})),
    h("form", {class: "field", onsubmit: (event) => { event.preventDefault(); go({pole: pole.value.trim()}); }}, h("span", {}, "or by one pole"), h("span", {class: "pager"}, pole, h("button", {}, "Colour")))];
}

function legend(pole, activity, values) {
  const levels = activity.flatMap((side) => side.of_pole ?? side.active[values.concept ?? ""] ?? side.active[""]), most = Math.max(0, ...levels);
  const swatches = [0, 0.5, 1].map((share) => { const one = h("span", {class: "swatch"}, number(most * share, pole ? 2 : share === 0.5 && most % 2 ? 1 : 0)); heat(one, most ? share : 0); return one; });
  return h("p", {class: "legend"}, pole ? "update size at the token" : "active poles at the token", swatches, most ? "" : "It is active nowhere here.", "Click a token for the poles in each layer.");
}
