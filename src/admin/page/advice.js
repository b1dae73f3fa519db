// Whose trouble it is, and what to look at first, by the word that says why a login failed.

const ADVICE = {
  refused: ["configuration", "The API understood the login and said no: the login or its password is wrong, or the account is locked. countersign waits long before it tries again, so that it does not lock the account itself."],
  unreachable: ["network", "Nothing answers at the token endpoint. Look at the network, the name service, the proxy and the firewall of this machine first; the API may also be down."],
  broken: ["network or API", "The connection broke on the way, or what came over it was no HTTP."],
  timeout: ["API or network", "The API did not answer in time: it is slow or down, unless the network loses what is sent."],
  unavailable: ["API", "The API says that it cannot serve at the moment. countersign tries again by itself."],
  reply: ["API or configuration", "The API answered, but not what the configuration expects: either it has changed, or the configuration is wrong."],
  discovery: ["API or configuration", "What the authorization server says of itself does not lead to its token endpoint."],
  bind: ["API or configuration", "What the API sent cannot be put into the fields that the configuration says."],
  secret: ["this machine", "A secret cannot be read here: look at its file and who may read it."],
  request: ["configuration", "The login request cannot be put together from what the configuration says."],
  panicked: ["countersign", "This is a mistake in countersign; its log has the details. Please report it."],
};

/** `{ whose, text }` for a word; empty texts if there is nothing to say. */
export function advice(word) {
  const [whose, text] = ADVICE[word] ?? ["", ""];
  return { whose, text };
}

/** Whose error a request ended with, as it is put here. */
export const WHOSE = { ours: "countersign", upstream: "the API", caller: "the caller" };
