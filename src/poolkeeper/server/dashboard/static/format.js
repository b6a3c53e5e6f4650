// Numbers and times as people read them.

const EM_DASH = "—";

/** A duration that was measured: three digits at most, from microseconds to days. */
export function duration(seconds) {
  if (seconds === null || seconds === undefined) return EM_DASH;
  if (seconds <= 0) return "0 s";
  if (seconds < 0.001) return `${digits(seconds * 1e6)} µs`;
  if (seconds < 0.9995) return `${digits(seconds * 1000)} ms`;
  if (seconds < 60) return `${digits(seconds)} s`;
  return age(seconds);
}

/** How long something has been going on: whole seconds, so that it does not flicker. */
export function age(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  if (whole < 86400) return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
  return `${Math.floor(whole / 86400)} d ${Math.floor((whole % 86400) / 3600)} h`;
}

function digits(value) {
  if (value < 9.95) return String(Math.round(value * 10) / 10);
  return String(Math.round(value));
}

export function rate(perSecond) {
  if (perSecond === null || perSecond === undefined) return EM_DASH;
  if (perSecond > 0 && perSecond < 0.095) return "<0.1";
  return perSecond < 9.95 ? String(Math.round(perSecond * 10) / 10) : count(perSecond);
}

export function count(value) {
  if (value === null || value === undefined) return EM_DASH;
  return Math.round(value).toLocaleString("en");
}

export function plural(value, one, many = `${one}s`) {
  return `${count(value)} ${value === 1 ? one : many}`;
}

const two = (value) => String(value).padStart(2, "0");

/** The time of day here; with the date where that is another day. */
export function clock(unixSeconds) {
  const date = new Date(unixSeconds * 1000);
  const time = `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
  if (date.toDateString() === new Date().toDateString()) return time;
  return `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())} ${time}`;
}

export function iso(unixSeconds) {
  return new Date(unixSeconds * 1000).toISOString();
}
