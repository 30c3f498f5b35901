// Formats measurements for the log; docs/internals/fault-tests.md repeats them.

/** Milliseconds: the median, the maximum, and the number of values. */
export function spread(times: readonly number[]): string {
  const sorted = times.toSorted((a, b) => a - b);
  const median = sorted[Math.floor(sorted.length / 2)] ?? Number.NaN;
  return `median ${Math.round(median)} ms, most ${Math.round(sorted.at(-1) ?? Number.NaN)} ms of ${sorted.length}`;
}

const BLOCKS = 12;

/**
 * The slope per hour of a line through the points, and its standard error. Measurements within
 * seconds depend on each other, so the line uses means of neighbouring points.
 */
export function slope(points: readonly (readonly [ms: number, value: number])[]): {
  perHour: number;
  error: number;
} {
  const size = Math.max(1, Math.floor(points.length / BLOCKS));
  const means: [number, number][] = [];
  for (let at = 0; at + size <= points.length; at += size) {
    const block = points.slice(at, at + size);
    means.push([mean(block.map(([ms]) => ms)), mean(block.map(([, value]) => value))]);
  }
  const [x, y] = [mean(means.map(([ms]) => ms)), mean(means.map(([, value]) => value))];
  const square = sum(means.map(([ms]) => (ms - x) ** 2));
  const along = sum(means.map(([ms, value]) => (ms - x) * (value - y))) / square;
  const rest = sum(means.map(([ms, value]) => (value - y - along * (ms - x)) ** 2));
  const error = Math.sqrt(rest / (means.length - 2) / square);
  return { perHour: along * 3600_000, error: error * 3600_000 };
}

function sum(of: number[]): number {
  return of.reduce((total, one) => total + one, 0);
}

function mean(of: number[]): number {
  return sum(of) / of.length;
}
