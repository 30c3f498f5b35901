// Runs other programs: every script of this folder starts its children here, so that no child
// outlives the script that started it.
import { spawn, spawnSync } from 'node:child_process';
import { constants } from 'node:os';
import { root } from './paths.mjs';

/** A failure whose message tells the user what to do; shown without a stack trace. */
export class SetupError extends Error {}

/** @type {Set<import('node:child_process').ChildProcess>} */
const running = new Set();
/** @type {Set<() => void>} */
const interruptHandlers = new Set();
let interrupted = false;

/** Registers a synchronous clean-up for an interruption of the script. */
export function onInterrupt(handler) {
  interruptHandlers.add(handler);
}

for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) {
  process.on(signal, () => interrupt(signal));
}

// npm starts this script through a shell. A signal that ends npm ends the shell but does not reach
// this process: it only sees a new parent.
const parent = process.ppid;
if (process.env.npm_lifecycle_event !== undefined) {
  setInterval(() => process.ppid !== parent && interrupt('SIGTERM'), 1000).unref();
}

function interrupt(signal) {
  if (interrupted) return;
  interrupted = true;
  // A terminal's Ctrl-C has already reached the children; a second signal could mean "at once,
  // without cleaning up".
  const fromTerminal = signal === 'SIGINT' && process.stdin.isTTY;
  for (const child of running) if (!fromTerminal) child.kill(signal);
  const finish = () => {
    for (const child of running) child.kill('SIGKILL');
    for (const handler of interruptHandlers) handler();
    process.exit(128 + constants.signals[signal]);
  };
  setTimeout(finish, 5000);
  for (const child of running) child.once('exit', () => running.size === 0 && finish());
  if (running.size === 0) finish();
}

/**
 * Runs a program to its end, and shows its output.
 *
 * @param {string} command
 * @param {string[]} args
 * @param {{ env?: Record<string, string | undefined>, capture?: boolean, output?: number,
 *   timeoutMs?: number }} [options] `env` is added to this process's environment; `capture` also
 *   collects the output; `output` is a file that receives the output instead; after `timeoutMs` the
 *   program is asked to end, and it is killed 15 s later.
 * @returns {Promise<{ code: number, output: string }>} After a signal, `code` is the one that a
 * shell would return.
 */
export function run(command, args, { env = {}, capture = false, output: file, timeoutMs } = {}) {
  return new Promise((resolve, reject) => {
    // The script is about to end, so it must not start anything.
    if (interrupted) return;
    const child = spawn(command, args, {
      cwd: root,
      env: { ...process.env, ...env },
      stdio: ['ignore', ...Array(2).fill(capture ? 'pipe' : (file ?? 'inherit'))],
    });
    running.add(child);
    const timers =
      timeoutMs === undefined
        ? []
        : [
            setTimeout(() => child.kill('SIGTERM'), timeoutMs),
            setTimeout(() => child.kill('SIGKILL'), timeoutMs + 15_000),
          ];
    let output = '';
    for (const name of capture ? ['stdout', 'stderr'] : []) {
      child[name].setEncoding('utf8').on('data', (text) => {
        output += text;
        process[name].write(text);
      });
    }
    child.on('error', (error) => {
      running.delete(child);
      reject(new SetupError(`${command} could not be started: ${error.message}`));
    });
    child.on('exit', (code, signal) => {
      running.delete(child);
      for (const timer of timers) clearTimeout(timer);
      if (interrupted) return;
      const done = () => resolve({ code: code ?? 128 + constants.signals[signal], output });
      // A grandchild that holds the pipe open must not delay this process.
      const timer = setTimeout(() => {
        child.stdout?.destroy();
        child.stderr?.destroy();
      }, 2000);
      child.on('close', () => {
        clearTimeout(timer);
        done();
      });
    });
  });
}

/** Like {@link run}, but a failure is a {@link SetupError}. */
export async function runOrThrow(what, command, args, options) {
  const { code } = await run(command, args, options);
  if (code !== 0) throw new SetupError(`${what} failed (exit code ${code}); see above.`);
}

/** The output of a program, or `undefined` if it cannot be run or fails. */
export function read(command, args) {
  const result = spawnSync(command, args, { cwd: root, encoding: 'utf8', stdio: 'pipe' });
  return result.status === 0 ? result.stdout.trim() : undefined;
}

/** Runs a script's main function: a SetupError becomes one line and exit code 1. */
export function main(body) {
  body().then(
    (code) => {
      process.exitCode = code ?? 0;
    },
    (error) => {
      console.error(error instanceof SetupError ? `rollcall: ${error.message}` : error);
      process.exitCode = 1;
    },
  );
}
