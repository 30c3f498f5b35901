// The code blocks of README.md and docs/ (see blocks.ts): each type-checks with the public types.
// Each program runs unchanged against a real server. A Socket.IO server must let two users see each
// other, and survive the fuzz client.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import type { Socket } from 'socket.io-client';
import { describe, expect, it, test } from 'vitest';
import { disturbance, fuzz, OUR_EVENTS } from '../compat/fuzz.js';
import { connect, connectionsOf, joined, twoSeeEachOther } from '../compat/good-clients.js';
import { createRandom } from '../support/random.js';
import { freePort, sharedDb, startRedis } from '../support/redis.js';
import { size } from '../support/size.js';
import { eventually } from '../support/wait.js';
import { type Block, blocksOf, compile, readBlocks } from './blocks.js';

const STEPS = size(600, 10_000);

const blocks = readBlocks();
const compiled = compile(blocks);
const examples = blocks.map((block, index) => ({ ...block, ...compiled[index] }) as Example);
type Example = Block & { file: string; problems: string };

function start(file: string, env: Record<string, string>) {
  const child = spawn(process.execPath, [file], { env: { ...process.env, ...env } });
  const exited = once(child, 'exit');
  let output = '';
  child.stdout.on('data', (data) => {
    output += data;
  });
  child.stderr.on('data', (data) => {
    output += data;
  });
  return { child, exited, output: () => output };
}

async function kill({ child, exited }: ReturnType<typeof start>): Promise<void> {
  child.kill('SIGKILL');
  await exited;
}

const isServer = ({ use, code }: Block) =>
  use === 'program' && /'socket\.io'/.test(code) && !/'node:test'/.test(code);
const isOurs = ({ code }: Block) => /initPresence|registerPresenceHandlers/.test(code);

