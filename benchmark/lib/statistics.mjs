// Medians and percentiles.

export function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

/** The median of each numeric field, of records of the same shape; other fields are omitted. */
export function medians(records) {
  const numbers = Object.keys(records[0]).filter((key) => typeof records[0][key] === 'number');
  return Object.fromEntries(numbers.map((key) => [key, median(records.map((r) => r[key]))]));
}

/**
 * Compares a number of two subjects: the median of the ratios of each round. A disturbance in a
 * round affects both subjects.
 */
export function ratio(these, those, key) {
  return median(these.map((record, round) => record[key] / those[round][key]));
}

/** Collects samples; space for the maximum number is allocated in advance. */
export class Samples {
  #values;
  #count = 0;

  constructor(most = 1 << 20) {
    this.#values = new Float64Array(most);
  }

  add(value) {
    // When the buffer is full, the oldest samples are overwritten.
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
