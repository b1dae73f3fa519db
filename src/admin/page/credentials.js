// The credentials: those in trouble first, and why.

import { advice } from "./advice.js";
import { Failed, send } from "./api.js";
import { Devices } from "./devices.js";
import { attribute, by, el, keyed, parts, show, text } from "./dom.js";
import { icon, lifetime, updateLifetime } from "./draw.js";
import { count, countdown, duration, number, percent, sentence, signed, when } from "./format.js";
import { effect, isDown, isTroubled, matter, shownAs, troubleOf } from "./verdict.js";

const RANK = { all: 0, some: 1 };

function fact(name, part, words) {
  return el("div", { "data-part": `${part}-row` }, el("dt", {}, words), el("dd", { "data-part": name }));
}

function make(credential) {
  const renew = el("button", { type: "button", "data-part": "renew" }, "Renew now");
  attribute(renew, "aria-label", `Renew ${credential.name} now`);
  const card = el(
    "li", { class: "card" },
    el("div", { class: "card-head" },
      el("h3", {}, credential.name),
      el("p", { class: "badge", "data-part": "badge" }, el("span", { "data-part": "icon" }), el("span", { "data-part": "state" })),
      el("p", { class: "faint kind", "data-part": "kind" })),
    el("div", { class: "trouble", "data-part": "trouble" },
      el("p", { class: "error", "data-part": "error" }),
      el("p", { "data-part": "effect" }),
      el("p", { class: "advice", "data-part": "advice" }, el("span", { class: "whose", "data-part": "whose" }), " ", el("span", { "data-part": "hint" })),
      el("p", { class: "faint", "data-part": "routes" })),
    el("div", { class: "life", "data-part": "life" }, lifetime(), el("p", { class: "life-words", "data-part": "life-words" })),
    el("dl", { class: "facts" },
      el("div", { "data-part": "last-row" }, el("dt", {}, "Last renewal"), el("dd", {}, el("time", { "data-part": "last" }), " ", el("span", { class: "faint", "data-part": "took" }))),
      el("div", { "data-part": "next-row" }, el("dt", {}, "Next attempt"), el("dd", {}, el("time", { "data-part": "next" }))),
      fact("failures", "failures", "Failures in a row"),
      fact("skew", "skew", "Clock of the endpoint"),
      fact("replays", "replays", "Sent again after a refusal"),
      fact("counts", "counts", "Devices"),
      fact("queue", "queue", "Logins"),
      fact("gate", "gate", "Login gate"),
      fact("soon", "soon", "Renewals due")),
    el("div", { class: "actions" }, renew, el("p", { class: "said", role: "status", "data-part": "said" })),
  );
  card.parts = parts(card);
  renew.addEventListener("click", () => renewNow(credential.name, renew, card.parts.said));
  if (credential.devices) {
    card.devices = new Devices(credential.name);
    card.append(card.devices.node);
  }
  return card;
}

/** Has a credential renewed, and says what came of it. */
export async function renewNow(name, button, said, device) {
  attribute(button, "aria-disabled", "true");
  if (button.dataset.busy) {
    return;
  }
  button.dataset.busy = "yes";
  text(said, "Renewing…");
  const query = device === undefined ? "" : `?device=${encodeURIComponent(device)}`;
  try {
    const answer = await send(`api/credentials/${encodeURIComponent(name)}/refresh${query}`);
    const { outcome, took_s: took, error, retry_in_s: retry } = answer.value ?? {};
    const why = sentence(error ?? answer.said);
    const again = typeof retry === "number" ? ` Again in ${countdown(retry)}.` : "";
    if (outcome === "waiting") {
      text(said, "Still under way");
    } else if (answer.ok) {
      text(said, typeof took === "number" ? `Renewed in ${duration(took)}` : "Renewed");
    } else if (outcome === "not_asked") {
      text(said, `Not asked for: ${why}${again}`);
    } else {
      text(said, `Not renewed: ${why}${again}`);
    }
  } catch (error) {
    text(said, error instanceof Failed ? error.message : "countersign cannot be reached");
  } finally {
    delete button.dataset.busy;
    attribute(button, "aria-disabled", null);
  }
}

