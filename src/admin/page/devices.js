// The devices of one credential: the worst at once, all of them page by page when asked for.

import { Failed, read } from "./api.js";
import { attribute, el, keyed, parts, show, text } from "./dom.js";
import { icon } from "./draw.js";
import { clock, duration, number } from "./format.js";
import { renewNow } from "./credentials.js";

const PAGE = 50;
const STATES = ["refused", "failing", "renewing", "fresh", "idle"];
let made = 0;

function row(name, renewable) {
  const renew = el("button", { type: "button", class: "small", "data-part": "renew" }, "Renew");
  const node = el(
    "tr", {},
    el("th", { scope: "row", "data-part": "name", "data-label": "Device" }),
    el("td", { "data-label": "State" }, el("span", { class: "badge" }, el("span", { "data-part": "icon" }), el("span", { "data-part": "state" }))),
    el("td", { "data-part": "ends", "data-label": "Good for" }),
    el("td", { class: "number", "data-part": "failures", "data-label": "Failures" }),
    el("td", { "data-part": "next", "data-label": "Next attempt" }),
    el("td", { class: "words", "data-part": "error", "data-label": "Last error" }),
    el("td", {}, renew, el("span", { class: "said", role: "status", "data-part": "said" })),
  );
  node.parts = parts(node);
  renew.addEventListener("click", () => renewNow(name, renew, node.parts.said, renewable()));
  return node;
}

function fill(node, device) {
  const p = node.parts;
  text(p.name, device.device);
  attribute(p.renew, "aria-label", `Renew ${device.device}`);
  if (node.dataset.state !== device.state) {
    node.dataset.state = device.state;
    p.icon.replaceChildren(icon(device.state));
    text(p.state, device.state);
  }
  text(p.ends, duration(device.expires_in_s));
  text(p.failures, number(device.failures));
  text(p.next, typeof device.next_attempt_in_s === "number" ? `in ${duration(device.next_attempt_in_s)}` : "–");
  text(p.error, device.error ?? "–");
}

function table(label) {
  const body = el("tbody");
  const node = el(
    "table", { class: "stack small" },
    el("caption", {}, label),
    el("thead", {}, el("tr", {}, ...["Device", "State", "Good for", "Failures", "Next attempt", "Last error", "Action"].map((name) =>
      el("th", { scope: "col", class: name === "Failures" ? "number" : null }, name)))),
    body,
  );
  return { node, body };
}

/** The part of a credential's card that is about its devices. */
export class Devices {
  constructor(credential) {
    this.credential = credential;
    made += 1;
    this.failing = table("The devices that fail the longest");
    this.all = table("Devices in the order of their file");
    this.state = el("select", { id: `devices-state-${made}` }, el("option", { value: "" }, "all"), ...STATES.map((state) => el("option", {}, state)));
    this.search = el("input", { type: "search", autocomplete: "off", spellcheck: "false", placeholder: "part of its name" });
    this.more = el("button", { type: "button" }, "More");
    this.again = el("button", { type: "button" }, "Look again");
    this.note = el("p", { class: "faint", role: "status" });
    const filters = el("form", { class: "filters", "aria-label": `Devices of ${credential}` },
      el("label", {}, "State ", this.state), el("label", { class: "grow" }, "Device ", this.search), el("span", { class: "buttons" }, this.again));
    this.details = el("details", { class: "devices" }, el("summary", {}, "All devices"), filters, this.all.node, el("p", { class: "row" }, this.more, this.note));
    this.node = el("div", { class: "fleet" }, this.failing.node, this.details);
    show(this.failing.node, false);
    show(this.more, false);
    this.details.addEventListener("toggle", () => this.details.open && this.devices === undefined && this.load());
    filters.addEventListener("submit", (event) => { event.preventDefault(); this.load(); });
    this.state.addEventListener("change", () => this.load());
    this.search.addEventListener("input", () => { clearTimeout(this.typing); this.typing = setTimeout(() => this.load(), 250); });
    this.again.addEventListener("click", () => this.load());
    this.more.addEventListener("click", () => this.load(this.next));
  }

  /** Those that the status tells of. */
  worst(devices) {
    show(this.failing.node, devices.length > 0);
    this.put(this.failing.body, devices);
  }

  put(body, devices) {
    keyed(body, devices, (one) => one.device, (one) => row(this.credential, () => one.device), fill);
  }

  /** The first page, or the one behind `after`. */
  async load(after) {
    const query = new URLSearchParams({ limit: PAGE });
    if (this.state.value) {
      query.set("state", this.state.value);
    }
    if (this.search.value) {
      query.set("search", this.search.value);
    }
    if (after) {
      query.set("after", after);
    }
    const asked = this.asked = query.toString();
    try {
      const page = await read(`api/credentials/${encodeURIComponent(this.credential)}/devices?${asked}`);
      if (this.asked !== asked) {
        return;
      }
      this.devices = after ? [...this.devices, ...page.devices] : page.devices;
      this.next = page.next;
      show(this.more, page.next !== null);
      this.put(this.all.body, this.devices);
      const end = page.next === null ? "that is all" : "there are more";
      text(this.note, `${number(this.devices.length)} shown, ${end}; as of ${clock(new Date())}`);
    } catch (error) {
      text(this.note, error instanceof Failed ? error.message : "countersign cannot be reached");
    }
  }
}
