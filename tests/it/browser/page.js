// A hostile page: it tries every way in which a page can send a request to another server, and
// says what it could read of the answers.
//
// `plan` is put in front by the server: { as, targets: { name: origin }, home, patience }.
"use strict";

const placed = (tag, set, read = () => "loaded") =>
  new Promise((resolve) => {
    const element = document.createElement(tag);
    const seen = () => {
      try {
        resolve(read(element));
      } catch {
        resolve(null);
      }
    };
    element.addEventListener("load", seen);
    element.addEventListener("error", () => resolve(null));
    set(element);
    document.body.append(element);
  });

const text = async (response) => (await (await response).text()) || null;
const framed = (frame) => frame.contentDocument?.body?.textContent || null;

const xhr = (method, url, content) =>
  new Promise((resolve) => {
    const request = new XMLHttpRequest();
    request.onload = () => resolve(request.responseText || null);
    request.onerror = () => resolve(null);
    request.open(method, url);
    request.withCredentials = true;
    request.setRequestHeader("Content-Type", "text/plain");
    request.send(content);
  });

const worker = (url) =>
  new Promise((resolve) => {
    const code = `onmessage = ({ data }) => {
      try { importScripts(data); postMessage("ran"); } catch { postMessage(null); }
    };`;
    const worker = new Worker(URL.createObjectURL(new Blob([code])));
    worker.onmessage = ({ data }) => resolve(data);
    worker.onerror = () => resolve(null);
    worker.postMessage(url);
  });

const form = (url, type) => {
  const name = `frame of ${url}`;
  const answer = placed("iframe", (frame) => (frame.name = name), () => null);
  return answer.then(() => {
    const frame = document.getElementsByName(name)[0];
    const loaded = new Promise((resolve) => {
      frame.addEventListener("load", () => {
        try {
          resolve(framed(frame));
        } catch {
          resolve(null);
        }
      });
    });
    const form = document.createElement("form");
    Object.assign(form, { action: url, method: "post", enctype: type, target: name });
    const field = document.createElement("input");
    Object.assign(field, { name: "a", value: "b" });
    form.append(field);
    document.body.append(form);
    form.submit();
    return loaded;
  });
};

const ways = {
  "fetch": (url) => text(fetch(url)),
  "fetch-no-cors": (url) => text(fetch(url, { mode: "no-cors", credentials: "include" })),
  "fetch-no-referrer": (url) =>
    text(fetch(url, { mode: "no-cors", referrerPolicy: "no-referrer", cache: "reload" })),
  "fetch-post": (url) =>
    text(fetch(url, { method: "POST", mode: "no-cors", body: '{"a":1}', keepalive: true })),
  "fetch-post-cors": (url) => text(fetch(url, { method: "POST", body: "text" })),
  "fetch-put": (url) =>
    text(fetch(url, { method: "PUT", body: "{}", headers: { "X-Forwarded-Host": "localhost" } })),
  "xhr": (url) => xhr("GET", url),
  "xhr-post": (url) => xhr("POST", url, "text"),
  "form-post": (url) => form(url, "text/plain"),
  "form-urlencoded": (url) => form(url, "application/x-www-form-urlencoded"),
  "image": (url) => placed("img", (element) => (element.src = url)),
  "image-no-referrer": (url) =>
    placed("img", (element) => Object.assign(element, { referrerPolicy: "no-referrer", src: url })),
  "image-redirected": (url) =>
    placed("img", (element) => (element.src = `${plan.home}/redirect?${url}`)),
  "script": (url) => placed("script", (element) => (element.src = url)),
  "module": (url) =>
    placed("script", (element) => Object.assign(element, { type: "module", src: url })),
  "style": (url) =>
    placed(
      "link",
      (element) => Object.assign(element, { rel: "stylesheet", href: url }),
      (element) => [...element.sheet.cssRules].map((rule) => rule.cssText).join() || null,
    ),
  "iframe": (url) => placed("iframe", (element) => (element.src = url), framed),
  "object": (url) =>
    placed("object", (element) => Object.assign(element, { data: url, type: "text/html" }), framed),
  "embed": (url) => placed("embed", (element) => (element.src = url), () => null),
  "font": (url) =>
    new FontFace("f", `url("${url}")`).load().then(
      () => "loaded",
      () => null,
    ),
  "beacon": async (url) => {
    navigator.sendBeacon(url, "text");
    return null;
  },
  "event-source": (url) =>
    new Promise((resolve) => {
      const source = new EventSource(url, { withCredentials: true });
      source.onmessage = ({ data }) => resolve(data);
      source.onopen = () => resolve("open");
      source.onerror = () => {
        source.close();
        resolve(null);
      };
    }),
  "websocket": (url) =>
    new Promise((resolve) => {
      const socket = new WebSocket(url.replace("http:", "ws:"));
      socket.onopen = () => resolve("open");
      socket.onerror = () => resolve(null);
    }),
  "worker": worker,
  "window": async (url) => {
    open(url);
    return null;
  },
};

const patience = new Promise((resolve) => setTimeout(() => resolve(null), plan.patience));

const attempt = async (target, way) => {
  const name = `${target}/${way}`;
  const url = `${plan.targets[target]}/${plan.as}/${name}`;
  let read = null;
  try {
    read = await Promise.race([ways[way](url), patience]);
  } catch {}
  return { name, read };
};

const report = async () => {
  const attempts = [];
  for (const target of Object.keys(plan.targets)) {
    for (const way of Object.keys(ways)) {
      attempts.push(attempt(target, way));
    }
  }
  const body = JSON.stringify(await Promise.all(attempts));
  const next = await fetch(`${plan.home}/report?${plan.as}`, { method: "POST", body });
  location = await next.text();
};

fetch(`${plan.home}/begun?${plan.as}`).then(report);