function update(card, credential, status) {
  const p = card.parts;
  const troubled = isTroubled(credential);
  const renewable = credential.source !== "fixed";
  const shown = shownAs(credential);
  if (card.dataset.state !== shown.state) {
    card.dataset.state = shown.state;
    p.icon.replaceChildren(icon(shown.state));
  }
  text(p.state, shown.words);
  card.classList.toggle("troubled", troubled);
  text(p.kind, `${credential.kind}${renewable ? ` · ${credential.source}` : ""}`);

  show(p.trouble, troubled);
  if (troubled) {
    text(p.error, sentence(matter(credential)));
    text(p.effect, effect(credential));
    const { whose, text: hint } = advice(credential.error_word);
    show(p.advice, hint !== "");
    text(p.whose, whose === "" ? "" : `Look at: ${whose}.`);
    text(p.hint, hint);
    const routes = (status.routes ?? []).filter((route) => (route.credentials ?? []).includes(credential.name));
    show(p.routes, routes.length > 0 && isDown(credential));
    text(p.routes, `Routes that need it: ${routes.map((route) => route.name).join(", ")}`);
  }

  life(p, credential);
  const last = credential.last_renewal;
  show(p["last-row"], Boolean(last));
  if (last) {
    when(p.last, -last.ago_s, (span) => `${span} ago`);
    text(p.took, `took ${duration(last.took_s)}`);
  }
  // Without trouble the next attempt is the renewal, which the bar tells of.
  const next = credential.next_attempt_in_s;
  show(p["next-row"], typeof next === "number" && (troubled || typeof credential.renew_in_s !== "number"));
  if (typeof next === "number") {
    when(p.next, next, () => `in ${countdown(next)}`);
  }
  show(p["failures-row"], renewable && (credential.failures ?? 0) > 0);
  text(p.failures, number(credential.failures));
  show(p["skew-row"], typeof credential.clock_skew_s === "number" && Math.abs(credential.clock_skew_s) >= 1);
  text(p.skew, signed(credential.clock_skew_s));
  show(p["replays-row"], (credential.replays ?? 0) > 0);
  text(p.replays, count(credential.replays ?? 0, "request", "requests"));
  fleet(card, p, credential);
  show(p.renew, renewable && !credential.devices);
}

function life(p, credential) {
  const left = credential.expires_in_s;
  const whole = credential.issued_lifetime_s;
  const words = [];
  let bar = false;
  if (typeof left === "number" && typeof whole === "number" && whole > 0) {
    bar = true;
    const share = credential.lifetime_left_share ?? left / whole;
    const renew = credential.renew_in_s;
    const mark = typeof renew === "number" ? Math.max(0, (left - renew) / whole) : null;
    words.push(`good for ${duration(left)} of ${duration(whole)}`);
    if (mark !== null) {
      words.push(`renewal in ${countdown(renew)}`);
    }
    const at = mark === null ? "no renewal planned" : `renewal when ${percent(mark)} are left`;
    updateLifetime(p.life.firstElementChild, share, mark, `${percent(share)} of the lifetime left; ${at}`);
  } else if (typeof left === "number") {
    words.push(`good for ${countdown(left)}`);
  } else if (credential.devices) {
    // Each has its own.
  } else if (credential.source === "fixed") {
    words.push("does not end");
  } else if (credential.usable) {
    words.push("its end is not known");
  } else if (credential.state === "waiting") {
    words.push("fetched when the first request needs it");
  } else {
    words.push("there is none to send");
  }
  show(p.life, words.length > 0);
  attribute(p.life.firstElementChild, "hidden", bar ? null : true);
  p.life.classList.toggle("bare", !bar);
  text(p["life-words"], words.join(" · "));
}

function fleet(card, p, credential) {
  const devices = credential.devices;
  for (const row of ["counts", "queue", "gate", "soon"]) {
    show(p[`${row}-row`], Boolean(devices));
  }
  if (!devices) {
    return;
  }
  const counts = devices.counts;
  const states = ["refused", "failing", "renewing", "fresh", "idle"].filter((state) => counts[state] > 0);
  const said = states.map((state) => `${number(counts[state])} ${state}`).join(", ");
  text(p.counts, `${number(counts.known)}${said ? `: ${said}` : ""}`);
  const rate = typeof devices.max_logins_per_second === "number" ? `, at most ${number(devices.max_logins_per_second)}/s` : "";
  text(p.queue, `${number(devices.logins_in_flight)} of ${number(devices.max_concurrent_logins)} under way, ${number(devices.login_queue)} waiting${rate}`);
  const gate = devices.gate;
  text(p.gate, gate ? `closed for ${countdown(gate.closed_for_s)}: ${gate.error}` : "open");
  card.classList.toggle("gated", Boolean(gate));
  const soon = devices.renewals ?? {};
  text(p.soon, `${number(soon.within_1m)} in 1 min, ${number(soon.within_5m)} in 5, ${number(soon.within_15m)} in 15`);
  card.devices?.worst(devices.failing ?? []);
}

/** Shows the credentials of `status`. */
export function updateCredentials(status) {
  const all = status.credentials ?? [];
  const sorted = all
    .map((credential, index) => ({ credential, index }))
    .sort((a, b) => (RANK[troubleOf(a.credential)] ?? 2) - (RANK[troubleOf(b.credential)] ?? 2)
      || (b.credential.state === "refused") - (a.credential.state === "refused") || a.index - b.index)
    .map(({ credential }) => credential);
  keyed(by("credentials-list"), sorted, (credential) => `${credential.name}\n${Boolean(credential.devices)}`, make,
    (card, credential) => update(card, credential, status));
  show(by("credentials-none"), all.length === 0);
  const counts = new Map();
  for (const one of all) {
    const { words } = shownAs(one);
    counts.set(words, (counts.get(words) ?? 0) + 1);
  }
  text(by("credentials-note"), [...counts].map(([state, number]) => `${number} ${state}`).join(" · "));
}
