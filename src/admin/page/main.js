// Puts the parts together: who may see, what comes in, where it is shown.

import { onRefused, signIn } from "./api.js";
import { updateCredentials } from "./credentials.js";
import { by, show, text } from "./dom.js";
import { startExplain } from "./explain.js";
import { Feed } from "./feed.js";
import { hidden, lost, updateHead, updateLink } from "./head.js";
import { startReload, updateReload } from "./reload.js";
import { addMissed, addRequest, hiding, isPaused, resumed, startRequests, updateChoices } from "./requests.js";
import { startRoutes, updateRoutes } from "./routes.js";

/** Without anything new for so long, what is shown is not called current any more. */
const STALE_MS = 6_000;

let link = "connecting";
let last = null;
/** When it was asked for news again; what came before that has had no chance to be newer. */
let asked = Date.now();
/** What fails here, by where. */
const failing = new Map();

function showLink() {
  updateLink(link === "live" && isPaused() ? "paused" : link);
}

function enter(shown) {
  show(by("login"), !shown);
  show(by("all"), shown);
  show(by("sections"), shown);
}

/** Says that something here does not work, so that nobody believes what it shows. */
function broken(what, error) {
  if (error === null ? !failing.delete(what) : failing.get(what) === String(error)) {
    return;
  }
  if (error !== null) {
    failing.set(what, String(error));
    console.error(what, error);
  }
  const said = [...failing].map(([where, why]) => `${where} (${why})`).join(", ");
  text(by("broken"), said === "" ? "" : `This page failed at ${said}. What it shows there may be old; countersign itself is not concerned. Please report it.`);
  show(by("broken"), said !== "");
}

/** Each part for itself: where one fails, the others go on. */
function update(what, change, status) {
  try {
    change(status);
    broken(what, null);
  } catch (error) {
    broken(what, error);
  }
}

const feed = new Feed({
  state(word) {
    link = word;
    showLink();
  },
  status(status) {
    last = Date.now();
    enter(true);
    update("the first sentence", updateHead, status);
    update("the configuration", updateReload, status);
    update("the credentials", updateCredentials, status);
    update("the routes", updateRoutes, status);
    update("the filters of requests", updateChoices, status);
  },
  request: addRequest,
  missed: addMissed,
  broken,
});

setInterval(() => {
  const since = Math.max(last ?? 0, asked);
  if (feed.running && (last === null ? link === "reconnecting" : Date.now() - since > STALE_MS)) {
    if (by("login").hidden) {
      enter(true);
      lost(last);
    }
  }
}, 1_000);

onRefused((had) => {
  feed.stop();
  enter(false);
  updateLink("connecting");
  text(by("link-text"), "not signed in");
  // A link cannot carry the token.
  show(by("open-links"), false);
  text(by("login-wrong"), had ? "This is not the token of this listener, or it has changed." : "");
  by("token").value = "";
  by("token").focus();
});

by("login-form").addEventListener("submit", (event) => {
  event.preventDefault();
  text(by("login-wrong"), "");
  if (signIn(by("token").value)) {
    feed.start();
  } else {
    text(by("login-wrong"), "This cannot be a token: it has characters that no field can hold.");
  }
});

// A browser opens six connections to a listener at most. Pages that nobody sees leave them to others.
let resting = false;
document.addEventListener("visibilitychange", () => {
  if (document.hidden && feed.running) {
    resting = true;
    feed.stop();
    link = "hidden";
    showLink();
    hidden();
    hiding();
  } else if (!document.hidden && resting) {
    resting = false;
    asked = Date.now();
    resumed();
    link = "connecting";
    showLink();
    feed.start();
  }
});

startRequests(showLink, update);
startRoutes();
startReload();
startExplain();
if (document.hidden) {
  resting = true;
  link = "hidden";
  showLink();
  hidden();
} else {
  feed.start();
}
