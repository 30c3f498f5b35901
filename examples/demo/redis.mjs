// A redis-server of the demo's own: on a free port, in a temporary directory, gone with the demo.
import { spawn } from 'node:child_process';
import { accessSync, constants, mkdtempSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';

function findServer() {
  if (process.env.REDIS_SERVER_BIN) return process.env.REDIS_SERVER_BIN;
  return (process.env.PATH ?? '')
    .split(path.delimiter)
    .filter(Boolean)
    .flatMap((folder) => ['redis-server', 'valkey-server'].map((name) => path.join(folder, name)))
    .find((file) => {
      try {
        accessSync(file, constants.X_OK);
        return true;
      } catch {
        return false;
      }
    });
}

function freePort() {
  return new Promise((resolve, reject) => {
    const probe = createServer().once('error', reject);
    probe.listen(0, '127.0.0.1', () => {
      const { port } = probe.address();
      probe.close(() => resolve(port));
    });
  });
}

/** @returns {Promise<{ url: string, stop(): Promise<void> } | undefined>} */
export async function startRedis() {
  const program = findServer();
  if (program === undefined) return undefined;
  // A port that was free a moment ago may be taken by now.
  for (let attempt = 0; attempt < 3; attempt++) {
    const redis = await tryStart(program, await freePort());
    if (redis !== undefined) return redis;
  }
  return undefined;
}

async function tryStart(program, port) {
  const folder = mkdtempSync(path.join(tmpdir(), 'rollcall-demo-'));
  const settings = { port, bind: '127.0.0.1', dir: folder, save: '', appendonly: 'no' };
  const args = Object.entries(settings).flatMap(([name, value]) => [`--${name}`, `${value}`]);
  const child = spawn(program, args, {
    cwd: folder,
    stdio: ['ignore', 'pipe', 'ignore'],
    // Not in the terminal's group: Ctrl-C must reach the demo first, which then says good-bye.
    detached: true,
  });
  const gone = new Promise((resolve) => {
    child.once('exit', resolve);
    child.once('error', resolve);
  });
  const kill = () => {
    child.kill('SIGKILL');
    rmSync(folder, { recursive: true, force: true });
  };
  // For a demo that ends without cleaning up, by an error of its own.
  process.once('exit', kill);
  const stop = async () => {
    child.kill('SIGTERM');
    await gone;
    process.off('exit', kill);
    rmSync(folder, { recursive: true, force: true });
  };
  const ready = new Promise((resolve) => {
    let said = '';
    child.stdout?.setEncoding('utf8').on('data', (text) => {
      said += text;
      if (said.includes('Ready to accept connections')) resolve(true);
    });
  });
  const works = await Promise.race([ready, gone.then(() => false)]);
  if (works) return { url: `redis://127.0.0.1:${port}`, stop };
  await stop();
  return undefined;
}
