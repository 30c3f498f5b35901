// Every code example in README.md and docs/: runs as it stands, as a program of its own, against a
// real server; one in TypeScript is compiled before, strictly. An example that is a Socket.IO server has
// to let two people see each other.
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { packageBin } from '../../scripts/lib/paths.mjs';
import { disturbance, fuzz, OUR_EVENTS } from '../compat/fuzz.js';
import { twoSeeEachOther } from '../compat/good-clients.js';
import { removeWithProcess } from '../support/process.js';
import { createRandom } from '../support/random.js';
import { freePort, sharedDb, startRedis } from '../support/redis.js';
import { size } from '../support/size.js';
import { eventually } from '../support/wait.js';

const STEPS = size(600, 10_000);
const root = path.resolve(import.meta.dirname, '../..');
const files = [
  'README.md',
  ...readdirSync(path.join(root, 'docs'))
    .filter((name) => name.endsWith('.md'))
    .map((name) => `docs/${name}`),
];

interface Example {
  name: string;
  typed: boolean;
  code: string;
}

const examples: Example[] = files.flatMap((file) => {
  const text = readFileSync(path.join(root, file), 'utf8');
  return [...text.matchAll(/^```(js|javascript|ts|typescript)\n(.*?)^```/gms)].map(
    (match, index) => ({
      name: `${file} example ${index + 1}`,
      typed: match[1]?.startsWith('t') ?? false,
      code: match[2] ?? '',
    }),
  );
});

/** A program that has what users of the package have: `rollcall` and `socket.io` to import. */
function program({ code, typed }: Example, env: Record<string, string>) {
  const folder = mkdtempSync(path.join(tmpdir(), 'rollcall-test-example-'));
  removeWithProcess(folder);
  symlinkSync(path.join(root, 'node_modules'), path.join(folder, 'node_modules'));
  const module = typed || /^import /m.test(code);
  const file = path.join(folder, module ? 'example.mjs' : 'example.cjs');
  // The package itself is found by its name only from inside of it.
  const self = path.join(root, 'dist', module ? 'index.mjs' : 'index.js');
  const javascript = typed ? compiled(folder, code) : code;
  writeFileSync(file, javascript.replace(/(["'])rollcall\1/g, JSON.stringify(self)));
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

/** The JavaScript of a TypeScript example that is right in a strict project. */
function compiled(folder: string, code: string): string {
  writeFileSync(path.join(folder, 'example.mts'), code);
  const compilerOptions = {
    target: 'es2022',
    lib: ['esnext'],
    module: 'nodenext',
    types: ['node'],
    strict: true,
    exactOptionalPropertyTypes: true,
    noUncheckedIndexedAccess: true,
    skipLibCheck: true,
    outDir: 'out',
    rootDir: '.',
    paths: { rollcall: [path.join(root, 'index.d.mts')] },
  };
  const files = ['example.mts'];
  writeFileSync(path.join(folder, 'tsconfig.json'), JSON.stringify({ compilerOptions, files }));
  const tsc = packageBin('typescript', 'tsc');
  try {
    execFileSync(process.execPath, [tsc, '-p', folder], { encoding: 'utf8' });
  } catch (error) {
    throw new Error(`it does not compile:\n${(error as { stdout: string }).stdout}`);
  }
  return readFileSync(path.join(folder, 'out/example.mjs'), 'utf8');
}

const isServer = ({ code }: Example) => /from 'socket\.io'|require\('socket\.io'\)/.test(code);
const isOurs = ({ code }: Example) => /initPresence|registerPresenceHandlers/.test(code);

describe('documentation', () => {
  it('has examples', () => {
    expect(examples.length).toBeGreaterThan(0);
    expect(examples.filter(isServer).length).toBeGreaterThan(3);
  });

  it.each(examples)('$name runs as it stands', async (example) => {
    const redis = await sharedDb();
    const port = await freePort();
    const { child, output } = program(example, {
      REDIS_URL: redis.url,
      PORT: String(port),
    });
    const exited = once(child, 'exit');
    try {
      if (isServer(example)) {
        // It must let two people see each other, by its own protocol or by ours.
        await twoSeeEachOther(`http://127.0.0.1:${port}`, isOurs(example));
      } else {
        const [code] = await exited;
        expect({ code, output: output() }).toMatchObject({ code: 0 });
      }
    } finally {
      child.kill('SIGKILL');
      await exited;
    }
  });

  it.each(examples.filter(isServer))(
    `$name, a server, survives ${STEPS} steps of the fuzz client`,
    async (example) => {
      await using redis = await startRedis();
      const port = await freePort();
      const { child, output } = program(example, { REDIS_URL: redis.url, PORT: String(port) });
      const exited = once(child, 'exit');
      try {
        const url = `http://127.0.0.1:${port}`;
        await eventually(() => twoSeeEachOther(url, isOurs(example)), { timeoutMs: 20_000 });
        const random = createRandom(examples.indexOf(example));
        const disturb = disturbance(redis, random);
        await fuzz({
          url,
          steps: STEPS,
          random,
          events: isOurs(example) ? OUR_EVENTS : ['join', 'heartbeat'],
          between: async () => {
            if (child.exitCode !== null) throw new Error(`it has ended:\n${output()}`);
            await disturb.step();
          },
        });
        await disturb.end();
        await eventually(() => twoSeeEachOther(url, isOurs(example), 'calm'), {
          timeoutMs: 30_000,
        });
        expect({ code: child.exitCode, output: output() }).toMatchObject({ code: null });
      } finally {
        child.kill('SIGKILL');
        await exited;
      }
    },
    size(60_000, 240_000),
  );
});
