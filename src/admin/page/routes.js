// The routes and their traffic.

import { attribute, by, el, keyed, parts, show, text } from "./dom.js";
import { history, updateHistory } from "./draw.js";
import { count, milliseconds, number, percent } from "./format.js";
import { isFailing, isRefused } from "./verdict.js";

/** With more than so many, quiet ones are folded away, and there is a filter. */
const MANY = 10;
/** What no route can be called. */
const UNROUTED = "\n";

/** What each route's ten minutes were when they were last told. */
const histories = new Map();
/** By which rate each route stands where it stands. */
const settled = new Map();
let latest = {};

function make() {
  const drawing = history();
  drawing.dataset.part = "history";
  const row = el(
    "tr", {},
    el("th", { scope: "row", class: "route" },
      el("span", { class: "name", "data-part": "name" }),
      el("span", { class: "where faint" }, el("span", { "data-part": "path" }), " → ", el("span", { "data-part": "upstream" })),
      el("span", { class: "where faint", "data-part": "credentials" })),
    el("td", { class: "number", "data-part": "rate", "data-label": "Requests/s" }),
    el("td", { class: "number", "data-part": "errors", "data-label": "Errors" }),
    el("td", { class: "number", "data-part": "refused", "data-label": "Refused" }),
    el("td", { class: "number", "data-part": "p50", "data-label": "p50" }),
    el("td", { class: "number", "data-part": "p99", "data-label": "p99" }),
    el("td", { class: "number", "data-part": "in_flight", "data-label": "In flight" }),
    el("td", { class: "drawing" }, drawing),
  );
  row.parts = parts(row);
  return row;
}

/** A share of the last minute, and how many there were in all. */
function share(node, value, total, requests) {
  const some = (value ?? 0) > 0;
  text(node, some ? `▲ ${percent(value)}` : percent(value));
  node.classList.toggle("bad", some);
  attribute(node, "title", typeof total === "number" ? `${number(total)} of ${number(requests)} since the start` : null);
}

function update(row, route) {
  const p = row.parts;
  const nowhere = route.name === UNROUTED;
  row.classList.toggle("unrouted", nowhere);
  text(p.name, nowhere ? "no route" : route.name);
  const methods = (route.methods ?? []).join(", ");
  text(p.path, nowhere ? "what no route is for" : `${methods ? `${methods} ` : ""}${route.host ?? ""}${route.path || "/"}`);
  text(p.upstream, nowhere ? "answered by countersign" : route.upstream ?? "–");
  const credentials = route.credentials ?? [];
  const identity = route.identity ? `, devices by ${route.identity}` : "";
  text(p.credentials, credentials.length > 0 ? `with ${credentials.join(", ")}${identity}` : nowhere ? "" : "no credential");
  text(p.rate, number(route.rate_per_s));
  share(p.errors, route.error_share, route.errors, route.requests);
  share(p.refused, credentials.length > 0 ? route.refused_share : null, route.refused, route.requests);
  text(p.p50, milliseconds(route.p50_ms));
  text(p.p99, milliseconds(route.p99_ms));
  text(p.in_flight, number(route.in_flight));
  if (route.history) {
    histories.set(route.name, route.history);
  }
  updateHistory(p.history, histories.get(route.name));
}

/** Where a route stands: by its rate, but not another place with every look. */
function rank(route) {
  const rate = route.rate_per_s ?? 0;
  const before = settled.get(route.name);
  if (before === undefined || rate > before * 2 || rate < before / 2) {
    settled.set(route.name, rate);
    return rate;
  }
  return before;
}

function isQuiet(route) {
  const came = typeof route.error_share === "number" || (route.rate_per_s ?? 0) > 0;
  return !came && (route.in_flight ?? 0) === 0;
}

function fits(route, wanted) {
  const all = [route.name, route.host, route.path, route.upstream, ...(route.credentials ?? [])];
  return all.some((part) => String(part ?? "").toLowerCase().includes(wanted));
}

function draw() {
  const routes = latest.routes ?? [];
  const many = routes.length > MANY;
  const wanted = many ? by("routes-text").value.trim().toLowerCase() : "";
  const trouble = (route) => (isRefused(route) || isFailing(route) ? 1 : 0);
  const ranked = routes.map((route, index) => ({ route, index, trouble: trouble(route), rate: rank(route) }));
  ranked.sort((a, b) => b.trouble - a.trouble || b.rate - a.rate || a.index - b.index);
  const found = ranked.map(({ route }) => route).filter((route) => wanted === "" || fits(route, wanted));
  // Whoever looks for one finds it, quiet or not.
  const fold = many && wanted === "";
  const quiet = fold ? found.filter(isQuiet) : [];
  const shown = fold ? found.filter((route) => !isQuiet(route)) : found;
  const unrouted = latest.unrouted;
  if ((unrouted?.requests ?? 0) > 0 && wanted === "") {
    shown.push({ ...unrouted, name: UNROUTED });
  }
  keyed(by("routes-body"), shown, (route) => route.name, make, update);
  keyed(by("routes-quiet-body"), quiet, (route) => route.name, make, update);
  for (const known of [histories, settled]) {
    const names = new Set([UNROUTED, ...routes.map((route) => route.name)]);
    [...known.keys()].filter((name) => !names.has(name)).forEach((name) => known.delete(name));
  }
  show(by("routes-filters"), many);
  show(by("routes-table"), shown.length > 0);
  show(by("routes-quiet"), quiet.length > 0);
  text(by("routes-quiet-title"), count(quiet.length, "quiet route", "quiet routes"));
  const long = shown.length > MANY;
  const frame = by("routes-scroll");
  frame.classList.toggle("scroll", long);
  attribute(frame, "tabindex", long ? "0" : null);
  attribute(frame, "role", long ? "region" : null);
  attribute(frame, "aria-label", long ? "Routes" : null);
  show(by("routes-none"), shown.length === 0 && quiet.length === 0);
  text(by("routes-none"), wanted === "" ? "Nothing is told of routes." : `None of ${count(routes.length, "route", "routes")} fits this text.`);
}

/** Shows the routes of `status`. */
export function updateRoutes(status) {
  latest = status;
  for (const route of status.routes ?? []) {
    if (route.history) {
      histories.set(route.name, route.history);
    }
  }
  draw();
}

/** Connects the filter. */
export function startRoutes() {
  by("routes-text").addEventListener("input", draw);
  by("routes-filters").addEventListener("submit", (event) => event.preventDefault());
}
