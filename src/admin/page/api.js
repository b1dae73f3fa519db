// Asking the listener. Whoever has no token, or a wrong one, is asked for it.

// In memory only: what is in sessionStorage, browsers write to their disk to restore tabs.
let token = null;
let refused = () => {};

/** What is done when a token is needed; it is told whether there was one. */
export function onRefused(handler) {
  refused = handler;
}

/** The token to send from now on; false if none of this kind can be. */
export function signIn(value) {
  try {
    new Headers({ Authorization: `Bearer ${value}` });
  } catch {
    return false;
  }
  token = value;
  return true;
}

/** An answer that is none: what the listener said instead. */
export class Failed extends Error {
  constructor(status, said) {
    super(said || `The listener answered ${status}`);
    this.status = status;
  }
}

/** Asks for `path`, below where the page is. */
export async function ask(path, options = {}) {
  const headers = { ...options.headers };
  const had = token !== null;
  if (had) {
    headers.Authorization = `Bearer ${token}`;
  }
  const answer = await fetch(path, {
    ...options,
    headers,
    cache: "no-store",
    credentials: "same-origin",
    redirect: "error",
  });
  if (answer.status === 401) {
    token = null;
    refused(had);
    throw new Failed(401, "A token is needed");
  }
  return answer;
}

/** The JSON that is at `path`. */
export async function read(path, signal) {
  const answer = await ask(path, { signal });
  if (!answer.ok) {
    throw new Failed(answer.status, (await answer.text()).trim());
  }
  return answer.json();
}

/** Sends `value` to `path`; what comes back is `{ status, value, said }`. */
export async function send(path, value) {
  const options = { method: "POST" };
  if (value !== undefined) {
    options.headers = { "Content-Type": "application/json" };
    options.body = JSON.stringify(value);
  }
  const answer = await ask(path, options);
  const said = (await answer.text()).trim();
  let parsed = null;
  if ((answer.headers.get("content-type") ?? "").includes("json")) {
    try {
      parsed = JSON.parse(said);
    } catch {
      // Whatever it is, it is shown as it came.
    }
  }
  return { status: answer.status, ok: answer.ok, value: parsed, said };
}