/** The events that a server handles, including its own. */
function eventsOf(example: Block): string[] {
  const own = [...example.code.matchAll(/socket\.on\('([a-z:-]+)'/g)].map(([, name = '']) => name);
  const events = isOurs(example) ? OUR_EVENTS : ['join', 'heartbeat'];
  return [...events, ...own.filter((name) => name !== 'disconnect')];
}

const programs = examples.filter(({ use }) => use === 'program');
const servers = programs.filter(isServer);
const stopping = servers.filter(({ code }) => code.includes("'SIGTERM'"));
const clients = examples.filter(({ use }) => use === 'client');

describe('the code of the documentation', () => {
  test('there are blocks of each kind', () => {
    expect(servers.length).toBeGreaterThan(3);
    expect(stopping.length).toBeGreaterThan(0);
    for (const use of ['program', 'client', 'recipe', 'fragment']) {
      expect(blocks.filter((block) => block.use === use).length, use).toBeGreaterThan(0);
    }
  });

  it.each(examples)('$name type-checks', ({ problems }) => {
    expect(problems).toBe('');
  });

  test('every recipe has a test, and names are unique', () => {
    const here = readdirSync(import.meta.dirname).filter((name) => name.endsWith('.test.ts'));
    const tests = here.map((name) => readFileSync(path.join(import.meta.dirname, name), 'utf8'));
    const names = blocks.flatMap(({ recipe }) => recipe ?? []);
    for (const name of names) expect(tests.join()).toContain(`recipe('${name}')`);
    expect(new Set(names).size).toBe(names.length);
  });

  it.each(programs)('$name runs unchanged', async (example) => {
    const redis = await sharedDb();
    const port = await freePort();
    const running = start(example.file, { REDIS_URL: redis.url, PORT: String(port) });
    try {
      if (isServer(example)) {
        // Two users must see each other, with its own protocol or with Rollcall's.
        await twoSeeEachOther(`http://127.0.0.1:${port}`, isOurs(example));
      } else {
        const [code] = await running.exited;
        expect({ code, output: running.output() }).toMatchObject({ code: 0 });
      }
    } finally {
      await kill(running);
    }
  });

  it.each(stopping)('$name ends at SIGTERM, and leaves no connections', async (example) => {
    const redis = await sharedDb();
    const ports = [await freePort(), await freePort()];
    const [first, second] = ports.map((port) =>
      start(example.file, { REDIS_URL: redis.url, PORT: String(port) }),
    );
    if (first === undefined || second === undefined) throw new Error('two ports, two servers');
    const left: string[] = [];
    const [ada, bob] = ports.map((port, i) => connect(`http://127.0.0.1:${port}`, `user${i}`));
    try {
      bob?.on('presence:event', ({ type, userId, reason }) => {
        if (type === 'leave') left.push(`${userId} ${reason}`);
      });
      for (const socket of [bob, ada]) {
        const userId = socket === ada ? 'user0' : 'user1';
        await eventually(() => joined(socket as Socket, 'presence:join', { roomId: 'r', userId }), {
          timeoutMs: 15_000,
          intervalMs: 150,
        });
      }
      first.child.kill('SIGTERM');
      const [code] = await first.exited;
      expect({ code, output: first.output() }).toMatchObject({ code: 0 });
      await eventually(() => expect(left).toEqual(['user0 left']));
    } finally {
      ada?.close();
      bob?.close();
      await kill(first);
      await kill(second);
    }
  });

  it.each(clients)('$name works with the server of its page', async ({ page, file }) => {
    const server = servers.find((one) => one.page === page);
    if (server === undefined) throw new Error('there is no server on this page');
    await using redis = await startRedis();
    const port = await freePort();
    const url = `http://127.0.0.1:${port}`;
    const code = readFileSync(file, 'utf8');
    const [site, pause] = ['http://localhost:3000', '10_000'];
    expect(code).toContain(site);
    expect(code).toContain(pause);
    writeFileSync(file, code.replaceAll(site, url).replaceAll(pause, '100'));
    const env = { REDIS_URL: redis.url, PORT: String(port) };
    let running = start(server.file, env);
    const client = start(file, {});
    // A different connection than before: the connection of a killed server is listed until its TTL
    // ends.
    const listed = (before?: string) =>
      eventually(
        async () => {
          const ids = await connectionsOf(url, 'lobby', 'ada');
          const id = ids.find((one) => one !== before);
          if (id === undefined) throw new Error(`it is not listed:\n${client.output()}`);
          return id;
        },
        { timeoutMs: 20_000, intervalMs: 200 },
      );
    try {
      const first = await listed();
      // It recovers after its server was killed, and after Redis has lost all data.
      await kill(running);
      running = start(server.file, env);
      await listed(first);
      await redis.kill();
      await redis.start();
      await listed();
      expect({ code: client.child.exitCode, output: client.output() }).toMatchObject({
        code: null,
        output: expect.stringContaining('ada'),
      });
    } finally {
      await kill(client);
      await kill(running);
    }
  });

  it.each(servers)(
    `$name, a server, survives ${STEPS} steps of the fuzz client`,
    async (example) => {
      await using redis = await startRedis();
      const port = await freePort();
      const server = start(example.file, { REDIS_URL: redis.url, PORT: String(port) });
      const { child, output } = server;
      try {
        const url = `http://127.0.0.1:${port}`;
        await eventually(() => twoSeeEachOther(url, isOurs(example)), { timeoutMs: 20_000 });
        const random = createRandom(examples.indexOf(example));
        const disturb = disturbance(redis, random);
        await fuzz({
          url,
          steps: STEPS,
          random,
          events: eventsOf(example),
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
        await kill(server);
      }
    },
    size(60_000, 240_000),
  );
});

describe('parsing of blocks', () => {
  const fence = '```';
  const one = (mark: string, code = 'await 1;') => `${fence}${mark}\n${code}\n${fence}\n`;

  test('unknown marks are refused', () => {
    expect(() => blocksOf('page.md', one('js fragmnet'))).toThrow('fragmnet');
    expect(() => blocksOf('page.md', one('javascript'))).toThrow('write js or ts');
    expect(blocksOf('page.md', one('js') + one('sh') + one('ts recipe=a-b'))).toMatchObject([
      { use: 'program', typed: false },
      { use: 'recipe', typed: true, recipe: 'a-b' },
    ]);
  });

  test('type errors are found, in TypeScript and in JavaScript', () => {
    const wrong = "await client.join({ roomId: 'r', user: 'u', connId: 'c' });";
    const right = "await client.join({ roomId: 'r', userId: 'u', connId: 'c' });";
    const text = [wrong, right].flatMap((code) => [
      one('ts fragment', code),
      one('js fragment', code),
    ]);
    const found = compile(blocksOf('page.md', text.join('\n')));
    expect(found.map(({ problems }) => /'user'/.test(problems))).toEqual([
      true,
      true,
      false,
      false,
    ]);
    expect(found.slice(2).map(({ problems }) => problems)).toEqual(['', '']);
  });
});
