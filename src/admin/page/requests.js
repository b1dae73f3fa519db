// The last requests, as they come.

import { WHOSE } from "./advice.js";
import { attribute, by, el, keyed, show, text } from "./dom.js";
import { spent } from "./draw.js";
import { clock, count, exact, milliseconds, number } from "./format.js";

/** The most that are kept. */
const KEPT = 200;

const seen = [];
const waiting = [];
let paused = false;
let passed = 0;
let missed = 0;
let serial = 0;
let drawing = false;
let pauseChanged = () => {};
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
  const at = new Date(one.at_ms);
  const time = el("time", { datetime: at.toISOString(), title: exact(at) }, clock(at, true));
  const whose = one.whose ? [el("span", { class: "whose" }, WHOSE[one.whose] ?? one.whose)] : ["–"];
  if (one.reason) {
    whose.push(el("span", { class: "reason" }, one.reason));
  }
  const status = String(one.status);
  return el(
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
}

function draw() {
  drawing = false;
  choices();
  const wanted = filters();
  const shown = seen.filter((one) => fits(one, wanted));
  keyed(by("requests-body"), shown, (one) => one.serial, make, () => {});
  show(by("requests-scroll"), shown.length > 0);
  show(by("requests-none"), shown.length === 0);
  text(by("requests-none"), seen.length > 0
    ? `None of the last ${count(seen.length, "request", "requests")} fits these filters.`
    : "No request yet. One that goes through countersign appears here at once.");
  const words = [`${number(shown.length)} of the last ${number(seen.length)} shown`];
  if (paused) {
    words.unshift(passed > 0 ? `Paused, ${count(passed, "newer request", "newer requests")}` : "Paused");
  }
  if (missed > 0) {
    words.push(`${count(missed, "came", "came")} faster than they could be shown`);
  }
  text(by("requests-note"), seen.length > 0 || paused
    ? words.join(" · ")
    : "At most 200, from when this page was opened; paths are shown without their query");
}

function drawSoon() {
  if (!drawing) {
    drawing = true;
    requestAnimationFrame(draw);
  }
}

function add(list, one) {
  list.unshift(one);
  list.length = Math.min(list.length, KEPT);
}

/** One more. */
export function addRequest(one) {
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

/** Connects what can be pressed and chosen; `changed` is called when it is paused or goes on. */
export function startRequests(changed) {
  pauseChanged = changed;
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
    draw();
  });
  draw();
}
