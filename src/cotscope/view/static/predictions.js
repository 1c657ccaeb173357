// Which answers were right, and how likely each way of telling took them to be. The server filters, sorts and pages.

import {ask, chance, field, goTo, h, href, keySwitch, note, number, pager, query, right, runPath, seen, select, sorter, staleness, table} from "./page.js";
import {verdict} from "./solutions.js";

export async function predictions(here) {
  const asked = here.values, title = h("h1", {}, "Predictions");
  const [found, run] = await Promise.all([ask(runPath(here.run, `/predictions?${query(asked)}`)), ask(runPath(here.run))]);
  if (run.fault) throw new Error(run.fault);
  if (!found.every.length) return [title, staleness(run, ["predict"]), note("This run has not predicted which answers are right: ", h("code", {}, seen(found.again)), " does.")];
  const go = (values) => goTo(href(here.run, "predictions", {...asked, page: "", ...values}));
  const predictor = asked.predictor ?? "reasoning";
  return [title, staleness(run, ["predict"]), note("Whether an answer is right, told by classifiers that saw no problem of its template."),
    found.every.length > 1 ? h("div", {class: "fields"}, field("Data", select(found.every, found.data, {onchange: (event) => go({data: event.target.value})}))) : "",
    h("h2", {}, "How well each way tells"), ways(found, predictor, here, asked), coverage(found.coverage),
    h("h2", {}, "Answers, as ", h("bdi", {}, seen(predictor)), " tells them"), filters(asked, go), pager(found, go), answers(found, here, asked, go)];
}

const between = (value, low, high, digits, signed = false) => typeof value === "number" ? `${number(value, digits, signed)} [${number(low, digits, signed)}, ${number(high, digits, signed)}]` : "–";

function ways({ways: rows}, predictor, here, asked) {
  if (!rows.length) return note("No way of telling was tried on these data.");
  const {n, templates, accuracy} = rows[0];
  const name = (row) => h("a", {href: href(here.run, "predictions", {...asked, predictor: row.predictor, page: ""}), "aria-current": row.predictor === predictor ? "true" : undefined}, h("bdi", {}, seen(row.predictor)));
  return [note(`${number(n, 0)} answers to problems of ${number(templates, 0)} templates; ${number(accuracy, 3)} of them right. A name shows the answers as that way tells them.`),
    table(["way of telling", "kind", right("AUROC [95 %]"), right("Brier"), right("reasoning's AUROC less its own"), right("p (Holm)")], rows.map((row) => [name(row), seen(row.kind),
      right(between(row.auroc, row.low, row.high, 3)), right(number(row.brier, 3)), right(between(row.difference, row.difference_low, row.difference_high, 3, true)), right(chance(row.p_holm))]), {label: "Ways of telling", class: "ways"})];
}

function coverage(rows) {
  const names = [...new Set(rows.map((row) => row.predictor))];
  if (!names.length) return "";
  const of = (name) => rows.filter((row) => row.predictor === name).sort((a, b) => a.coverage - b.coverage);
  return h("details", {}, h("summary", {}, "Share right among the answers trusted most"), table(["of all answers", ...of(names[0]).map((row) => right(`${number(row.coverage * 100, 0)} %`))],
    names.map((name) => [seen(name), ...of(name).map((row) => right(number(row.accuracy, 3)))]), {label: "Share right among the answers trusted most"}));
}

function filters(asked, go) {
  const form = h("form", {class: "fields", role: "search", onsubmit: (event) => {
    event.preventDefault();
    go(Object.fromEntries(new FormData(form)));
  }},
    h("label", {class: "field grow"}, h("span", {}, "In the question, or the problem's name ", h("kbd", {}, "/")), h("input", {type: "search", name: "text", value: asked.text ?? "", autocomplete: "off"})),
    field("Answers", select([["", "all"], ["true", "right"], ["false", "wrong"]], asked.correct ?? "", {name: "correct", onchange: () => form.requestSubmit()})),
    field("Probability from", h("input", {type: "number", name: "least", min: 0, max: 1, step: "any", value: asked.least ?? ""})),
    field("to", h("input", {type: "number", name: "most", min: 0, max: 1, step: "any", value: asked.most ?? ""})),
    h("button", {}, "Search"), h("button", {type: "button", onclick: () => go({text: "", correct: "", least: "", most: ""})}, "Clear"),
    keySwitch());
  return form;
}

function answers({rows, data}, here, asked, go) {
  const down = (asked.descending ?? "true") === "true";
  const problem = (row) => row.written && row.question !== null
    ? h("a", {href: href(here.run, "solutions", {condition: `prediction.${data}`, problem: row.problem_id}), "data-row": true}, h("bdi", {}, seen(row.problem_id))) : h("bdi", {}, seen(row.problem_id));
  const texts = rows.some((row) => row.question !== null);
  const line = (row) => h("tr", {}, h("td", {class: "n"}, number(row.probability, 3)), h("td", {}, verdict(row.correct)), h("td", {class: "name"}, problem(row)), texts && h("td", {class: "question"}, h("bdi", {}, seen(row.question ?? "–"))),
    h("td", {class: "n"}, h("bdi", {"data-label": "says"}, seen(row.said ?? "–"))), texts && h("td", {class: "n"}, h("bdi", {"data-label": "answer"}, seen(row.answer ?? "–"))));
  return [rows.length && !texts ? note("The run has no texts of these problems: it predicted with an earlier version. Predicting again brings them, and makes the model write nothing again.") : "",
    h("div", {class: "wide", tabindex: "0", role: "region", "aria-label": "Answers"}, h("table", {class: "answers"}, h("thead", {}, h("tr", {},
      sorter("probability", {on: true, down, right: true, title: "of being right"}, () => go({descending: String(!down)})), h("td"),
      [["problem", ""], texts && ["question", ""], ["says", "n"], texts && ["answer", "n"]].filter(Boolean).map(([text, kind]) => h("th", {scope: "col", class: kind}, text)))),
    h("tbody", {}, rows.map(line))))];
}
