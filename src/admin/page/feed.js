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
        this.handle(kind, data.join("\n"));
      }
    }
  }
}

/** Follows what happens, for as long as the page is there or until `stop`. */
export class Feed {
  /**
   * `handlers`: `state(word)`, one function for each kind of event, and `broken(what, error)`, which
   * is told what one of them failed with; `error` is null when it works.
   */
  constructor(handlers) {
    this.handlers = handlers;
    this.attempts = 0;
    this.running = false;
  }

  /** Hands over what came. A mistake in showing it does not end the stream. */
  handle(kind, data) {
    try {
      this.handlers[kind]?.(typeof data === "string" ? JSON.parse(data) : data);
      this.handlers.broken(`event ${kind}`, null);
    } catch (error) {
      this.handlers.broken(`event ${kind}`, error);
    }
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
    // What still ends of this run is nothing to the next.
    this.abort?.abort();
    this.abort = null;
    clearTimeout(this.timer);
  }

  async follow() {
    const abort = this.abort = new AbortController();
    try {
      await this.stream(abort);
      this.again(abort);
    } catch (error) {
      if (this.abort !== abort) {
        return;
      }
      if (error instanceof Failed && error.status === 401) {
        this.running = false;
      } else if (error instanceof Failed && error.status === 503) {
        await this.poll(abort);
      } else {
        this.again(abort);
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
      const parser = new Parser((kind, data) => {
        if (kind === "status") {
          this.attempts = 0;
          this.handlers.state("live");
        }
        this.handle(kind, data);
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

  again(abort) {
    if (!this.running || this.abort !== abort) {
      return;
    }
    this.handlers.state("reconnecting");
    const pause = PAUSES_MS[Math.min(this.attempts, PAUSES_MS.length - 1)];
    this.attempts += 1;
    // Not all at once after a restart.
    this.timer = setTimeout(() => this.follow(), pause * (0.75 + Math.random() / 2));
  }

  /** The status alone, and another attempt to follow each time. */
  async poll(abort) {
    try {
      const status = await read("api/status");
      if (this.abort !== abort) {
        return;
      }
      this.handle("status", status);
      this.handlers.state("polling");
      if (this.running) {
        this.timer = setTimeout(() => this.follow(), POLL_MS);
      }
    } catch (error) {
      if (this.abort === abort && error instanceof Failed && error.status === 401) {
        this.running = false;
      } else {
        this.again(abort);
      }
    }
  }
}
