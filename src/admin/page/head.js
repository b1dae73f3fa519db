// The first line: is all well, and if not, what is in trouble and why.

import { attribute, by, show, text } from "./dom.js";
import { icon } from "./draw.js";
import { count, countdown, duration, number } from "./format.js";

const TROUBLE = ["refused", "failing"];

/** True if requests that need the credential get none. */
export function isDown(credential) {
  return !credential.devices && credential.usable === false && TROUBLE.includes(credential.state);
}

/** True if somebody should look at it. */
export function isTroubled(credential) {
  return TROUBLE.includes(credential.state);
}

function names(list) {
  const all = list.map((credential) => credential.name);
  return all.length > 4 ? `${all.slice(0, 3).join(", ")} and ${all.length - 3} more` : all.join(", ");
}

/** What is the matter with a credential, in half a sentence. */
export function matter(credential) {
  const devices = credential.devices;
  if (devices && !devices.gate) {
    const { refused, failing } = devices.counts;
    const said = [];
    if (refused > 0) {
      said.push(`${count(refused, "device is", "devices are")} refused`);
    }
    if (failing > 0) {
      said.push(`${count(failing, "device fails", "devices fail")} to log in`);
    }
    return said.join(", ");
  }
  return credential.error ?? "";
}

/** What it means for requests. */
export function effect(credential) {
  const next = typeof credential.next_attempt_in_s === "number"
    ? ` Next attempt in ${countdown(credential.next_attempt_in_s)}.`
    : "";
  if (credential.devices) {
    const gate = credential.devices.gate;
    return gate
      ? `No device logs in for another ${countdown(gate.closed_for_s)}; those with a usable token go on.`
      : "All other devices go on.";
  }
  if (!isTroubled(credential)) {
    return "";
  }
  if (credential.usable === false) {
    return `Requests that need it are answered with an error until a login succeeds.${next}`;
  }
  const left = typeof credential.expires_in_s === "number"
    ? `Requests still pass: the present one is good for another ${countdown(credential.expires_in_s)}.`
    : "Requests still pass with the present one.";
  return left + next;
}

/** True if the whole credential is in trouble, not only some of its devices. */
function isGrave(credential) {
  const { devices, state } = credential;
  if (devices) {
    return devices.counts.fresh === 0 && (Boolean(devices.gate) || devices.counts.refused > 0);
  }
  return state === "refused" || isDown(credential);
}

/** The verdict where `troubled` of `all` are. */
function trouble(troubled, all) {
  const grave = troubled.filter(isGrave);
  const listed = grave.length > 0 ? grave : troubled;
  // Those that do not mend by themselves first.
  const rank = (one) => (isDown(one) ? 0 : 1) + (one.state === "refused" ? 0 : 2);
  listed.sort((a, b) => rank(a) - rank(b));
  const words = new Set(listed.map((one) => one.state));
  const one = listed.length === 1;
  let word = words.size === 1 ? [...words][0] : "in trouble";
  if (grave.length === 0) {
    word = listed.every((one) => one.devices) ? "not well for some devices" : "failing to renew";
  }
  const of = all === 1 ? "The only credential" : `${listed.length} of ${all} credentials`;
  const title = `${of} ${one ? "is" : "are"} ${word}: ${names(listed)}`;
  const worst = listed[0];
  const others = troubled.filter((one) => one !== worst);
  const said = [listed.length > 1 ? `${worst.name}: ${matter(worst)}` : matter(worst)].map(sentence);
  said.push(effect(worst));
  if (others.length > 0) {
    said.push(`Also in trouble: ${others.map((one) => one.name).slice(0, 5).join(", ")}${others.length > 5 ? " and more" : ""}.`);
  }
  return { state: grave.length > 0 ? "refused" : "failing", title, more: said.filter(Boolean).join(" ") };
}

