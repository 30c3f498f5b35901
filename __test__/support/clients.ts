// Clients for tests of the client itself: with a recorded log, and closed with the test.
import { type ClientOptions, type Logger, PresenceClient, RollcallError } from 'rollcall';
import { expect, onTestFinished } from 'vitest';

/** A client as JavaScript uses it: arguments are not type-checked. */
// biome-ignore lint/suspicious/noExplicitAny: tests put in what TypeScript would not let through
export type Untyped = any;

/** A logger that records its calls, one text for each. */
export function keepLog(): Logger & { readonly lines: string[] } {
  const lines: string[] = [];
  const keep =
    (level: string) =>
    (...args: unknown[]) => {
      lines.push([level, ...args.map((arg) => (arg instanceof Error ? arg.stack : arg))].join(' '));
    };
  return {
    lines,
    debug: keep('debug'),
    info: keep('info'),
    warn: keep('warn'),
    error: keep('error'),
  };
}

/** Connects; the client is closed when the test has finished. */
export async function openClient(target: string | ClientOptions): Promise<PresenceClient<Untyped>> {
  const options = typeof target === 'string' ? { url: target } : target;
  const client = await PresenceClient.connect<Untyped>({ logger: {}, ...options });
  onTestFinished(() => client.close());
  return client;
}

/**
 * The error with which a call rejects; a call that resolves, or throws synchronously, fails the
 * test.
 */
export async function rejection(call: () => Promise<unknown>): Promise<RollcallError> {
  const promise = call();
  expect(promise).toBeInstanceOf(Promise);
  const error = await promise.then(
    (value) => {
      throw new Error(`it resolved, to ${JSON.stringify(value)}`);
    },
    (reason: unknown) => reason,
  );
  expect(error).toBeInstanceOf(RollcallError);
  return error as RollcallError;
}

/** All texts of an error: message, stack, causes, properties. */
export function everythingIn(error: unknown): string {
  const parts: string[] = [];
  for (let at = error; at instanceof Error; at = at.cause) {
    const own = Object.getOwnPropertyNames(at).map((name) => `${name}=${Reflect.get(at, name)}`);
    parts.push(at.message, at.stack ?? '', ...own);
  }
  return parts.join('\n');
}
