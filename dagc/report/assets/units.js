// Numbers for people, as dagc/report/units.py writes them.

const UNITS = [["ns", 1], ["\u00b5s", 1e3], ["ms", 1e6], ["s", 1e9]];

function threeDigits(value) {
  const size = Math.abs(value);
  const digits = size < 9.995 ? 2 : size < 99.95 ? 1 : 0;
  return value.toFixed(digits).replace("-", "\u2212");
}

/** Nanoseconds as "12.3 us", with a real micro sign. */
function duration(ns) {
  if (ns === 0) return "0 s";
  const [unit, size] = UNITS.find(([unit, size]) => Math.abs(ns) / size < 999.5) ?? UNITS[3];
  return size === 1 ? `${Math.round(ns)} ns` : `${threeDigits(ns / size)} ${unit}`;
}

/** Times on an axis whose ticks are `step` ns apart: all in one unit, with just the digits that tell them apart. */
function axisLabel(ns, step, largest) {
  const [unit, size] = [...UNITS].reverse().find(([, size]) => largest >= size) ?? UNITS[0];
  const digits = Math.max(0, -Math.floor(Math.log10(step / size) + 1e-9));
  return `${(ns / size).toFixed(digits)} ${unit}`;
}

/** A point in time, to the microsecond: two of them are compared. */
const moment = (ns) => `${(ns / 1e6).toLocaleString("en-US", { minimumFractionDigits: 3, maximumFractionDigits: 3 })} ms`;

const percent = (share) => `${(100 * share).toFixed(share < 0.9995 && share > 0 ? 1 : 0)} %`;
const grouped = (number) => number.toLocaleString("en-US");
