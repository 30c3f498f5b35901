// Medians and percentiles.

export function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

/** The medians, number by number, of records of the same shape; what is no number is left out. */
export function medians(records) {
  const numbers = Object.keys(records[0]).filter((key) => typeof records[0][key] === 'number');
  return Object.fromEntries(numbers.map((key) => [key, median(records.map((r) => r[key]))]));
}

/**
 * How a number of one subject compares with that of another: the median of the ratios round by
 * round, since what disturbs a round disturbs both.
 */
export function ratio(these, those, key) {
  return median(these.map((record, round) => record[key] / those[round][key]));
}

/** Collects samples; space for the most there can be is taken beforehand. */
export class Samples {
  #values;
  #count = 0;

  constructor(most = 1 << 20) {
    this.#values = new Float64Array(most);
  }

  add(value) {
    // Beyond its size the oldest are overwritten.
    this.#values[this.#count++ % this.#values.length] = value;
  }

  get count() {
    return Math.min(this.#count, this.#values.length);
  }

  /** @param {number} share in 0..1 */
  percentile(share) {
    const sorted = this.#values.slice(0, this.count).sort();
    return sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] ?? Number.NaN;
  }
}
