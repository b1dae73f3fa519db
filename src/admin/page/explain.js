// What would happen to a request.

import { Failed, send } from "./api.js";
import { by, el } from "./dom.js";
import { count } from "./format.js";

function shown(item) {
  if (item.value === null || item.value === undefined) {
    return [el("span", { class: "masked" }, "••••••••"), " ", el("span", { class: "faint" }, `(masked, ${count(item.length, "byte", "bytes")})`)];
  }
  return [el("code", {}, item.value)];
}

function row(name, ...children) {
  return el("div", {}, el("dt", {}, name), el("dd", {}, ...children));
}

function listed(fields) {
  return fields.map((field) => el("li", {}, el("code", {}, `${field.name}: `), ...shown(field)));
}

function credential(one) {
  const rows = [row("Credential", el("strong", {}, one.name), ` (${one.kind})`)];
  if (one.missing) {
    rows.push(row("Missing", el("span", { class: "error" }, one.missing)));
  }
  if (one.signed) {
    const parts = one.signed.parts.map((part) => el(
      "li", {},
      el("span", { class: "label" }, part.label), " ",
      ...shown(part), part.cut ? "…" : null,
      part.value === null ? null : el("span", { class: "faint" }, ` (${count(part.length, "byte", "bytes")})`),
    ));
    rows.push(row("Signed", `${one.signed.algorithm} over, in this order:`, el("ol", { class: "base" }, ...parts)));
  }
  const added = listed(one.added);
  if (one.query) {
    added.push(el("li", {}, "query parameters ", ...shown(one.query)));
  }
  if (added.length > 0) {
    rows.push(row("Added", el("ul", { class: "plain" }, ...added)));
  }
  if (one.query_removed.length > 0) {
    rows.push(row("Replaced", `query parameters ${one.query_removed.join(", ")}`));
  }
  return rows;
}

function answer(told) {
  const rows = [row("Request", el("code", {}, told.request))];
  if (told.route) {
    const { name, path, upstream, clients } = told.route;
    rows.push(row("Route", el("strong", {}, name), ` (${path} → ${upstream})`));
    if (clients.length > 0) {
      rows.push(row("Only for", `certificates of ${clients.join(", ")}`));
    }
  }
  if (told.identity) {
    rows.push(row("Device", told.identity));
  }
  if (told.refused) {
    const { status, title, reason } = told.refused;
    rows.push(row("Answered", el("span", { class: "error" }, `${status} ${title}`), ` by countersign itself: ${reason}`));
    return el("dl", { class: "told" }, ...rows);
  }
  rows.push(row("Removed", told.removed.length > 0 ? el("code", {}, told.removed.join(", ")) : "nothing"));
  if (told.set.length > 0) {
    rows.push(row("Set", el("ul", { class: "plain" }, ...listed(told.set))));
  }
  for (const one of told.credentials) {
    rows.push(...credential(one));
  }
  if (told.credentials.length === 0) {
    rows.push(row("Credential", "none: the request passes as it is"));
  }
  rows.push(row("Sent as", told.sent_as ? el("code", {}, told.sent_as) : "nothing, as long as a credential is missing"));
  return el("dl", { class: "told" }, ...rows);
}

function fields(lines) {
  return lines.split("\n").map((line) => line.trim()).filter(Boolean).map((line) => {
    const at = line.indexOf(":");
    return at < 0 ? [line, ""] : [line.slice(0, at).trim(), line.slice(at + 1).trim()];
  });
}

/** Connects the form. */
export function startExplain() {
  const place = by("explain-answer");
  by("explain-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    const question = {
      method: by("explain-method").value,
      url: by("explain-url").value.trim(),
      headers: fields(by("explain-fields").value),
      body: by("explain-content").value,
    };
    const device = by("explain-device").value.trim();
    if (device) {
      question.device = device;
    }
    try {
      const got = await send("api/explain", question);
      place.replaceChildren(got.ok && got.value ? answer(got.value) : el("p", { class: "error" }, got.said));
    } catch (error) {
      const said = error instanceof Failed ? error.message : "countersign cannot be reached";
      place.replaceChildren(el("p", { class: "error" }, said));
    }
  });
}
