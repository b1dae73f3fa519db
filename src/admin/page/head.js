// The first line: is all well, and if not, what is in trouble and why.

import { attribute, by, el, keyed, show, text } from "./dom.js";
import { icon } from "./draw.js";
import { countdown, duration, number, sentence } from "./format.js";
import { verdict } from "./verdict.js";

function put(state, title, more, others = []) {
  const panel = by("verdict");
  if (panel.dataset.state !== state || !by("verdict-icon").firstChild) {
    panel.dataset.state = state;
    by("verdict-icon").replaceChildren(icon(state));
  }
  text(by("verdict-title"), title);
  text(by("verdict-more"), more);
  show(by("verdict-more"), more !== "");
  keyed(by("verdict-others"), others.map((words, index) => ({ words, index })), ({ index }) => index, () => el("li"),
    (node, { words }) => text(node, words));
  show(by("verdict-others"), others.length > 0);
}

/** Shows what `status` comes to. */
export function updateHead(status) {
  const { state, title, more, others } = verdict(status);
  put(state, title, more, others);
  say([sentence(title), more, ...others].join(" "));
  const mark = { refused: "✕ ", failing: "! ", renewing: "", fresh: "" }[state] ?? "";
  text(document.querySelector("title"), `${mark}${title} – countersign`);
  text(by("version"), status.version);
  text(by("uptime"), duration(status.uptime_s));
  attribute(by("uptime"), "title", `${number(status.uptime_s)} seconds`);
  text(by("in-flight"), number(status.in_flight));
  const rates = [...(status.routes ?? []), status.unrouted].map((route) => route?.rate_per_s).filter((rate) => typeof rate === "number");
  text(by("rate"), rates.length > 0 ? number(rates.reduce((sum, rate) => sum + rate, 0)) : "–");
}

/** The connection is lost: nothing below is known to be so any more. */
export function lost(since) {
  const title = "No answer from countersign";
  const more = since === null
    ? "Nothing is known yet. Is it running?"
    : `What is below is ${countdown((Date.now() - since) / 1000)} old. It may have been stopped, or is being started again.`;
  put("unknown", title, more);
  say(`${title}. ${more}`);
  text(document.querySelector("title"), "? No answer – countersign");
}

/** Nobody looks, so nothing is asked, and the title claims nothing. */
export function hidden() {
  text(document.querySelector("title"), "Paused while hidden – countersign");
}

/** The word for the state of the connection. */
export function updateLink(word) {
  const words = {
    connecting: "connecting…", live: "live", reconnecting: "reconnecting…",
    polling: "every 5 s", paused: "paused", hidden: "paused while hidden",
  };
  by("link").dataset.link = word;
  text(by("link-text"), words[word] ?? word);
  attribute(by("link"), "title", word === "polling" ? "As many look on already as may; requests are not shown live" : null);
}

// What is read out, apart from what is shown: that changes with every second of a countdown.
const AGAIN_MS = 60_000;
let spoken = { key: "", at: 0 };

function say(words) {
  const key = words.replace(/\d[\d.,]*( (ms|s|min|h|d)\b)?/g, "#").replace(/#( #)+|a moment/g, "#");
  const lately = Date.now() - spoken.at < AGAIN_MS || by("verdict").dataset.state === "unknown";
  if (spoken.key !== key || !lately) {
    spoken = { key, at: Date.now() };
    text(by("verdict-live"), words);
  }
}
