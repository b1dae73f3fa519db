// What a status comes to: one sentence, by the worst there is, and everything else that is not well.

import { count, countdown, number, percent, sentence } from "./format.js";

const FAILED = ["refused", "failing"];

/** From how many errors or refusals among its requests of the last minute a route is in trouble. */
const SHARE = 0.05;
/** From how many it is no use any more. */
const MOST = 0.5;

// How bad it is, and the state whose icon and colour say so.
const [WELL, BUSY, WARN, GRAVE] = [0, 1, 2, 3];
const SHOWN = ["fresh", "renewing", "failing", "refused"];

/** How a credential is in trouble: "all", "some" or null, as the listener says. */
export function troubleOf(credential) {
  if (credential.trouble !== undefined) {
    return credential.trouble;
  }
  if (!FAILED.includes(credential.state)) {
    return null;
  }
  return credential.usable === false ? "all" : "some";
}

/** True if somebody should look at it. */
export function isTroubled(credential) {
  return Boolean(troubleOf(credential));
}

/** True if requests that need the credential get none. */
export function isDown(credential) {
  return troubleOf(credential) === "all";
}

/** `{ state, words }` to show for a credential: its colour and icon, and its state in words. */
export function shownAs(credential) {
  const { state, devices } = credential;
  const trouble = troubleOf(credential);
  if (trouble) {
    const words = devices && trouble === "some" && !devices.gate ? "some failing" : state;
    return { state: trouble === "all" ? "refused" : "failing", words };
  }
  if (devices && FAILED.includes(state)) {
    // Not so many that it is a matter of the credential; the devices below say which.
    const { fresh = 0, renewing = 0 } = devices.counts;
    const word = fresh > 0 ? "fresh" : renewing > 0 ? "renewing" : "idle";
    return { state: word, words: word };
  }
  return { state, words: state };
}

function names(list) {
  const all = list.map((one) => one.name);
  return all.length > 4 ? `${all.slice(0, 3).join(", ")} and ${all.length - 3} more` : all.join(", ");
}

function failedOf(counts) {
  const [refused, failing] = [counts.refused ?? 0, counts.failing ?? 0];
  return { refused, failing, bad: refused + failing };
}

/** What is the matter with a credential, in half a sentence. */
export function matter(credential) {
  const devices = credential.devices;
  if (!devices || devices.gate) {
    return credential.error ?? devices?.gate?.error ?? "";
  }
  const { refused, failing } = failedOf(devices.counts);
  const said = [];
  if (refused > 0) {
    said.push(`${count(refused, "device is", "devices are")} refused`);
  }
  if (failing > 0) {
    said.push(`${count(failing, "device fails", "devices fail")} to log in`);
  }
  const why = devices.failing?.[0]?.error;
  return said.join(", ") + (said.length > 0 && why ? `; the longest: ${why}` : "");
}

function devicesEffect({ counts, gate }) {
  const { bad } = failedOf(counts);
  const { fresh = 0, renewing = 0, idle = 0 } = counts;
  const on = fresh + renewing;
  if (gate) {
    const those = fresh > 0 ? "those with a usable token go on" : "none has a usable token, so their requests are answered with an error";
    return `No device logs in for another ${countdown(gate.closed_for_s)}; ${those}.`;
  }
  const said = [];
  if (bad > 0) {
    said.push(`Requests of ${bad === 1 ? "this device" : "these devices"} are answered with an error until a login succeeds.`);
  }
  if (on > 0) {
    const all = idle === 0 ? "All other devices go on" : `${count(on, "other device goes", "other devices go")} on`;
    said.push(`${all}${idle > 0 ? `, ${count(idle, "is", "are")} idle` : ""}.`);
  } else if (idle > 0) {
    said.push(`${count(idle, "other device is", "other devices are")} idle.`);
  } else if (bad > 1) {
    said.push("No other device is there.");
  }
  return said.join(" ");
}

/** What it means for requests. */
export function effect(credential) {
  if (!isTroubled(credential)) {
    return "";
  }
  if (credential.devices) {
    return devicesEffect(credential.devices);
  }
  const next = typeof credential.next_attempt_in_s === "number"
    ? ` Next attempt in ${countdown(credential.next_attempt_in_s)}.`
    : "";
  if (credential.usable === false) {
    return `Requests that need it are answered with an error until a login succeeds.${next}`;
  }
  const left = typeof credential.expires_in_s === "number"
    ? `Requests still pass: the present one is good for another ${countdown(credential.expires_in_s)}.`
    : "Requests still pass with the present one.";
  return left + next;
}

function fleetTitle({ name, devices }) {
  const { refused, failing, bad } = failedOf(devices.counts);
  const of = `${number(bad)} of ${count(devices.counts.known ?? bad, "device", "devices")}`;
  if (devices.gate) {
    const fresh = devices.counts.fresh ?? 0;
    return `The login gate of ${name} is closed: ${number(fresh)} of ${count(devices.counts.known ?? fresh, "device has", "devices have")} a usable token`;
  }
  if (failing === 0) {
    return `${of} ${refused === 1 ? "is" : "are"} refused: ${name}`;
  }
  const verb = bad === 1 ? "fails" : "fail";
  return `${of} ${refused > 0 ? `${verb} to log in or ${bad === 1 ? "is" : "are"} refused` : `${verb} to log in`}: ${name}`;
}

