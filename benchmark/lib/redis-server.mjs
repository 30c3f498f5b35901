// Starts a redis-server on a free port, without persistence. It ends with the run.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { createConnection, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';

/**
 * @param {string} program path of a redis-server
 * @param {Record<string, (string | number)[]>} [more] further settings
 * @returns {Promise<{ port: number, flush(): Promise<unknown>, stop(): void }>} `stop` is
 *   synchronous, so that it can run when the process is about to end.
 */
export async function startRedis(program, more = {}) {
  // Another process may have taken the port in the meantime.
  for (let attempt = 1; ; attempt++) {
    try {
      return await tryStart(program, await freePort(), more);
    } catch (error) {
      if (attempt === 3) throw error;
    }
  }
}

async function tryStart(program, port, more) {
  const folder = mkdtempSync(path.join(tmpdir(), 'rollcall-bench-'));
  const settings = {
    port: [port],
    bind: ['127.0.0.1'],
    dir: [folder],
    save: [''],
    appendonly: ['no'],
    databases: [64],
    loglevel: ['warning'],
    // A slow subscriber is measured, not disconnected.
    'client-output-buffer-limit': ['pubsub', 0, 0, 0],
    ...more,
  };
  const args = Object.entries(settings).flatMap(([name, values]) => [`--${name}`, ...values]);
  const child = spawn(program, args.map(String), {
    cwd: folder,
    stdio: ['ignore', 'ignore', 'inherit'],
    // Not in the terminal's process group: after Ctrl-C, the benchmark ends its clients first and
    // then stops the server.
    detached: true,
  });
  const stop = () => {
    child.kill('SIGKILL');
    rmSync(folder, { recursive: true, force: true });
  };
  const state = { gone: undefined };
  child.once('error', (error) => {
    state.gone = error;
  });
  child.once('exit', (code) => {
    state.gone = new Error(`redis-server ended with code ${code}`);
  });
  while (!(await answers(port))) {
    if (state.gone !== undefined) {
      stop();
      throw state.gone;
    }
  }
  return { port, stop, flush: () => ask(port, 'FLUSHALL') };
}

async function answers(port) {
  await new Promise((resolve) => setTimeout(resolve, 20));
  try {
    return (await ask(port, 'PING')) === '+PONG';
  } catch {
    return false;
  }
}

async function ask(port, command) {
  const socket = createConnection(port, '127.0.0.1');
  try {
    await once(socket, 'connect');
    socket.write(`${command}\r\n`);
    const [answer] = await once(socket, 'data');
    return answer.toString().trim();
  } finally {
    socket.destroy();
  }
}

/** A port that was free at the time of the call. */
export async function freePort() {
  const probe = createServer();
  probe.listen(0, '127.0.0.1');
  await once(probe, 'listening');
  const { port } = probe.address();
  probe.close();
  await once(probe, 'close');
  return port;
}
