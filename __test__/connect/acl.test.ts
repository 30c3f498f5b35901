// The ACL rules of docs/guide/security.md: the client needs no other commands, and the rules allow
// nothing else. The test reads the rules from that page.
import { readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { Redis } from 'ioredis';
import { beforeAll, describe, expect, test } from 'vitest';
import { SERVERS } from '../../scripts/lib/servers.mjs';
import { openClient, type Untyped } from '../support/clients.js';
import { startCluster } from '../support/cluster.js';
import { type RedisServer, startRedis } from '../support/redis.js';
import { eventually } from '../support/wait.js';

const ROOT = path.resolve(import.meta.dirname, '../..');

/** The rules of the examples, without the user's name. */
function readRules() {
  const page = readFileSync(path.join(ROOT, 'docs/guide/security.md'), 'utf8');
  const examples = [...page.matchAll(/^ACL SETUSER rollcall ([^`]+)```/gm)];
  const rules = examples.map(([, rule = '']) => rule.replace(/\s+/g, ' ').trim());
  const [base = '', seven = '', cluster = '', notifications = '', json = '', ...more] = rules;
  if (json === '' || more.length > 0)
    throw new Error('docs/guide/security.md has not the five ACL examples');
  return { base, seven, cluster, notifications, json };
}

const RULES = readRules();

/** Commands that an ACL must not allow, with harmful arguments. */
const FORBIDDEN = [
  'FLUSHALL',
  'FLUSHDB',
  'SWAPDB 0 1',
  'SCRIPT FLUSH',
  'SCRIPT KILL',
  'CLIENT KILL TYPE normal',
  'CLIENT PAUSE 1',
  'CLIENT LIST',
  'CONFIG SET maxmemory 1',
  'CONFIG REWRITE',
  'SHUTDOWN NOSAVE',
  'REPLICAOF h 1',
  'MONITOR',
  'KEYS *',
  'ACL LIST',
  'ACL SETUSER rollcall +@all',
  'SAVE',
  'BGREWRITEAOF',
  'RENAME prs:a prs:b',
  'RESTORE prs:a 0 x',
  'SORT prs:a',
  'MIGRATE h 1 prs:a 0 1',
  'PUBSUB CHANNELS',
  'GET other',
  'SET other 1',
  'PUBLISH other 1',
  'SUBSCRIBE other',
  'PSUBSCRIBE *',
];

describe.each(Object.entries(SERVERS))('29 on %s: the ACL of the documentation', (name, locate) => {
  const found = locate();
  const program = 'file' in found ? found.file : undefined;
  if (program === undefined && 'why' in found) console.log(`${name} is not tested: ${found.why}`);
  const isOld = name === 'Redis 6.2';
  const own = program ? { program } : {};
  const base = isOld ? RULES.base : `${RULES.base} ${RULES.seven}`;
  const user = { rollcall: `${base} ${RULES.notifications}` };

  test.skipIf(program === undefined).each(['v1', 'slotted'] as const)(
    'is enough on %s',
    async (layout) => {
      await using server = await startRedis({ ...own, users: user, notifyKeyspaceEvents: 'Ex' });
      const url = `redis://rollcall:secret@${server.host}:${server.port}`;
      for (const stateStorage of ['inline', 'separate']) {
        await use({ url, layout, stateStorage, db: 0 });
      }
      await use({ url: `${url}/3`, layout, db: 3 });
      expect(await denied([server])).toEqual([]);
    },
  );

  test.skipIf(program === undefined)('allows nothing else', async () => {
    await using server = await startRedis({ ...own, users: user });
    const { host, port } = server;
    const redis = new Redis({ host, port, username: 'rollcall', password: 'secret' });
    redis.on('error', () => {});
    try {
      for (const line of FORBIDDEN) {
        const [command = '', ...args] = line.split(' ');
        const error = await redis.call(command, ...args).then(
          () => new Error('it was allowed'),
          (reason: Error) => reason,
        );
        expect(error.message, line).toMatch(/^NOPERM/);
        const words = [command, ...args].map((word) => JSON.stringify(word)).join(',');
        const inside = await redis.eval(`return redis.call(${words})`, 0).then(
          () => new Error('it was allowed'),
          (reason: Error) => reason,
        );
        expect(inside.message, `${line}, in a script`).toMatch(/NOPERM|not allowed|ERR/);
      }
    } finally {
      redis.disconnect();
    }
  });

  test.skipIf(program === undefined || isOld)('is enough on a cluster', async () => {
    const users = { rollcall: `${base} ${RULES.cluster}` };
    await using cluster = await startCluster({ replicas: 0, server: { ...own, users } });
    const url = cluster.url.replace('redis-cluster://', 'redis-cluster://rollcall:secret@');
    await use({ url, expiry: 'sweep' });
    expect(await denied(cluster.servers)).toEqual([]);
  });
});

/** Uses everything that a client can do. */
async function use({ db: _, ...options }: Untyped): Promise<void> {
  // Speed is not tested here.
  const limits = { commandTimeoutMs: 60_000, connectTimeoutMs: 60_000 };
  const common = { sweepIntervalMs: 100, expiry: 'both', limits, ...options };
  const client = await openClient(common);
  const events: string[] = [];
  await client.subscribe((event) => void events.push(`all ${event.type}`));
  await client.subscribe((event) => void events.push(`room ${event.type}`), { roomId: 'r' });
  await client.join({ roomId: 'r', userId: 'u', connId: 'c' });
  await client.heartbeat({ connId: 'c' });
  await client.heartbeat({ connId: 'c', patchState: { a: 1 } });
  await client.heartbeat({ connId: 'c', patchState: { long: 'x'.repeat(10_000) } });
  await client.heartbeat({ connId: 'c', patchState: { a: 2 } });
  expect((await client.getUserPresence('u')).rooms).toEqual(['r']);
  await client.join({ roomId: 'r2', userId: 'u', connId: 'c2' });
  await client.join({ roomId: 'r', userId: 'u', connId: 'c2' });
  await client.leave('c2');
  await eventually(() => {
    expect(events).toContain('all leave');
    for (const type of ['join', 'update', 'leave']) expect(events).toContain(`room ${type}`);
  });
  await client.leave('c');
  const locks: string[] = [];
  await client.locks.subscribe((event) => void locks.push(`all ${event.type}`));
  await client.locks.subscribe((event) => void locks.push(`one ${event.type}`), { name: 'l' });
  const lock = await client.locks.acquire('l', { ownerId: 'u' });
  const next = client.locks.acquire('l', { ownerId: 'v', waitMs: 60_000 });
  await lock.extend();
  await lock.release();
  await next;
  await client.locks.revoke('l');
  expect(await client.locks.inspect('l')).toBeNull();
  await eventually(() => {
    for (const type of ['acquired', 'released', 'revoked']) {
      expect(locks).toContain(`all ${type}`);
      expect(locks).toContain(`one ${type}`);
    }
  });
  const channel = { channelType: 't', channelName: 'n' };
  const changes: string[] = [];
  await client.metadata.subscribe((event) => void changes.push(`all ${event.operation}`));
  await client.metadata.subscribe((event) => void changes.push(`one ${event.operation}`), channel);
  const guard = await client.locks.acquire('m', { ownerId: 'u' });
  const { fencingToken } = guard;
  const guarded = String(options.url).startsWith('redis-cluster')
    ? channel
    : { ...channel, options: { lockName: 'm' }, actorUserId: 'u', fencingToken };
  await client.metadata.set({ ...guarded, data: [{ key: 'k' }] });
  await client.metadata.update({ ...guarded, data: [{ key: 'k' }] });
  await client.metadata.remove(guarded);
  expect((await client.metadata.get(channel)).totalCount).toBe(0);
  await guard.release();
  await eventually(() => {
    for (const operation of ['set', 'update', 'remove']) {
      expect(changes).toContain(`all ${operation}`);
      expect(changes).toContain(`one ${operation}`);
    }
  });
  await client.close();
  await expire(common);
}

/** Lets a connection expire, and waits for its event. */
async function expire(options: Untyped): Promise<void> {
  const client = await openClient({ ...options, ttlMs: 100 });
  const died: string[] = [];
  await client.subscribe((event) => {
    if (event.type === 'leave' && event.reason === 'timeout') died.push(event.connId);
  });
  await client.startReaper();
  await client.join({ roomId: 'short', userId: 'u', connId: 'dies' });
  await eventually(() => expect(died).toEqual(['dies']), { timeoutMs: 20_000 });
  if (options.expiry === 'both') {
    await eventually(() => expect(client.metrics().notifications).toBeGreaterThan(0));
  }
  await client.reapOnce();
  expect(client.metrics().sweepsFailed).toBe(0);
  await client.close();
}

/**
 * The commands that the servers refused to the user. The name of the library is optional, so its
 * refusal does not count.
 */
async function denied(servers: readonly RedisServer[]): Promise<string[]> {
  const all: string[] = [];
  for (const server of servers) {
    const log = (await (await server.client()).call('ACL', 'LOG')) as string[][];
    for (const entry of log) {
      const of = (field: string) => String(entry[entry.indexOf(field) + 1]);
      if (of('username') !== 'rollcall') continue;
      if (/^client(\|setinfo)?$/.test(of('object'))) continue;
      all.push(`${of('reason')} ${of('object')} (${of('context')})`);
    }
  }
  return all;
}

describe('29: the list of commands in docs/guide/security.md', () => {
  let known: Set<string>;
  beforeAll(async () => {
    await using server = await startRedis();
    const list = (await (await server.client()).call('COMMAND')) as [string][];
    known = new Set(list.map(([command]) => command));
  });

  /** Files in a folder and its subfolders. */
  const files = (folder: string, ending: string) =>
    readdirSync(path.join(ROOT, folder), { recursive: true, encoding: 'utf8' })
      .filter((file) => file.endsWith(ending))
      .map((file) => readFileSync(path.join(ROOT, folder, file), 'utf8'));

  test('matches the commands that the scripts and the core send', () => {
    const rust = files('src/store/redis', '.rs').map((text) => text.split('mod tests {')[0] ?? '');
    const words = [...rust, ...files('lua', '.lua')].flatMap((text) =>
      [...text.matchAll(/["']([A-Z]+)["']/g)].map(([, word = '']) => word.toLowerCase()),
    );
    // Names of errors that are also commands, and words that are sent only as arguments.
    const sent = new Set(words.filter((word) => known.has(word) && word !== 'readonly'));
    // redis-rs sends it for the database of the URL.
    sent.add('select');
    const { base, seven, cluster, notifications } = RULES;
    const rules = [base, seven, cluster, notifications].join(' ');
    const allowed = [...rules.matchAll(/(?:^| )\+([a-z]+)/g)].map(([, command = '']) => command);
    expect([...new Set(allowed)].sort()).toEqual([...sent].sort());
    expect(rules).not.toMatch(/@(?!\*__)|\+\*|allcommands|allkeys|allchannels/);
  });
});
