// Every code example in README.md and docs/: runs as it stands, as a program of its own, against a
// real server. What an example has to do beside not failing stands in EXPECTED.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { io } from 'socket.io-client';
import { describe, expect, it } from 'vitest';
import { removeWithProcess } from '../support/process.js';
import { freePort, sharedRedis } from '../support/redis.js';
import { eventually } from '../support/wait.js';

const root = path.resolve(import.meta.dirname, '../..');
const files = [
  'README.md',
  ...readdirSync(path.join(root, 'docs'))
    .filter((name) => name.endsWith('.md'))
    .map((name) => `docs/${name}`),
];

interface Example {
  name: string;
  code: string;
}

const examples: Example[] = files.flatMap((file) => {
  const text = readFileSync(path.join(root, file), 'utf8');
  return [...text.matchAll(/^```(?:js|javascript|ts|typescript)\n(.*?)^```/gms)].map(
    (match, index) => ({ name: `${file} example ${index + 1}`, code: match[1] ?? '' }),
  );
});

/** A program that has what users of the package have: `rollcall` and `socket.io` to import. */
function program({ code }: Example, env: Record<string, string>) {
  const folder = mkdtempSync(path.join(tmpdir(), 'rollcall-test-example-'));
  removeWithProcess(folder);
  const modules = path.join(folder, 'node_modules');
  symlinkSync(path.join(root, 'node_modules'), modules);
  const file = path.join(folder, /^import /m.test(code) ? 'example.mjs' : 'example.cjs');
  // The package itself is found by its name only from inside of it.
  const self = path.join(root, 'dist', file.endsWith('.mjs') ? 'index.mjs' : 'index.js');
  writeFileSync(file, code.replace(/(["'])rollcall\1/g, JSON.stringify(self)));
  const child = spawn(process.execPath, [file], { env: { ...process.env, ...env } });
  let output = '';
  child.stdout.on('data', (data) => {
    output += data;
  });
  child.stderr.on('data', (data) => {
    output += data;
  });
  return { child, output: () => output };
}

describe('documentation', () => {
  it('has examples', () => {
    expect(examples.length).toBeGreaterThan(0);
  });

  it.each(examples)('$name runs as it stands', async (example) => {
    const redis = await sharedRedis();
    const port = await freePort();
    const { child, output } = program(example, {
      REDIS_URL: redis.url,
      PORT: String(port),
    });
    const exited = once(child, 'exit');
    try {
      if (example.code.includes('socket.io')) {
        // A server: it must let two people see each other.
        const url = `http://127.0.0.1:${port}`;
        const ada = io(url, { transports: ['websocket'], reconnectionDelay: 50 });
        const bob = io(url, { transports: ['websocket'], reconnectionDelay: 50 });
        try {
          const seen: { type: string; userId: string }[] = [];
          ada.on('presence:event', (event) => seen.push(event));
          const first = await ada.emitWithAck('join', { roomId: 'docs', userId: 'ada' });
          expect(first.snapshot).toHaveLength(1);
          const second = await bob.emitWithAck('join', {
            roomId: 'docs',
            userId: 'bob',
            state: { typing: false },
          });
          expect(second.snapshot).toHaveLength(2);
          const beat = await bob.emitWithAck('heartbeat', {
            epoch: second.epoch,
            patchState: { typing: true },
          });
          expect(beat.changed).toBe(true);
          bob.close();
          await eventually(() => {
            const ofBob = seen.filter((event) => event.userId === 'bob');
            expect(ofBob.map((event) => event.type)).toEqual(['join', 'update', 'leave']);
          });
        } finally {
          ada.close();
          bob.close();
        }
      } else {
        const [code] = await exited;
        expect({ code, output: output() }).toMatchObject({ code: 0 });
      }
    } finally {
      child.kill('SIGKILL');
      await exited;
    }
  });
});
