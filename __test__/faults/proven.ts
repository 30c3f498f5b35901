// Tests with a negative control: each runs as it is and has to pass, and again with the defence that
// it is about turned off, and has to fail.
import { createRequire } from 'node:module';
import path from 'node:path';
import { describe, expect, onTestFinished, test } from 'vitest';

/** The names of `src/failpoints.rs`. */
export type Defence =
  | 'pings'
  | 'deadlines'
  | 'queue-timeout'
  | 'server-words'
  | 'reconnect'
  | 'moved'
  | 'replaced'
  | 'gaps-last'
  | 'moved-in-part'
  | 'gaps'
  | 'no-script'
  | 'once'
  | 'read-only'
  | 'forged'
  | 'event-bound'
  | 'isolation'
  | 'may-publish'
  | 'merging'
  | 'settling'
  | 'reaping'
  | 'renewing'
  | 'calm-at-once'
  | 'checks'
  | 'adopting'
  | 'not-found'
  | 'freeing'
  | 'ending'
  | 'panics'
  | 'certificates'
  | 'limits'
  | 'calm-drain'
  | 'undelivered'
  | 'calm';

/**
 * What is no defence of the addon: the test itself leaves it out in its control. `disk`: the server
 * writes none. `exit`: the program does not end. `guard`: that around handlers (js/). `panic`: there is
 * none.
 */
export type Own = 'disk' | 'exit' | 'guard' | 'panic';

const OWN: readonly string[] = ['disk', 'exit', 'guard', 'panic'] satisfies Own[];

function isOwn(name: Defence | Own): name is Own {
  return OWN.includes(name);
}

const FORM = process.env.ROLLCALL_FAULTS ?? 'short';
if (!['short', 'long', 'soak'].includes(FORM)) throw new Error(`ROLLCALL_FAULTS is ${FORM}`);

/** The soak alone, at its full length (`npm run test:soak`). */
export const SOAK = FORM === 'soak';

/** The long form (`npm run test:faults`): ten times as much of everything, and longer waits. */
export const LONG = SOAK || FORM === 'long';

/** One number for the short form, another for the long one. */
export function count(short: number, long: number): number {
  return LONG ? long : short;
}

/** Turns defences off in this process; all others are on. */
export function turnOff(...defences: Defence[]): void {
  const load = createRequire(import.meta.url);
  const addon = load(path.resolve(import.meta.dirname, '../../binding/binding.js'));
  addon.testDefencesOff(defences);
}

/** The environment for a child process in which defences are off. */
export function environmentWithout(...names: (Defence | Own)[]): Record<string, string> {
  return { ROLLCALL_TEST_DEFENCES_OFF: names.filter((name) => !isOwn(name)).join(',') };
}

/**
 * Catches what nobody catches, until the test has finished: without a defence, an exception can be
 * thrown where only the process itself sees it. That is how the fault shows then, and no failure of
 * the run.
 */
function catchStrays(): unknown[] {
  const strays: unknown[] = [];
  for (const event of ['uncaughtException', 'unhandledRejection'] as const) {
    const usual = process.listeners(event as 'uncaughtException');
    const keep = (reason: unknown) => void strays.push(reason);
    process.removeAllListeners(event);
    process.on(event, keep);
    onTestFinished(() => {
      process.off(event, keep);
      for (const listener of usual) process.on(event as 'uncaughtException', listener);
    });
  }
  return strays;
}

interface Control {
  /** What is turned off. */
  without: Defence | Own;
  /** A part of the message with which the test has to fail then. Any failure, unless told. */
  fails?: RegExp;
  timeoutMs?: number;
}

/**
 * A test, and its negative control. `body` is told whether it is the control, for what a switch in
 * this process does not reach: child processes.
 */
export function proven(
  name: string,
  { without, fails, timeoutMs = 120_000 }: Control,
  body: (off: readonly (Defence | Own)[]) => Promise<void>,
): void {
  describe(name, () => {
    test('holds', { timeout: timeoutMs }, () => body([]));

    test(`fails without: ${without}`, { timeout: timeoutMs }, async () => {
      // First, and so in force until everything that the test has opened is closed.
      const strays = catchStrays();
      onTestFinished(() => turnOff());
      if (!isOwn(without)) turnOff(without);
      const error = await body([without]).then(
        () => (strays.length > 0 ? new Error(`nobody caught: ${strays[0]}`) : undefined),
        (reason: unknown) => reason,
      );
      expect(error, `it holds without ${without}, so it shows nothing`).toBeInstanceOf(Error);
      // A mistake in the test is no proof.
      for (const mistake of [TypeError, ReferenceError, SyntaxError]) {
        expect(error).not.toBeInstanceOf(mistake);
      }
      const [how = ''] = (error as Error).message.split('\n');
      console.log(`without ${without}: ${how}`);
      if (fails) expect((error as Error).message).toMatch(fails);
    });
  });
}