/** A note on `listed`, which are all in trouble alike. */
function credentialNote(listed, all, level) {
  // Those that do not mend by themselves first.
  const worst = [...listed].sort((a, b) => (b.state === "refused") - (a.state === "refused"));
  const [first] = worst;
  const said = [worst.length > 1 ? `${first.name}: ${matter(first)}` : matter(first)].map(sentence);
  said.push(effect(first));
  const more = said.filter(Boolean).join(" ");
  if (worst.length === 1 && first.devices) {
    return { level, title: fleetTitle(first), more };
  }
  const words = new Set(worst.map((one) => one.state));
  let word = words.size === 1 && !first.devices ? [...words][0] : "in trouble";
  if (level < GRAVE) {
    word = worst.some((one) => one.devices) ? "not well" : "failing to renew";
  }
  const of = all === 1 ? "The only credential" : `${worst.length} of ${all} credentials`;
  return { level, title: `${of} ${worst.length === 1 ? "is" : "are"} ${word}: ${names(worst)}`, more };
}

function credentialNotes(credentials) {
  const all = credentials.length;
  const notes = [];
  for (const [trouble, level] of [["all", GRAVE], ["some", WARN]]) {
    const listed = credentials.filter((one) => troubleOf(one) === trouble);
    if (listed.length > 0) {
      notes.push(credentialNote(listed, all, level));
    }
  }
  return notes;
}

/** True if the API refuses what is sent to it, though it is authenticated. */
export function isRefused(route) {
  return (route.refused_share ?? 0) >= SHARE;
}

/** True if requests fail. */
export function isFailing(route) {
  return (route.error_share ?? 0) >= SHARE;
}

function routeNotes(routes) {
  const notes = [];
  const refused = routes.filter(isRefused).sort((a, b) => b.refused_share - a.refused_share);
  if (refused.length > 0) {
    const [first] = refused;
    const most = first.refused_share;
    const share = `${percent(most)} of the last minute: 401/403`;
    const level = most >= MOST ? GRAVE : WARN;
    if (refused.length === 1) {
      const signed = (first.credentials ?? []).join(", ");
      notes.push({ level, title: `The API refuses requests of route ${first.name}${signed ? ` signed with ${signed}` : ""} (${share})` });
    } else {
      notes.push({ level, title: `The API refuses requests of ${number(refused.length)} routes: ${names(refused)} (up to ${share})` });
    }
    notes.at(-1).more = "The credential was sent and is not what the API wants: look at its key, its clock and what it may do there.";
  }
  const failing = routes.filter(isFailing).sort((a, b) => b.error_share - a.error_share);
  if (failing.length > 0) {
    const most = failing[0].error_share;
    const one = failing.length === 1;
    const title = `Requests fail on ${one ? "route" : `${number(failing.length)} routes:`} ${names(failing)} (${one ? "" : "up to "}${percent(most)} of the last minute)`;
    notes.push({ level: most >= MOST ? GRAVE : WARN, title });
  }
  return notes;
}

function readyNotes(status) {
  const because = status.not_ready_because ?? "";
  if (status.ready !== false) {
    return [];
  }
  if (because.startsWith("stopping")) {
    return [{ level: WARN, title: "countersign is stopping: it takes no new work" }];
  }
  // What is not there yet is told by its credential, as trouble where it is trouble.
  const level = because.startsWith("no usable credential") ? BUSY : WARN;
  return [{ level, title: `Not ready, /readyz answers 503${because ? `: ${because}` : ""}` }];
}

/** What is so while nothing is wrong. */
function calm(credentials, reloadRefused) {
  const all = credentials.length;
  const notes = [];
  const renewing = credentials.filter((one) => one.state === "renewing" && !isTroubled(one));
  const waiting = credentials.filter((one) => ["waiting", "idle"].includes(shownAs(one).state));
  if (renewing.length > 0) {
    const without = renewing.some((one) => one.usable === false && !one.devices);
    notes.push({
      level: BUSY,
      title: `${count(renewing.length, "credential is", "credentials are")} being renewed: ${names(renewing)}`,
      more: without ? "Requests that need it wait for the attempt in flight." : "Requests pass with the present one meanwhile.",
    });
  }
  const idle = waiting.length > 0 ? `Not needed yet, so not fetched: ${names(waiting)}.` : "";
  if (credentials.some(isTroubled) || renewing.length > 0) {
    if (idle) {
      notes.push({ level: WELL, more: idle });
    }
    return notes;
  }
  const fresh = all - waiting.length;
  let title = "No credentials are configured; requests pass as they are";
  if (all > 0) {
    title = waiting.length > 0
      ? `${fresh} of ${all} credentials ${fresh === 1 ? "is" : "are"} fresh${reloadRefused ? "" : ", and nothing is wrong"}`
      : all === 1 ? "The only credential is fresh" : `All ${all} credentials are fresh`;
  }
  notes.push({ level: WELL, title, more: idle });
  return notes;
}

/** `{ state, title, more, others }` of a status: the worst is the title, and nothing hides the rest. */
export function verdict(status) {
  const credentials = status.credentials ?? [];
  const notes = [...credentialNotes(credentials), ...routeNotes(status.routes ?? []), ...readyNotes(status)];
  if (status.reload?.outcome === "refused") {
    notes.push({ level: WARN, title: "The configuration file has problems; the one before still serves" });
  }
  notes.push(...calm(credentials, notes.length > 0));
  const unrouted = status.unrouted?.rate_per_s ?? 0;
  if (unrouted > 0) {
    notes.push({ level: WELL, more: `No route is there for ${number(unrouted)} requests per second; they are answered with an error.` });
  }
  const sorted = notes.map((note, index) => ({ ...note, index })).sort((a, b) => b.level - a.level || a.index - b.index);
  const worst = sorted.find((note) => note.title) ?? { level: WELL, title: "Nothing is wrong" };
  // What else is wrong is named; its details are further down on the page.
  const others = sorted.filter((note) => note !== worst).map((note) =>
    (note.level > WELL ? sentence(note.title) : [sentence(note.title), note.more].filter(Boolean).join(" ")));
  return { state: SHOWN[worst.level], title: worst.title, more: worst.more ?? "", others };
}
