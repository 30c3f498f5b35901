// Child processes of tests: Node.js programs that talk to the test by IPC, and a guard that ends
// every child (including Redis servers) when the test's process ends for any reason.
import { type ChildProcess, fork, type Serializable } from 'node:child_process';
import { existsSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { constants } from 'node:os';
import path from 'node:path';
import { deferred, eventually, within } from './wait.js';

const children = new Set<ChildProcess>();
const folders = new Set<string>();

process.once('exit', () => {
  // SIGKILL: the test cannot wait for a regular end any more, and a stopped process handles no
  // other signal.
  for (const child of children) child.kill('SIGKILL');
  for (const folder of folders) rmSync(folder, { recursive: true, force: true });
});
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
  process.once(signal, () => process.exit(128 + constants.signals[signal]));
}

/** Ends `child` together with this process, unless it has ended before. */
export function endWithProcess(child: ChildProcess): void {
  children.add(child);
  child.once('exit', () => children.delete(child));
}

/** Removes `folder` when this process ends; returns a function that removes it at once. */
export function removeWithProcess(folder: string): () => void {
  folders.add(folder);
  return () => {
    rmSync(folder, { recursive: true, force: true });
    folders.delete(folder);
  };
}

/** Starts a server or a group of servers; ends it if the start fails. */
export async function started<Server extends AsyncDisposable & { start(): Promise<void> }>(
  server: Server,
): Promise<Server> {
  try {
    await server.start();
  } catch (error) {
    await server[Symbol.asyncDispose]();
    throw error;
  }
  return server;
}

export interface Exit {
  code: number | null;
  signal: NodeJS.Signals | null;
}

export interface FixtureOptions {
  args?: string[];
  /** Added to this process's environment. */
  env?: Record<string, string>;
  /** Options for Node.js itself. */
  execArgv?: string[];
}

/** A running Node.js program. Its messages are of the type `M`. */
export interface Fixture<M = unknown> extends AsyncDisposable {
  readonly pid: number;
  /** Resolves when it has ended. */
  readonly exited: Promise<Exit>;
  /** All messages so far, in order. */
  readonly messages: readonly M[];
  /** The output so far. */
  readonly stdout: string;
  readonly stderr: string;
  send(message: Serializable): void;
  /**
   * The first matching message, sent before or after this call. Rejects if the program ends first.
   */
  message<T extends M>(fits: (message: M) => message is T, timeoutMs?: number): Promise<T>;
  message(fits: (message: M) => boolean, timeoutMs?: number): Promise<M>;
  /** Sends the signal (default SIGKILL) and waits for the end. */
  kill(signal?: NodeJS.Signals): Promise<Exit>;
}

/**
 * Starts a plain Node.js program (`.mjs` or `.cjs`) with an IPC channel: its `process.send()`
 * arrives here. A relative path starts at `__test__/`.
 */
export function startFixture<M = unknown>(
  file: string,
  { args = [], env = {}, execArgv = [] }: FixtureOptions = {},
): Fixture<M> {
  const child = fork(path.resolve(import.meta.dirname, '..', file), args, {
    env: { ...process.env, ...env },
    execArgv,
    // Structured clone, because JSON would change values that tests compare.
    serialization: 'advanced',
    silent: true,
  });
  endWithProcess(child);

  const messages: M[] = [];
  const listeners = new Set<() => void>();
  const printed = { stdout: '', stderr: '' };
  const exit = deferred<Exit>();
  let end: Exit | undefined;
  const notify = () => {
    for (const listener of [...listeners]) listener();
  };
  for (const name of ['stdout', 'stderr'] as const) {
    child[name]?.setEncoding('utf8').on('data', (text: string) => {
      printed[name] += text;
    });
  }
  child.on('message', (message) => {
    messages.push(message as M);
    notify();
  });
  child.on('error', (error) => {
    printed.stderr += String(error);
  });
  // 'close' comes after the last output, 'exit' may come before it.
  child.once('close', (code, signal) => {
    end = { code, signal };
    exit.resolve(end);
    notify();
  });

  const message = (fits: (message: M) => boolean, timeoutMs = 10_000): Promise<M> => {
    const found = deferred<M>();
    const check = () => {
      const match = messages.find(fits);
      if (match !== undefined) found.resolve(match);
      else if (end) {
        const how = end.signal ?? `code ${end.code}`;
        found.reject(new Error(`${file} ended (${how}) without it:\n${printed.stderr}`));
      }
    };
    listeners.add(check);
    check();
    return within(found.promise, timeoutMs, `a message from ${file}`).finally(() =>
      listeners.delete(check),
    );
  };
  const kill = async (signal: NodeJS.Signals = 'SIGKILL') => {
    if (!end) child.kill(signal);
    return exit.promise;
  };

  return {
    pid: child.pid ?? -1,
    exited: exit.promise,
    messages,
    get stdout() {
      return printed.stdout;
    },
    get stderr() {
      return printed.stderr;
    },
    send: (outgoing) => {
      child.send(outgoing);
    },
    message: message as Fixture<M>['message'],
    kill,
    [Symbol.asyncDispose]: async () => {
      await kill();
    },
  };
}

/**
 * A process that waits for a processor is not stopped at once; until then its other threads run.
 */
export async function untilStopped(pid: number): Promise<void> {
  const threads = `/proc/${pid}/task`;
  if (!existsSync(threads)) return;
  await eventually(
    () => {
      for (const thread of readdirSync(threads)) {
        if (!/\) T /.test(readFileSync(`${threads}/${thread}/stat`, 'latin1'))) return false;
      }
      return true;
    },
    { intervalMs: 1 },
  );
}
