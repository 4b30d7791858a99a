// How numbers, times and ids are written: grouped digits, UTC, a dash for what is unknown.
export const UNKNOWN = "–";

const INTEGERS = new Intl.NumberFormat("en");
const SHORT = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
const PERCENT = new Intl.NumberFormat("en", { style: "percent", maximumFractionDigits: 1 });

const isUnknown = (value) => value === undefined || value === null;

/** A whole number; positions beyond 2^53 come as text. */
export function count(value) {
  if (isUnknown(value)) return UNKNOWN;
  return INTEGERS.format(typeof value === "string" ? BigInt(value) : Math.round(value));
}

export function decimal(value) {
  if (isUnknown(value)) return UNKNOWN;
  return Math.abs(value) >= 100 ? INTEGERS.format(Math.round(value)) : SHORT.format(value);
}

export const percent = (ratio) => (isUnknown(ratio) ? UNKNOWN : PERCENT.format(ratio));

/** "1 event", "2 events". */
export const plural = (value, noun, nouns = `${noun}s`) => `${count(value)} ${Number(value) === 1 ? noun : nouns}`;

/** A duration: "0.4 s", "12 s", "4 min 10 s", "2 h 5 min", "3 d 4 h". */
export function duration(seconds) {
  if (isUnknown(seconds)) return UNKNOWN;
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return joined(Math.floor(whole / 60), "min", whole % 60, "s");
  const minutes = Math.round(whole / 60);
  if (minutes < 1440) return joined(Math.floor(minutes / 60), "h", minutes % 60, "min");
  return joined(Math.floor(minutes / 1440), "d", Math.floor((minutes % 1440) / 60), "h");
}

const joined = (large, unit, small, smallUnit) => (small === 0 ? `${large} ${unit}` : `${large} ${unit} ${small} ${smallUnit}`);

const MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
const two = (value) => String(value).padStart(2, "0");

/** A time in UTC, "24 Nov 2026, 20:00:42"; the year only if it is not this year. */
export function moment(text) {
  const time = new Date(text);
  if (isUnknown(text) || Number.isNaN(time.getTime())) return UNKNOWN;
  const year = time.getUTCFullYear() === new Date().getUTCFullYear() ? "" : ` ${time.getUTCFullYear()}`;
  return `${time.getUTCDate()} ${MONTHS[time.getUTCMonth()]}${year}, ${clock(time)}`;
}

export const clock = (time) => `${two(time.getUTCHours())}:${two(time.getUTCMinutes())}:${two(time.getUTCSeconds())}`;

/** How long ago: "12 s ago". */
export function ago(text, now = Date.now()) {
  if (isUnknown(text)) return UNKNOWN;
  const seconds = (now - new Date(text).getTime()) / 1000;
  if (seconds < 1) return "just now";
  return `${duration(seconds < 10 ? Math.floor(seconds) : seconds).replace(".0", "")} ago`;
}

export const shortId = (id) => (id && id.length > 13 ? `${id.slice(0, 8)}…` : id);

const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/;
export const isUuid = (text) => UUID.test(text);

/** A word of the API as people write it: "target_removed" → "target removed". */
export const words = (code) => (isUnknown(code) ? UNKNOWN : String(code).replaceAll("_", " "));

export const capitalised = (text) => text.charAt(0).toUpperCase() + text.slice(1);
