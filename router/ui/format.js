// Numbers and times as people read them. What is not known is a dash, never a zero.

export const NOTHING = "–";
const known = (value) => value !== null && value !== undefined && Number.isFinite(value);

export function duration(seconds) {
  if (!known(seconds)) return NOTHING;
  if (seconds < 0.0005) return `${Math.round(seconds * 1e6)} µs`;
  if (seconds < 0.01) return `${(seconds * 1e3).toFixed(1)} ms`;
  if (seconds < 0.9995) return `${Math.round(seconds * 1e3)} ms`;
  if (seconds < 10) return `${seconds.toFixed(2)} s`;
  if (seconds < 60) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
}

export const percent = (part) =>
  !known(part) ? NOTHING : `${(part * 100).toFixed(part > 0 && part < 0.1 ? 1 : 0)}%`;

export const count = (value) => (known(value) ? value.toLocaleString("en-US") : NOTHING);

export const number = (value) =>
  !known(value) ? NOTHING : Number.isInteger(value) ? count(value) : String(Number(value.toPrecision(4)));

/** Of memory; 0 is what a server says that does not tell. */
export const bytes = (value) =>
  !value ? NOTHING : value < 1 << 30 ? `${number(Math.round(value / (1 << 20)))} MiB` : `${(value / (1 << 30)).toFixed(1)} GiB`;

const two = (value) => String(value).padStart(2, "0");

/** Local time of day of an RFC 3339 text; with the date where it is not today. */
export function clock(timestamp, now = new Date()) {
  const at = new Date(timestamp);
  if (Number.isNaN(at.getTime())) return NOTHING;
  const time = `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`;
  const today = at.toDateString() === now.toDateString();
  return today ? time : `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())} ${time}`;
}
