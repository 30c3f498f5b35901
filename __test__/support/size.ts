// The size of tests with a number of steps: `npm test` runs their short form, `npm run test:more`
// their long form (ROLLCALL_LONG=1).

const LONG = process.env.ROLLCALL_LONG === '1';

/** A size for the short form, and another for the long form. Include it in the test's title. */
export function size(short: number, long: number): number {
  return LONG ? long : short;
}
