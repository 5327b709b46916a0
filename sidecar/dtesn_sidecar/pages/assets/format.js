// @ts-check
/** Numbers as words. What is null was not measured, and has words of its own: it is never shown as 0. */

export const NOT_MEASURED = "not measured yet";

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const one = new Intl.NumberFormat("en", { minimumFractionDigits: 1, maximumFractionDigits: 1 });
const two = new Intl.NumberFormat("en", { minimumFractionDigits: 2, maximumFractionDigits: 2 });

/**
 * Three digits that matter, or fewer.
 * @param {number} value
 */
function short(value) {
  const size = Math.abs(value);
  return size === 0 || size >= 99.95 ? whole.format(value) : size >= 9.995 ? one.format(value) : two.format(value);
}

/**
 * Seconds as an age.
 * @param {number} seconds
 */
export function age(seconds) {
  if (seconds < 0.0005) return "0 s";
  if (seconds < 0.9995) return `${whole.format(1000 * seconds)} ms`;
  if (seconds < 9.95) return `${one.format(seconds)} s`;
  if (seconds < 119.5) return `${whole.format(seconds)} s`;
  if (seconds < 7170) return `${whole.format(seconds / 60)} min`;
  return `${whole.format(seconds / 3600)} h`;
}

/** @type {Record<string, (value: number) => string>} */
export const FORMATS = {
  count: (value) => whole.format(value),
  rate: (value) => (value === 0 ? "0" : value >= 99.95 ? whole.format(value) : one.format(value)),
  size: (value) => one.format(value),
  ms: short,
  percent: (value) => `${whole.format(100 * value)} %`,
  percent1: (value) => `${one.format(100 * value)} %`,
  gain: (value) => `${value > 0.05 ? "+" : value < -0.05 ? "\u2212" : ""}${one.format(Math.abs(value))} %`,
  age,
};

/**
 * A value in words, or `none` where there is none.
 * @param {number | null | undefined} value
 * @param {string} format one of FORMATS
 * @param {string} [none]
 */
export function inWords(value, format, none = NOT_MEASURED) {
  return value === null || value === undefined ? none : FORMATS[format](value);
}
