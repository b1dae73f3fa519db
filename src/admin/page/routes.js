// The routes and their traffic.

import { attribute, by, el, keyed, parts, show, text } from "./dom.js";
import { history, updateHistory } from "./draw.js";
import { milliseconds, number, percent } from "./format.js";

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
    el("td", { class: "number", "data-part": "p50", "data-label": "p50" }),
    el("td", { class: "number", "data-part": "p99", "data-label": "p99" }),
    el("td", { class: "number", "data-part": "in_flight", "data-label": "In flight" }),
    el("td", { class: "drawing" }, drawing),
  );
  row.parts = parts(row);
  return row;
}

function update(row, route) {
  const p = row.parts;
  text(p.name, route.name);
  const methods = (route.methods ?? []).join(", ");
  text(p.path, `${methods ? `${methods} ` : ""}${route.host ?? ""}${route.path || "/"}`);
  text(p.upstream, route.upstream ?? "–");
  const credentials = route.credentials ?? [];
  const identity = route.identity ? `, devices by ${route.identity}` : "";
  text(p.credentials, credentials.length > 0 ? `with ${credentials.join(", ")}${identity}` : "no credential");
  text(p.rate, number(route.rate_per_s));
  const share = route.error_share ?? 0;
  text(p.errors, share > 0 ? `▲ ${percent(share)}` : percent(route.error_share));
  p.errors.classList.toggle("bad", share > 0);
  attribute(p.errors, "title", typeof route.errors === "number" ? `${number(route.errors)} of ${number(route.requests)} since the start` : null);
  text(p.p50, milliseconds(route.p50_ms));
  text(p.p99, milliseconds(route.p99_ms));
  text(p.in_flight, number(route.in_flight));
  updateHistory(p.history, route.history);
}

/** Shows the routes of `status`. */
export function updateRoutes(status) {
  const routes = status.routes ?? [];
  keyed(by("routes-body"), routes, (route) => route.name, make, update);
  show(by("routes-table"), routes.length > 0);
  show(by("routes-none"), routes.length === 0);
}
