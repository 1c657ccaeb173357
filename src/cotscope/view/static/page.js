// What every page is made of: elements, visible text, numbers, questions to the server. Nothing is ever set as HTML.

const HIDDEN = /[\p{Cc}\p{Cf}\p{Cs}\p{Co}\p{Cn}\p{Zl}\p{Zp}]|(?! )\p{Zs}/u;
const SIGNS = {"\n": "⏎", "\t": "⇥"};
const TOKEN = "cotscope.token";

/** What is there of nested lists of elements and texts. */
export const shownOf = (found) => [found].flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false && child !== "");

/** An element. Props: `class`, `on…` listeners, properties of the element (`value`, `checked`), or else attributes. */
export function h(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  for (const [key, value] of Object.entries(props ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (key === "class") element.className = value;
    else if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (["value", "checked", "disabled", "selected", "open", "htmlFor", "indeterminate"].includes(key)) element[key] = value;
    else element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...shownOf(children));
  return element;
}

function sign(char) {
  if (SIGNS[char]) return SIGNS[char];
  if (!HIDDEN.test(char)) return "";
  return "U+" + char.codePointAt(0).toString(16).toUpperCase().padStart(4, "0");
}

/** A text in one line, its control, direction and unpaired characters as signs that can be seen. */
export const seen = (text) => Array.from(String(text ?? ""), (char) => sign(char) || char).join("");

/** The parts of a token: `text`, and whether it is a sign for what could not be seen. Blanks at its ends are ␣. */
function pieces(token) {
  const chars = Array.from(token), found = [];
  const first = chars.findIndex((char) => char !== " "), last = chars.findLastIndex((char) => char !== " ");
  chars.forEach((char, place) => {
    const blank = char === " " && (first < 0 || place < first || place > last);
    let text = blank ? "␣" : sign(char);
    const isSign = Boolean(text) || char === "\ufffd";
    if (!text) text = place === 0 && /^\p{M}/u.test(char) ? "◌" + char : char;
    if (found.length && found.at(-1).isSign === isSign) found.at(-1).text += text;
    else found.push({text, isSign});
  });
  return found.length ? found : [{text: "∅", isSign: true}];
}

const shortened = (token) => token.length <= 40 ? token : Array.from(token).slice(0, 30).join("") + "…";

/** How a token is spelled, in ASCII. */
export const spelled = (token) => JSON.stringify(token).replace(/[^\x20-\x7e]/g, (c) =>
  "\\u" + c.charCodeAt(0).toString(16).padStart(4, "0"));

/** A token as it is shown everywhere. */
export function chip(token, props = {}) {
  const broken = token.includes("\ufffd");
  const title = broken ? `${spelled(token)}: part of a character, which several tokens make` : spelled(token);
  return h("bdi", {title, ...props, class: `chip ${props.class ?? ""}`},
    pieces(shortened(token)).map(({text, isSign}) => isSign ? h("i", {}, text) : text));
}

export const chips = (tokens, props) => h("span", {class: "chips"}, (tokens ?? []).map((token) => chip(token, props)));

/** A figure with so many decimals; a dash where there is none. */
export function number(value, digits = 2, signed = false) {
  if (typeof value !== "number" || !Number.isFinite(value)) return "–";
  const text = value.toLocaleString("en", {minimumFractionDigits: digits, maximumFractionDigits: digits});
  return (signed && value > 0 ? "+" : "") + text.replace("-", "−");
}

export const chance = (p) => typeof p === "number" && p < 0.0001 ? "< 0.0001" : number(p, 4);

export const seconds = (value) => typeof value !== "number" ? "–" : value < 120 ? `${number(value, 1)} s`
  : value < 7200 ? `${Math.floor(value / 60)} min ${Math.round(value % 60)} s` : `${number(value / 3600, 1)} h`;

export const poleName = (pole) => `L${pole.layer}\u00a0#${pole.index}${pole.sign > 0 ? "\u00a0+" : pole.sign < 0 ? "\u00a0−" : ""}`;
export const poleKey = (pole) => `${pole.layer}.${pole.index}.${pole.sign}`;
export const link = (href, ...children) => h("a", {href}, ...children);

// -- the server ------------------------------------------------------------------------------------------------------------

/** The token of the address is kept for this tab's origin and taken out of the address bar. */
export function takeToken() {
  const address = new URL(location.href);
  const token = address.searchParams.get("token");
  if (!token) return;
  localStorage.setItem(TOKEN, token);
  address.searchParams.delete("token");
  history.replaceState(null, "", address);
}

/** Ask the server; `body` makes it a question that runs something. Throws an Error with what the server says. */
export async function ask(path, body, options = {}) {
  const headers = {"x-cotscope-token": localStorage.getItem(TOKEN) ?? ""};
  if (body !== undefined) headers["content-type"] = "application/json";
  let response;
  try {
    response = await fetch(path, {method: body === undefined ? "GET" : "POST", headers,
      body: body === undefined ? undefined : JSON.stringify(body), ...options});
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The viewer does not answer: is `cotscope view` still running?");
  }
  if (!response.ok) {
    const said = await response.json().catch(() => ({}));
    throw new Error(said.error ?? `${response.status} ${response.statusText}`);
  }
  return options.raw ? response : response.json();
}

export const runPath = (run, rest = "") => `/api/runs/${encodeURIComponent(run)}${rest}`;
export const query = (values) => new URLSearchParams(
  Object.entries(values).filter(([, value]) => value !== "" && value !== undefined && value !== null)).toString();

/** The address of a page: `#/run/NAME/part?…`. */
export const href = (run, part = "", values = {}) => {
  const asked = query(values);
  return `#/run/${encodeURIComponent(run)}${part ? "/" + part : ""}${asked ? "?" + asked : ""}`;
};

/** Go to an address. The one that is there already is shown again: something may have failed, or been typed and not sent. */
export function goTo(address) {
  if (location.hash === address) dispatchEvent(new Event("hashchange"));
  else location.hash = address;
}

export const fault = (error) => h("p", {class: "fault", role: "alert"}, seen(error.message ?? error));
export const note = (...children) => h("p", {class: "meta"}, ...children);

const awaited = new WeakMap();  // what is to come into each element: an earlier answer can come later

/** Put what a promise brings into an element: meanwhile a word, afterwards what went wrong if something did. */
export async function into(element, promise, meanwhile = "Loading …") {
  awaited.set(element, promise);
  const put = (...found) => { if (awaited.get(element) === promise) element.replaceChildren(...shownOf(found)); };
  const timer = setTimeout(() => put(note(meanwhile)), 150);
  try {
    put(await promise);
  } catch (error) {
    if (error.name !== "AbortError") put(fault(error));
  } finally {
    clearTimeout(timer);
  }
}

export function save(name, text, type = "application/json") {
  const address = URL.createObjectURL(new Blob([text], {type}));
  h("a", {href: address, download: name}).click();
  setTimeout(() => URL.revokeObjectURL(address), 1000);
}

/** What an element is known by when its page is made again. */
const sayable = (element) => [element.tagName, element.dataset.row ?? element.name ?? "", element.getAttribute("aria-label") ?? element.textContent.replace(/[▾▴]/, "").trim()].join("|");

/** Put other elements into one. What has the focus in it keeps it, if there is such a one again; whether it did. */
export function redraw(element, found) {
  const focused = element.contains(document.activeElement) && element !== document.activeElement ? sayable(document.activeElement) : "";
  element.replaceChildren(...shownOf(found));
  const again = focused && [...element.querySelectorAll("a, button, input, select, summary, [data-row]")].find((one) => sayable(one) === focused);
  if (again) again.focus({preventScroll: true});
  return Boolean(again);
}

/** Ask again and again, while anybody looks, until the page is left or `take` returns true. */
export async function polling(here, path, take, pause = 3000) {
  for (let ended = false; !ended && !here.left.aborted;) {
    await new Promise((done) => setTimeout(done, pause));
    if (here.left.aborted || document.hidden) continue;
    const found = await ask(path).catch((error) => error);
    ended = !here.left.aborted && take(found);
  }
}

const KEYS = "cotscope.keys";
/** Whether single letters are keys: who speaks to the machine says letters, too, and can switch them off. */
export const lettersAreKeys = () => localStorage.getItem(KEYS) !== "off";
export const keySwitch = () => h("label", {class: "check"}, h("input", {type: "checkbox", checked: lettersAreKeys(),
  onchange: (event) => localStorage.setItem(KEYS, event.target.checked ? "on" : "off")}),
  h("span", {}, "Keys: ", h("kbd", {}, "/"), " search, ", h("kbd", {}, "j"), " next row, ", h("kbd", {}, "k"), " the one before"));

/** A label over a field. */
export const field = (label, control, about = "") => h("label", {class: "field"}, h("span", {}, label), control,
  about && h("small", {}, about));

export const select = (options, value, props = {}) => h("select", props, options.map((option) => {
  const [key, text] = Array.isArray(option) ? option : [option, option];
  return h("option", {value: key, selected: key === value}, seen(text));
}));

/** A table: heads and rows of cells; a cell that is a number stands on the right. */
export function table(heads, rows, props = {}) {
  const cell = (tag, content) => h(tag, {class: content?.right ? "n" : "", scope: tag === "th" ? "col" : undefined}, content?.right ?? content);
  const headed = (head) => cell(head?.right === "" || head === "" ? "td" : "th", head);
  return h("div", {class: "wide", tabindex: "0", role: "region", "aria-label": props.label ?? "Table"}, h("table", props,
    h("thead", {}, h("tr", {}, heads.map(headed))),
    h("tbody", {}, rows.map((row) => h("tr", {}, row.map((content) => cell("td", content)))))));
}
export const right = (content) => ({right: content});

/** Where a page of a list stands in it, and the way to others; `go` is told the one that is chosen. */
export function pager({total, page, size}, go) {
  const last = Math.max(0, Math.ceil(total / size) - 1);
  const button = (text, to, label) => h("button", {type: "button", "aria-label": label, disabled: to < 0 || to > last || to === page, onclick: () => go({page: to})}, text);
  return h("div", {class: "pager"}, h("span", {role: "status"}, total ? `${number(page * size + 1, 0)}–${number(Math.min(total, (page + 1) * size), 0)} of ${number(total, 0)}` : "None is like that."),
    button("«", 0, "first page"), button("‹", page - 1, "page before"), button("›", page + 1, "next page"), button("»", last, "last page"));
}

/** The head of a column that a list can be sorted by. */
export const sorter = (text, {on, down, title, right: number}, sort) => h("th", {scope: "col", class: number ? "n" : "", title, "aria-sort": on ? (down ? "descending" : "ascending") : undefined},
  h("button", {type: "button", class: "plain", onclick: sort}, text, on ? (down ? " ▾" : " ▴") : ""));

/** A warning where stages that a page rests on are not current. */
export function staleness(run, stages) {
  const stale = run.stages.filter((stage) => stages.includes(stage.name) && ["stale", "stopped"].includes(stage.status));
  return stale.length ? h("p", {class: "warning"}, stale.map((stage) => `${stage.name} is ${stage.status}${stage.why ? ` (${seen(stage.why)})` : ""}`).join("; "),
    ". What stands here may not be what the study would find now.") : "";
}