/** `{ state, title, more }` of a status. */
export function verdict(status) {
  const credentials = status.credentials ?? [];
  const all = credentials.length;
  const troubled = credentials.filter(isTroubled);
  const refusedReload = status.reload?.outcome === "refused";
  const routes = (status.routes ?? []).filter((route) => (route.error_share ?? 0) > 0);
  if (troubled.length > 0) {
    return trouble(troubled, all);
  }
  const renewing = credentials.filter((one) => one.state === "renewing");
  const waiting = credentials.filter((one) => ["waiting", "idle"].includes(one.state));
  const notes = [];
  if (routes.length > 0) {
    const said = routes.map((route) => route.name).slice(0, 3).join(", ");
    notes.push(`Requests of the last minute failed on ${count(routes.length, "route", "routes")}: ${said}.`);
  }
  if (waiting.length > 0) {
    notes.push(`Not needed yet, so not fetched: ${names(waiting)}.`);
  }
  if (refusedReload) {
    const title = "The configuration file has problems; the one before still serves";
    return { state: "failing", title, more: ["Credentials are well.", ...notes].join(" ") };
  }
  if (renewing.length > 0) {
    const title = `${count(renewing.length, "credential is", "credentials are")} being renewed: ${names(renewing)}`;
    const without = renewing.filter((one) => one.usable === false && !one.devices);
    notes.unshift(without.length > 0
      ? "Requests that need it wait for the attempt in flight."
      : "Requests pass with the present one meanwhile.");
    return { state: "renewing", title, more: notes.join(" ") };
  }
  const fresh = all - waiting.length;
  let title = "No credentials are configured; requests pass as they are";
  if (all > 0) {
    title = waiting.length > 0
      ? `${fresh} of ${all} credentials ${fresh === 1 ? "is" : "are"} fresh, and nothing is wrong`
      : all === 1 ? "The only credential is fresh" : `All ${all} credentials are fresh`;
  }
  return { state: routes.length > 0 ? "failing" : "fresh", title, more: notes.join(" ") };
}

/** The same with a capital letter, unless a name begins it, and an end. */
export function sentence(words) {
  if (!words) {
    return "";
  }
  const first = /^[\w-]+: /.test(words) ? words : words[0].toUpperCase() + words.slice(1);
  return /[.!?…]$/.test(first) ? first : `${first}.`;
}

function put(state, title, more) {
  const panel = by("verdict");
  if (panel.dataset.state !== state || !by("verdict-icon").firstChild) {
    panel.dataset.state = state;
    by("verdict-icon").replaceChildren(icon(state));
  }
  text(by("verdict-title"), title);
  text(by("verdict-more"), more);
  show(by("verdict-more"), more !== "");
}

/** Shows what `status` comes to. */
export function updateHead(status) {
  const { state, title, more } = verdict(status);
  put(state, title, steady(more));
  const mark = { refused: "✕ ", failing: "! ", renewing: "", fresh: "" }[state] ?? "";
  text(document.querySelector("title"), `${mark}${title} – countersign`);
  text(by("version"), status.version);
  text(by("uptime"), duration(status.uptime_s));
  attribute(by("uptime"), "title", `${number(status.uptime_s)} seconds`);
  text(by("in-flight"), number(status.in_flight));
  const rates = (status.routes ?? []).map((route) => route.rate_per_s).filter((rate) => typeof rate === "number");
  text(by("rate"), rates.length > 0 ? number(rates.reduce((sum, rate) => sum + rate, 0)) : "–");
}

/** The connection is lost: nothing below is known to be so any more. */
export function lost(since) {
  const title = "No answer from countersign";
  const more = since === null
    ? "Nothing is known yet. Is it running?"
    : `What is below is ${countdown((Date.now() - since) / 1000)} old. It may have been stopped, or is being started again.`;
  put("unknown", title, more);
  text(document.querySelector("title"), "? No answer – countersign");
}

/** The word for the state of the connection. */
export function updateLink(word) {
  const words = {
    connecting: "connecting…", live: "live", reconnecting: "reconnecting…",
    polling: "every 5 s", paused: "paused",
  };
  by("link").dataset.link = word;
  text(by("link-text"), words[word] ?? word);
  attribute(by("link"), "title", word === "polling" ? "As many look on already as may; requests are not shown live" : null);
}

// What is read out should not change each time a countdown does.
let spoken = { key: "", more: "" };

function steady(more) {
  const key = more.replace(/\d[\d.,]*/g, "#");
  if (spoken.key !== key || Date.now() - spoken.at > 15_000) {
    spoken = { key, more, at: Date.now() };
  }
  return spoken.more;
}
