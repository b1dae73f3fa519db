// The last requests, as they come.

import { WHOSE } from "./advice.js";
import { attribute, by, el, keyed, show, text } from "./dom.js";
import { spent } from "./draw.js";
import { clock, clockOrDate, count, dateOf, exact, milliseconds, number } from "./format.js";

/** The most that are kept. */
const KEPT = 200;
/** How many are remembered to have come. After the connection was lost, the last 200 come again. */
const REMEMBERED = 1_000;
/** How often it is counted what comes meanwhile, while nothing is shown. */
const NOTE_MS = 250;

const seen = [];
const waiting = [];
let paused = false;
let passed = 0;
let missed = 0;
let serial = 0;
let drawing = false;
let noting = false;
let gap = "";
let hiddenAt = null;
const come = new Set();
let pauseChanged = () => {};
let guard = (what, change) => change();
let routes = [];

const filters = () => ({
  route: by("filter-route").value,
  status: by("filter-status").value,
  whose: by("filter-whose").value,
  text: by("filter-text").value.trim().toLowerCase(),
});

function fits(one, wanted) {
  if (wanted.route && one.route !== wanted.route) {
    return false;
  }
  if (wanted.status && String(one.status)[0] !== wanted.status) {
    return false;
  }
  if (wanted.whose === "any" ? !one.whose : wanted.whose && one.whose !== wanted.whose) {
    return false;
  }
  if (wanted.text) {
    const all = [one.method, one.path, one.identity, one.reason, one.request_id, one.status];
    return all.some((part) => String(part ?? "").toLowerCase().includes(wanted.text));
  }
  return true;
}

function cell(label, attributes, ...children) {
  return el("td", { "data-label": label, ...attributes }, ...children);
}

function make(one) {
  const at = dateOf(one.at_ms);
  const time = el("time", { datetime: at.toISOString(), title: exact(at) }, clockOrDate(at, true));
  const whose = one.whose ? [el("span", { class: "whose" }, WHOSE[one.whose] ?? one.whose)] : ["–"];
  if (one.reason) {
    whose.push(el("span", { class: "reason" }, one.reason));
  }
  const status = String(one.status);
  const row = el(
    "tr", { class: one.whose ? "failed" : null },
    cell("Time", { class: "time" }, time),
    cell("Status", { class: `status s${status[0]}` }, el("span", {}, status)),
    el("th", { scope: "row", class: "path" }, el("span", { class: "verb" }, one.method), " ", one.path),
    cell("Route", { class: "of" }, one.route || "–"),
    cell("Identity", { class: "path who" }, one.identity || "–"),
    cell("Whose error", { class: "whose-cell" }, ...whose),
    cell("Time spent", { class: "bar" }, spent(one)),
    cell("Total", { class: "number" }, milliseconds((one.total_us ?? 0) / 1000)),
    cell("Request ID", { class: "path id", title: one.request_id || null }, one.request_id || "–"),
  );
  row.day = today();
  row.time = time;
  return row;
}

function today() {
  return new Date().toDateString();
}

/** What was today is not any more after midnight. */
function update(row, one) {
  if (row.day !== today()) {
    row.day = today();
    text(row.time, clockOrDate(dateOf(one.at_ms), true));
  }
}

function draw() {
  drawing = false;
  choices();
  const wanted = filters();
  const shown = seen.filter((one) => fits(one, wanted));
  keyed(by("requests-body"), shown, (one) => one.serial, make, update);
  show(by("requests-scroll"), shown.length > 0);
  show(by("requests-none"), shown.length === 0);
  text(by("requests-none"), seen.length > 0
    ? `None of the last ${count(seen.length, "request", "requests")} fits these filters.`
    : "No request yet. One that goes through countersign appears here at once.");
  note(shown.length);
}

let shownLast = 0;

function note(shown = shownLast) {
  noting = false;
  shownLast = shown;
  const words = [`${number(shown)} of the last ${number(seen.length)} shown`];
  if (paused) {
    words.unshift(passed > 0 ? `Paused, ${count(passed, "newer request", "newer requests")}` : "Paused");
  }
  if (missed > 0) {
    words.push(`${count(missed, "came", "came")} faster than they could be shown`);
  }
  if (gap) {
    words.push(gap);
  }
  text(by("requests-note"), seen.length > 0 || paused || gap
    ? words.join(" · ")
    : "Recorded while somebody looks, at most 200; paths are shown without their query");
}

/** While it is paused, nothing is drawn but how many there are. */
function drawSoon() {
  if (paused) {
    if (!noting) {
      noting = true;
      setTimeout(note, NOTE_MS);
    }
  } else if (!drawing) {
    drawing = true;
    requestAnimationFrame(() => guard("the last requests", draw));
  }
}

function add(list, one) {
  list.unshift(one);
  list.length = Math.min(list.length, KEPT);
}

/** True if it is there already. A program that was started anew counts from the start again. */
function isKnown(one) {
  if (typeof one.seq !== "number") {
    return false;
  }
  const key = `${one.seq} ${one.at_ms}`;
  if (come.has(key)) {
    return true;
  }
  come.add(key);
  if (come.size > REMEMBERED) {
    come.delete(come.values().next().value);
  }
  return false;
}

/** The page is looked at no more; what comes meanwhile may not be told. */
export function hiding() {
  hiddenAt = new Date();
}

/** It is looked at again. */
export function resumed() {
  if (hiddenAt !== null) {
    gap = `some may be missing from ${clockOrDate(hiddenAt)} to ${clock(new Date())}, while this page was hidden`;
  }
  hiddenAt = null;
  drawSoon();
}

/** One more. */
export function addRequest(one) {
  if (isKnown(one)) {
    return;
  }
  serial += 1;
  add(paused ? waiting : seen, { ...one, serial });
  if (paused) {
    passed += 1;
  }
  drawSoon();
}

/** So many could not be told. */
export function addMissed(event) {
  missed += event.requests ?? 0;
  drawSoon();
}

/** The routes that can be chosen. */
export function updateChoices(status) {
  routes = (status.routes ?? []).map((route) => route.name);
  choices();
}

function choices() {
  const select = by("filter-route");
  const names = [...new Set([...routes, ...seen.map((one) => one.route).filter(Boolean)])];
  const key = names.join("\n");
  if (select.dataset.names === key) {
    return;
  }
  select.dataset.names = key;
  const chosen = select.value;
  select.replaceChildren(el("option", { value: "" }, "all"), ...names.map((name) => el("option", { value: name }, name)));
  select.value = names.includes(chosen) ? chosen : "";
}

/** True while nothing new is shown. */
export function isPaused() {
  return paused;
}

/**
 * Connects what can be pressed and chosen; `changed` is called when it is paused or goes on, and
 * `guarded` draws and says so if that fails.
 */
export function startRequests(changed, guarded) {
  pauseChanged = changed;
  guard = guarded;
  for (const id of ["filter-route", "filter-status", "filter-whose", "filter-text"]) {
    by(id).addEventListener("input", draw);
  }
  by("requests-filters").addEventListener("submit", (event) => event.preventDefault());
  by("requests-pause").addEventListener("click", () => {
    paused = !paused;
    if (!paused) {
      for (const one of waiting.splice(0).reverse()) {
        add(seen, one);
      }
      passed = 0;
    }
    attribute(by("requests-pause"), "aria-pressed", paused ? "true" : "false");
    draw();
    pauseChanged();
  });
  by("requests-clear").addEventListener("click", () => {
    seen.length = 0;
    waiting.length = 0;
    passed = 0;
    missed = 0;
    gap = "";
    draw();
  });
  draw();
}
