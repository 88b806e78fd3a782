// Texts for numbers and times. All times are in UTC, like those of the logs.

const whole = new Intl.NumberFormat("en-US");
const short = new Intl.NumberFormat("en-US", { notation: "compact", maximumFractionDigits: 1 });

export function count(number) {
  return whole.format(Math.round(number));
}

export function compact(number) {
  return number < 10_000 ? count(number) : short.format(number);
}

// For places with little room.
export function brief(number) {
  return number < 1000 ? count(number) : short.format(number);
}

export function rate(perSecond) {
  if (perSecond === 0) return "0/s";
  return `${perSecond < 10 ? perSecond.toFixed(1) : compact(perSecond)}/s`;
}

export function duration(seconds) {
  if (seconds < 0.9995) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 60) return `${seconds < 10 ? seconds.toFixed(1) : Math.round(seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 172_800) return `${Math.floor(seconds / 3600)} h`;
  return `${Math.floor(seconds / 86_400)} days`;
}

export function day(time) {
  return new Date(time).toISOString().slice(0, 10);
}

export function clock(time, milliseconds = false) {
  return new Date(time).toISOString().slice(11, milliseconds ? 23 : 19);
}

export function dateTime(time) {
  return time ? `${day(time)} ${clock(time)} UTC` : "–";
}

export function plural(number, singular) {
  return `${count(number)} ${singular}${number === 1 ? "" : "s"}`;
}

// The value of an input of type datetime-local, which has no zone, as a time in UTC; null if it is empty.
export function fromInput(value) {
  return value ? new Date(`${value}Z`).toISOString() : null;
}
