// Small drawings. Each says in words what it shows.

import { attribute, svg } from "./dom.js";
import { count, milliseconds, number } from "./format.js";

const SHAPES = {
  // A shape of its own for each state, so that no colour is needed.
  fresh: ["M12 2a10 10 0 1 0 0 20 10 10 0 0 0 0-20Z", "M7.5 12.500l3 3 6-6.5"],
  renewing: ["M12 2a10 10 0 1 0 0 20 10 10 0 0 0 0-20Z", "M16.5 9.500A5.200 5.200 0 0 0 7 11M7.5 14.500A5.200 5.200 0 0 0 17 13M16.800 6.800v3h-3M7.200 17.200v-3h3"],
  failing: ["M12 2.5 22.5 21H1.500Z", "M12 9v5.500M12 17.300v.4"],
  refused: ["M8 2h8l6 6v8l-6 6H8l-6-6V8Z", "M8.5 8.500l7 7M15.5 8.500l-7 7"],
  waiting: ["M12 2a10 10 0 1 0 0 20 10 10 0 0 0 0-20Z", "M12 7v5.300l3.200 2"],
  unknown: ["M12 2a10 10 0 1 0 0 20 10 10 0 0 0 0-20Z", "M9.200 9.300c.3-3.600 5.800-3.200 5.600.1-.1 2-2.800 2.100-2.800 4.400M12 17v.4"],
};
SHAPES.idle = SHAPES.waiting;

/** The icon of a state; what it means stands beside it in words. */
export function icon(state) {
  const [outline, inner] = SHAPES[state] ?? SHAPES.unknown;
  return svg(
    "svg",
    { viewBox: "0 0 24 24", class: "icon", "aria-hidden": "true", focusable: "false" },
    svg("path", { d: outline, class: "icon-outline" }),
    svg("path", { d: inner, class: "icon-inner" }),
  );
}

/** How much of a lifetime is left, and where it is renewed. */
export function lifetime() {
  return svg(
    "svg",
    { class: "lifetime", role: "img", width: "100%", height: "12" },
    svg("rect", { class: "lifetime-all", x: "0", y: "2", width: "100%", height: "8", rx: "4" }),
    svg("rect", { class: "lifetime-left", x: "0", y: "2", width: "0", height: "8", rx: "4" }),
    svg("rect", { class: "lifetime-mark", y: "0", width: "2", height: "12" }),
  );
}

/** `left` and `mark` from 0 to 1; `mark` null if no renewal is planned. */
export function updateLifetime(node, left, mark, words) {
  const [, bar, line] = node.children;
  attribute(node, "aria-label", words);
  attribute(bar, "width", `${(Math.max(0, Math.min(1, left)) * 100).toFixed(1)}%`);
  attribute(line, "x", mark === null ? null : `${(Math.min(0.995, mark) * 100).toFixed(1)}%`);
  attribute(line, "visibility", mark === null ? "hidden" : null);
}

const SPAN = 60;
const STEP = 4;
const UP = 24;
const DOWN = 10;
const LINE = 18;
const GAP = 4;
const HEIGHT = UP + DOWN + GAP + LINE;

/** Ten minutes of a route. */
export function history() {
  return svg("svg", {
    class: "history",
    role: "img",
    viewBox: `0 0 ${SPAN * STEP} ${HEIGHT}`,
    preserveAspectRatio: "none",
  });
}

/** Requests upwards, errors downwards from the same line, p99 as a line below. */
export function updateHistory(node, points) {
  const all = (points ?? []).slice(-SPAN);
  // A history is drawn when another interval is over, not with every look.
  const key = `${all.length} ${all.at(-1)?.at_s}`;
  if (node.drawn === key) {
    return;
  }
  node.drawn = key;
  const at = (index) => (SPAN - all.length + index) * STEP;
  const most = Math.max(1, ...all.map((point) => point.requests ?? 0));
  const slowest = Math.max(0, ...all.map((point) => point.p99_ms ?? 0));
  let [requests, errors, line] = ["", "", ""];
  let [sum, failed, drawing] = [0, 0, false];
  all.forEach((point, index) => {
    const [came, wrong] = [point.requests ?? 0, point.errors ?? 0];
    sum += came;
    failed += wrong;
    if (came > 0) {
      const size = Math.max(1, (came / most) * UP);
      requests += `M${at(index)} ${UP}h${STEP - 1}v${-size.toFixed(1)}h${1 - STEP}Z`;
    }
    if (wrong > 0) {
      const size = Math.max(3, Math.min(1, wrong / most) * DOWN);
      errors += `M${at(index)} ${UP + 1}h${STEP - 1}v${size.toFixed(1)}h${1 - STEP}Z`;
    }
    if (typeof point.p99_ms === "number") {
      const y = HEIGHT - 1 - (point.p99_ms / (slowest || 1)) * (LINE - 2);
      line += `${drawing ? "L" : "M"}${at(index) + STEP / 2} ${y.toFixed(1)}`;
      drawing = true;
    } else {
      drawing = false;
    }
  });
  const words = sum > 0
    ? `The last 10 minutes: ${count(sum, "request", "requests")}, at most ${number(most)} in 10 seconds, ` +
      `${count(failed, "error", "errors")}; p99 at most ${milliseconds(slowest)}`
    : "No requests in the last 10 minutes";
  attribute(node, "aria-label", words);
  node.replaceChildren(
    svg("title", {}, words),
    svg("path", { class: "history-axis", d: `M0 ${UP + 0.5}h${SPAN * STEP}` }),
    svg("path", { class: "history-requests", d: requests }),
    svg("path", { class: "history-errors", d: errors }),
    svg("path", { class: "history-p99", d: line }),
  );
}

/** Where the time of a request went. */
export function spent(seen) {
  const [wait, sign, upstream] = [seen.wait_us ?? 0, seen.sign_us ?? 0, seen.upstream_us ?? 0];
  const total = Math.max(1, seen.total_us ?? 0, wait + sign + upstream);
  const rest = total - wait - sign - upstream;
  const words = [["waiting", wait], ["signing", sign], ["upstream", upstream], ["the rest", rest]]
    .filter(([, us]) => us > 0)
    .map(([name, us]) => `${name} ${milliseconds(us / 1000)}`)
    .join(", ");
  const bar = svg("svg", { class: "spent", role: "img", "aria-label": words, width: "100%", height: "10" });
  bar.append(svg("title", {}, words));
  let from = 0;
  for (const [kind, us] of [["wait", wait], ["sign", sign], ["upstream", upstream], ["rest", rest]]) {
    const share = (us / total) * 100;
    if (share > 0) {
      bar.append(svg("rect", { class: `spent-${kind}`, x: `${from.toFixed(2)}%`, width: `${share.toFixed(2)}%`, y: "0", height: "10" }));
      from += share;
    }
  }
  return bar;
}
