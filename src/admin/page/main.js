// Puts the parts together: who may see, what comes in, where it is shown.

import { onRefused, signIn } from "./api.js";
import { updateCredentials } from "./credentials.js";
import { by, show, text } from "./dom.js";
import { startExplain } from "./explain.js";
import { Feed } from "./feed.js";
import { lost, updateHead, updateLink } from "./head.js";
import { startReload, updateReload } from "./reload.js";
import { addMissed, addRequest, isPaused, startRequests, updateChoices } from "./requests.js";
import { updateRoutes } from "./routes.js";

/** Without anything new for so long, what is shown is not called current any more. */
const STALE_MS = 6_000;

let link = "connecting";
let last = null;

function showLink() {
  updateLink(link === "live" && isPaused() ? "paused" : link);
}

function enter(shown) {
  show(by("login"), !shown);
  show(by("all"), shown);
  show(by("sections"), shown);
}

const feed = new Feed({
  state(word) {
    link = word;
    showLink();
  },
  status(status) {
    last = Date.now();
    enter(true);
    updateHead(status);
    updateReload(status);
    updateCredentials(status);
    updateRoutes(status);
    updateChoices(status);
  },
  request: addRequest,
  missed: addMissed,
});

setInterval(() => {
  if (feed.running && (last === null ? link === "reconnecting" : Date.now() - last > STALE_MS)) {
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

startRequests(showLink);
startReload();
startExplain();
feed.start();
