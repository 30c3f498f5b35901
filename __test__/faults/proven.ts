// Tests with a negative control: each runs unchanged and must pass. It then runs again with its
// defence turned off, and must fail.
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
 * Defences that the test itself removes in its control, without a failpoint of the addon. `disk`:
 * the server writes nothing to disk. `exit`: the program does not end. `guard`: the guard around
 * handlers (js/). `panic`: there is no panic. `freeing`, `may-publish`: a part of the Lua scripts,
 * which a proxy removes (`scripts.ts`).
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

/** Only the soak test, at its full length (`npm run test:soak`). */
export const SOAK = FORM === 'soak';

/** The long form (`npm run test:faults`): ten times as many repetitions, and longer waits. */
export const LONG = SOAK || FORM === 'long';

/** A number for the short form, and another for the long form. */
export function count(short: number, long: number): number {
  return LONG ? long : short;
}

/** Turns off defences in this process by their failpoints; all others are on. */
export function turnOff(...failpoints: Failpoint[]): void {
  const load = createRequire(import.meta.url);
  const addon = load(path.resolve(import.meta.dirname, '../../binding/binding.js'));
  addon.testDefencesOff(failpoints);
}

/** The environment for a child process in which defences are turned off. */
export function environmentWithout(...names: (Failpoint | Own)[]): Record<string, string> {
  return { ROLLCALL_TEST_DEFENCES_OFF: names.filter((name) => !isOwn(name)).join(',') };
}

/**
 * Catches unhandled exceptions and rejections until the test has finished: without a defence, an
 * exception can be thrown where only the process sees it. It then counts as the expected failure
 * and does not fail the run.
 */
function catchUncaught(): unknown[] {
  const uncaught: unknown[] = [];
  for (const event of ['uncaughtException', 'unhandledRejection'] as const) {
    const usual = process.listeners(event as 'uncaughtException');
    const keep = (reason: unknown) => void uncaught.push(reason);
    process.removeAllListeners(event);
    process.on(event, keep);
    onTestFinished(() => {
      process.off(event, keep);
      for (const listener of usual) process.on(event as 'uncaughtException', listener);
    });
  }
  return uncaught;
}

interface Control {
  /** The defence that is turned off. */
  without: Failpoint | Own;
  /** A part of the failure message in the control; by default, any failure counts. */
  fails?: RegExp;
  timeoutMs?: number;
}

/**
 * A test and its negative control. `body` gets the list of defences that are turned off, for child
 * processes, which a switch in this process does not affect.
 */
export function proven(
  name: string,
  { without, fails, timeoutMs = 120_000 }: Control,
  body: (off: readonly (Failpoint | Own)[]) => Promise<void>,
): void {
  describe(name, () => {
    test('holds', { timeout: timeoutMs }, () => body([]));

    test(`fails without: ${without}`, { timeout: timeoutMs }, async () => {
      // Registered first, so that it applies until everything that the test has opened is closed.
      const uncaught = catchUncaught();
      onTestFinished(() => turnOff());
      if (!isOwn(without)) turnOff(without);
      const error = await body([without]).then(
        () => (uncaught.length > 0 ? new Error(`uncaught: ${uncaught[0]}`) : undefined),
        (reason: unknown) => reason,
      );
      expect(error, `it holds without ${without}, so it shows nothing`).toBeInstanceOf(Error);
      // A mistake in the test proves nothing.
      for (const mistake of [TypeError, ReferenceError, SyntaxError]) {
        expect(error).not.toBeInstanceOf(mistake);
      }
      const [how = ''] = (error as Error).message.split('\n');
      console.log(`without ${without}: ${how}`);
      if (fails) expect((error as Error).message).toMatch(fails);
    });
  });
}
