// Starts and calls the measured processes. Each runs worker.mjs with one subject of one scenario.
import { fork } from 'node:child_process';
import { fileURLToPath } from 'node:url';

const program = fileURLToPath(new URL('../worker.mjs', import.meta.url));
const children = new Set();
let databases = 0;

/** Ends all worker processes; synchronous. */
export function killWorkers() {
  for (const child of children) child.kill('SIGKILL');
}

/**
 * @param {{ port: number, scenario: string, subject: string, options?: object }} what
 * @returns {Promise<{ subject: string, call(method: string, args?: object): Promise<any>, end(): Promise<void> }>}
 */
export async function startWorker({ port, scenario, subject, options = {} }) {
  const db = databases++ % 64;
  const child = fork(program, [JSON.stringify({ port, db, scenario, subject, options })], {
    // So that memory is measured after a garbage collection.
    execArgv: ['--expose-gc', ...(process.env.BENCH_NODE_FLAGS ?? '').split(' ').filter(Boolean)],
    // The main process handles Ctrl-C.
    detached: true,
  });
  children.add(child);
  const waiting = new Map();
  let calls = 0;
  const failAll = (error) => {
    for (const { reject } of waiting.values()) reject(error);
    waiting.clear();
  };
  const answer = () => {
    const number = calls++;
    return [number, new Promise((resolve, reject) => waiting.set(number, { resolve, reject }))];
  };
  const gone = new Promise((resolve) => {
    child.once('exit', (code, signal) => {
      children.delete(child);
      failAll(new Error(`${scenario}/${subject}: the process ended (${signal ?? `code ${code}`})`));
      resolve();
    });
  });
  child.on('message', ({ number, value, error }) => {
    const pending = waiting.get(number);
    waiting.delete(number);
    if (error === undefined) pending?.resolve(value);
    else pending?.reject(new Error(`${scenario}/${subject}: ${error}`));
  });
  const [, ready] = answer();
  await ready;
  return {
    subject,
    call(method, args = {}) {
      const [number, result] = answer();
      child.send({ number, method, args });
      return result;
    },
    async end() {
      if (child.connected) child.disconnect();
      const timer = setTimeout(() => child.kill('SIGKILL'), 3000);
      await gone;
      clearTimeout(timer);
    },
  };
}
