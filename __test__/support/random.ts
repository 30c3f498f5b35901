// Repeatable randomness: every random choice of a test uses it. The seed is printed once per test
// file that uses it; ROLLCALL_SEED sets it.

const fromEnv = process.env.ROLLCALL_SEED;

/** The seed of this run, an unsigned 32-bit integer. */
export const seed = (fromEnv ? Number(fromEnv) : Math.floor(Math.random() * 2 ** 32)) >>> 0;

let announced = false;

export interface Random {
  /** In [0, 1). */
  next(): number;
  /** An integer in [min, max], both included. */
  int(min: number, max: number): number;
  /** `true` with the given probability. */
  chance(probability: number): boolean;
  /** One of the items. */
  pick<T>(items: readonly T[]): T;
  /** The items in random order; the given array is not changed. */
  shuffle<T>(items: readonly T[]): T[];
}

/** The seed, for other generators (fast-check). */
export function announcedSeed(): number {
  if (!announced) {
    announced = true;
    console.log(`ROLLCALL_SEED=${seed}`);
  }
  return seed;
}

/** A generator (mulberry32). Different values of `stream` give different sequences in one test. */
export function createRandom(stream = 0): Random {
  // An odd constant separates streams, so that neighbouring ones do not overlap.
  let state = (announcedSeed() + Math.imul(stream, 0x9e3779b1)) >>> 0;
  const next = () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
  const int = (min: number, max: number) => min + Math.floor(next() * (max - min + 1));
  return {
    next,
    int,
    chance: (probability) => next() < probability,
    pick: (items) => {
      if (items.length === 0) throw new RangeError('nothing to pick from');
      return items[int(0, items.length - 1)] as (typeof items)[number];
    },
    shuffle: (items) => {
      const copy = [...items];
      for (let i = copy.length - 1; i > 0; i--) {
        const j = int(0, i);
        [copy[i], copy[j]] = [copy[j] as (typeof copy)[number], copy[i] as (typeof copy)[number]];
      }
      return copy;
    },
  };
}
