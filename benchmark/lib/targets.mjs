// Performance targets as rows of the summary: target, measured value, met or not.

export const times = (value) => `${number(value)} ×`;
export const micros = (value) => `${number(value)} µs`;
export const percent = (value) => `${number(value * 100)} %`;
export const bytes = (value) => `${grouped(Math.round(value))} bytes`;
export const megabytes = (value) => `${value.toFixed(2)} MB`;
/** A ratio below one, as `1/30`. */
export const part = (value) => (value < 0.5001 ? `1/${number(1 / value)}` : times(value));

/** A whole number in groups of three digits. */
export function grouped(value) {
  return value.toLocaleString('en').replaceAll(',', ' ');
}

export function number(value) {
  if (!Number.isFinite(value)) return '–';
  const size = Math.abs(value);
  if (size >= 1000) return grouped(Math.round(value));
  return value.toFixed(size >= 100 ? 0 : size >= 10 ? 1 : 2);
}

/**
 * @param {string} item short identifier of the target
 * @param {string} what the measured quantity
 */
export function atLeast(item, what, target, value, show) {
  return row(item, what, `≥ ${plain(show(target))}`, value, show, value >= target);
}

export function atMost(item, what, target, value, show) {
  return row(item, what, `≤ ${plain(show(target))}`, value, show, value <= target);
}

/** Targets are round numbers. */
const plain = (text) => text.replace(/\.0+\b/, '').replace(/(\.\d*[1-9])0+\b/, '$1');

function row(item, what, target, value, show, met) {
  return { item, what, target, measured: show(value), value, met };
}
