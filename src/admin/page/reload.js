// The configuration: when it was read last, what was wrong with it, and reading it again.

import { Failed, send } from "./api.js";
import { attribute, by, el, keyed, show, text } from "./dom.js";
import { clockOrDate, count, dateOf, exact } from "./format.js";

const CAUSES = { signal: "on a signal", file: "because the file changed", admin: "when asked here" };
const OUTCOMES = { unchanged: "no change", taken: "taken over", refused: "refused" };

function ago(reload) {
  return typeof reload.ago_s === "number" ? dateOf(Date.now() - reload.ago_s * 1000) : null;
}

function problem(item) {
  const place = typeof item.line === "number"
    ? `line ${item.line}${typeof item.column === "number" ? `, column ${item.column}` : ""}`
    : "";
  return el(
    "li", {},
    el("p", { class: "error" }, item.message ?? "a problem", place ? el("span", { class: "faint" }, ` (${place})`) : null),
    item.hint ? el("p", {}, item.hint) : null,
    item.report ? el("pre", { tabindex: "0", role: "region", "aria-label": `Report${place ? ` on ${place}` : ""}` }, item.report) : null,
  );
}

/** Shows the last attempt to read the configuration. */
export function updateReload(status) {
  const reload = status.reload;
  if (!reload) {
    text(by("last-reload"), "as at start");
    attribute(by("last-reload"), "title", null);
    show(by("problems"), false);
    return;
  }
  const at = ago(reload);
  const time = at ? clockOrDate(at) : "";
  text(by("last-reload"), `${OUTCOMES[reload.outcome] ?? reload.outcome} at ${time}, ${CAUSES[reload.cause] ?? reload.cause ?? ""}`.replace(/, $/, ""));
  attribute(by("last-reload"), "title", [at ? exact(at) : "", ...(reload.changes ?? [])].filter(Boolean).join("\n"));
  const problems = reload.problems ?? [];
  const refused = reload.outcome === "refused";
  show(by("problems"), refused);
  if (refused) {
    text(by("problems-intro"), `${count(problems.length, "problem was", "problems were")} found at ${time}. ` +
      "Nothing was taken over: the configuration from before still serves, with its routes and credentials. " +
      "Mend the file, and it is read again.");
    keyed(by("problems-list"), problems, (item) => JSON.stringify(item), problem, () => {});
  }
}

/** Connects the button. */
export function startReload() {
  const button = by("reload");
  const said = by("reload-said");
  button.addEventListener("click", async () => {
    if (button.dataset.busy) {
      return;
    }
    button.dataset.busy = "yes";
    attribute(button, "aria-disabled", "true");
    text(said, "Reading the configuration…");
    try {
      const answer = await send("api/reload");
      const value = answer.value ?? {};
      if (answer.ok && value.outcome === "unchanged") {
        text(said, "The configuration is as it was.");
      } else if (answer.ok) {
        const changes = value.changes ?? [];
        text(said, changes.length > 0 ? `Taken over: ${changes.join("; ")}.` : "Taken over.");
      } else if (answer.status === 422) {
        text(said, `Refused: ${count((value.problems ?? []).length, "problem", "problems")}; the configuration from before still serves.`);
      } else {
        text(said, `Not possible here: ${answer.said}`);
      }
    } catch (error) {
      text(said, error instanceof Failed ? error.message : "countersign cannot be reached");
    } finally {
      delete button.dataset.busy;
      attribute(button, "aria-disabled", null);
    }
  });
}
