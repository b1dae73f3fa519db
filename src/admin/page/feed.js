// What happens, as it happens. Not by EventSource, which cannot send a token.

import { Failed, ask, read } from "./api.js";

/** A status comes every two seconds; without one for so long the connection is taken for dead. */
const SILENCE_MS = 10_000;
const PAUSES_MS = [500, 1_000, 2_000, 4_000, 8_000];
/** How often the status is asked for where there is no room for another stream. */
const POLL_MS = 5_000;

/** Takes events out of pieces of a stream. */
export class Parser {
  constructor(handle) {
    this.handle = handle;
    this.rest = "";
  }

  add(piece) {
    this.rest += piece;
    for (;;) {
      const end = this.rest.indexOf("\n\n");
      if (end < 0) {
        return;
      }
      const block = this.rest.slice(0, end);
      this.rest = this.rest.slice(end + 2);
      let kind = "message";
      const data = [];
      for (const line of block.split("\n")) {
        if (line.startsWith("event:")) {
          kind = line.slice(6).trim();
        } else if (line.startsWith("data:")) {
          data.push(line.slice(5).trimStart());
        }
      }
      if (data.length > 0) {
        this.handle(kind, JSON.parse(data.join("\n")));
      }
    }
  }
}

/** Follows what happens, for as long as the page is there or until `stop`. */
export class Feed {
  /** `handlers`: `state(word)`, and one function for each kind of event. */
  constructor(handlers) {
    this.handlers = handlers;
    this.attempts = 0;
    this.running = false;
  }

  start() {
    if (!this.running) {
      this.running = true;
      this.attempts = 0;
      this.follow();
    }
  }

  stop() {
    this.running = false;
    this.abort?.abort();
    clearTimeout(this.timer);
  }

  async follow() {
    this.abort = new AbortController();
    try {
      await this.stream(this.abort);
      this.again();
    } catch (error) {
      if (error instanceof Failed && error.status === 401) {
        this.running = false;
      } else if (error instanceof Failed && error.status === 503) {
        await this.poll();
      } else {
        this.again();
      }
    }
  }

  async stream(abort) {
    let silence;
    const heard = () => {
      clearTimeout(silence);
      silence = setTimeout(() => abort.abort(), SILENCE_MS);
    };
    heard();
    try {
      const answer = await ask("api/events", { signal: abort.signal });
      if (!answer.ok || !answer.body) {
        throw new Failed(answer.status, (await answer.text()).trim());
      }
      const parser = new Parser((kind, value) => {
        if (kind === "status") {
          this.attempts = 0;
          this.handlers.state("live");
        }
        this.handlers[kind]?.(value);
      });
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      for (;;) {
        const { value, done } = await reader.read();
        if (done) {
          return;
        }
        heard();
        parser.add(value);
      }
    } finally {
      clearTimeout(silence);
      abort.abort();
    }
  }

  again() {
    if (!this.running) {
      return;
    }
    this.handlers.state("reconnecting");
    const pause = PAUSES_MS[Math.min(this.attempts, PAUSES_MS.length - 1)];
    this.attempts += 1;
    // Not all at once after a restart.
    this.timer = setTimeout(() => this.follow(), pause * (0.75 + Math.random() / 2));
  }

  /** The status alone, and another attempt to follow each time. */
  async poll() {
    try {
      this.handlers.status(await read("api/status"));
      this.handlers.state("polling");
      if (this.running) {
        this.timer = setTimeout(() => this.follow(), POLL_MS);
      }
    } catch (error) {
      if (error instanceof Failed && error.status === 401) {
        this.running = false;
      } else {
        this.again();
      }
    }
  }
}
