// Numbers and times as people read them.

import { attribute, el, text } from "./dom.js";

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const tenth = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
const NOTHING = "–";

/** A number, with one decimal where it is small. */
export function number(value) {
  if (typeof value !== "number" || !Number.isFinite(value)) {
    return NOTHING;
  }
  return Math.abs(value) < 10 ? tenth.format(value) : whole.format(value);
}

/** A count of something. */
export function count(value, one, many) {
  return `${whole.format(value)} ${value === 1 ? one : many}`;
}

/** A share from 0 to 1 as per cent; what is not nothing is not called 0. */
export function percent(share) {
  if (typeof share !== "number") {
    return NOTHING;
  }
  const value = share * 100;
  if (value > 0 && value < 0.1) {
    return "< 0.1 %";
  }
  return `${value < 10 ? tenth.format(value) : whole.format(value)} %`;
}

/** Seconds in the two largest units that matter. */
export function duration(seconds) {
  if (typeof seconds !== "number") {
    return NOTHING;
  }
  const s = Math.max(0, seconds);
  if (s < 1) {
    return milliseconds(s * 1000);
  }
  if (s < 10) {
    return `${tenth.format(s)} s`;
  }
  const units = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];
  const total = Math.round(s);
  const first = units.findIndex(([, size]) => total >= size);
  const [name, size] = units[first];
  const count = Math.floor(total / size);
  const next = units[first + 1];
  const rest = next ? Math.floor((total % size) / next[1]) : 0;
  // Nobody reads the minutes of three days.
  return rest > 0 && count < 10 ? `${count} ${name} ${rest} ${next[0]}` : `${count} ${name}`;
}

/** How long until something: whole seconds, for it changes while one reads it. */
export function countdown(seconds) {
  return typeof seconds === "number" && seconds < 1 ? "a moment" : duration(Math.round(seconds));
}

/** Milliseconds, as exact as they are short. */
export function milliseconds(ms) {
  if (typeof ms !== "number") {
    return NOTHING;
  }
  if (ms >= 10000) {
    return duration(ms / 1000);
  }
  if (ms >= 1000) {
    return `${(ms / 1000).toFixed(1)} s`;
  }
  if (ms >= 10) {
    return `${Math.round(ms)} ms`;
  }
  if (ms >= 1) {
    return `${ms.toFixed(1)} ms`;
  }
  const us = Math.round(ms * 1000);
  return us > 0 ? `${us} µs` : "0 ms";
}

/** Seconds with a sign. */
export function signed(seconds) {
  if (typeof seconds !== "number") {
    return NOTHING;
  }
  const size = duration(Math.abs(seconds));
  return Math.abs(seconds) < 0.001 ? "none" : `${size} ${seconds > 0 ? "ahead" : "behind"}`;
}

function pad(value, digits = 2) {
  return String(value).padStart(digits, "0");
}

/** The time of day, with milliseconds if they are wanted. */
export function clock(date, fine = false) {
  const base = `${pad(date.getHours())}:${pad(date.getMinutes())}:${pad(date.getSeconds())}`;
  return fine ? `${base}.${pad(date.getMilliseconds(), 3)}` : base;
}

/** Date and time. */
export function exact(date) {
  const day = `${date.getFullYear()}-${pad(date.getMonth() + 1)}-${pad(date.getDate())}`;
  return `${day} ${clock(date)}`;
}

/** The time of day, and the date where it is not today. */
export function clockOrDate(date, fine = false) {
  const today = new Date().toDateString() === date.toDateString();
  return today ? clock(date, fine) : `${exact(date).slice(0, 10)} ${clock(date, fine)}`;
}

/** A date that can be shown, whatever number came. */
export function dateOf(ms) {
  const furthest = 8.64e15;
  const number = Number(ms);
  return new Date(Number.isNaN(number) ? 0 : Math.max(-furthest, Math.min(furthest, number)));
}

/** The same with a capital letter, unless a name begins it, and an end. */
export function sentence(words) {
  if (!words) {
    return "";
  }
  const named = /^[\w-]+: /.test(words) || words.startsWith("countersign ");
  const first = named ? words : words[0].toUpperCase() + words.slice(1);
  return /[.!?…]$/.test(first) ? first : `${first}.`;
}

/** Puts into `node`, a time element, how long ago or ahead something is, and exactly when. */
export function when(node, seconds, words) {
  const date = dateOf(Date.now() + seconds * 1000);
  // To the second, so that it does not change with every look.
  date.setMilliseconds(0);
  attribute(node, "datetime", date.toISOString());
  attribute(node, "title", exact(date));
  text(node, words(duration(Math.abs(seconds))));
}

/** A new time element for that. */
export function time(seconds, words) {
  const node = el("time");
  when(node, seconds, words);
  return node;
}
