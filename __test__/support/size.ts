// The size of tests that are a number of steps: `npm test` runs their short form, `npm run
// test:more` their long one (ROLLCALL_LONG=1).

const LONG = process.env.ROLLCALL_LONG === '1';

/** One size for the short form, another for the long one. Put it into the test's title. */
export function size(short: number, long: number): number {
  return LONG ? long : short;
}
