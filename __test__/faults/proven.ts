// Tests with a negative control: each runs as it is and has to pass, and again with the defence that
// it is about turned off, and has to fail.
import { createRequire } from 'node:module';
import path from 'node:path';
import { describe, expect, onTestFinished, test } from 'vitest';

/** The names of `src/failpoints/defences.rs`. */
export type Failpoint =
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
  | 'merging'
  | 'settling'
  | 'reaping'
  | 'renewing'
  | 'call-panic'
  | 'checks'
  | 'adopting'
  | 'not-found'
  | 'ending'
  | 'panics'
  | 'certificates'
  | 'limits'
  | 'drain-panic'
  | 'undelivered'
  | 'task-panic';

/**
 * What the test itself leaves out in its control, without a failpoint of the addon. `disk`: the server
 * writes none. `exit`: the program does not end. `guard`: the one around handlers (js/). `panic`: there is
 * none. `freeing`, `may-publish`: a piece of the Lua scripts, which a proxy takes out (`scripts.ts`).
 */
export type Own = 'disk' | 'exit' | 'guard' | 'panic' | 'freeing' | 'may-publish';

const OWN: readonly string[] = [
  'disk',
  'exit',
  'guard',
  'panic',
  'freeing',
  'may-publish',
] satisfies Own[];

function isOwn(name: Failpoint | Own): name is Own {
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

/** Turns defences off in this process by their failpoints; all others are on. */
export function turnOff(...failpoints: Failpoint[]): void {
  const load = createRequire(import.meta.url);
  const addon = load(path.resolve(import.meta.dirname, '../../binding/binding.js'));
  addon.testDefencesOff(failpoints);
}

/** The environment for a child process in which defences are off. */
export function environmentWithout(...names: (Failpoint | Own)[]): Record<string, string> {
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
  without: Failpoint | Own;
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
  body: (off: readonly (Failpoint | Own)[]) => Promise<void>,
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
