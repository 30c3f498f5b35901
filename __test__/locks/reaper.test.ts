// Spec 6.3, 6.6 and 6.7: the ends of locks whose holders died are announced within sweepIntervalMs by any node
// whose reaper runs, beside its passes: one that fails never fails the other, and an idle fleet pays for one node.
import type { Redis } from 'ioredis';
import type { LockEvent } from 'rollcall';
import { beforeEach, describe, expect, onTestFinished, test } from 'vitest';
import { brief } from '../conformance/locks.js';
import { failure, LONG_TTL_MS, record } from '../conformance/stores.js';
import { leavesOf, MARGIN_MS } from '../expiry/expiry.js';
import { openClient } from '../support/clients.js';
import { commandCalls } from '../support/command-stats.js';
import { type Fixture, startFixture } from '../support/process.js';
import { type RedisServer, startRedis } from '../support/redis.js';
import { eventually, slowness } from '../support/wait.js';

const TTL_MS = 500;
const SWEEP_MS = 100;
const NODE = 'node';
/** Keys of locks, and all others, on both layouts. */
const LOCK_KEYS = ['~prs:lock*', '~prs:{*lock*'];
const PRESENCE_KEYS = [
  '~prs:due:*',
  '~prs:active_rooms',
  '~prs:conn*',
  '~prs:user*',
  '~prs:at:*',
  '~prs:{room:*',
  '~prs:{slot:*',
  '~prs:nodes',
  '~prs:{node:*',
];

type Layout = 'v1' | 'slotted';

interface Message {
  holding?: boolean;
  sweeps?: number;
}

let server: RedisServer;
let redis: Redis;
/** The URL of a user whose rights a test takes away. */
let url: string;

beforeEach(async () => {
  server = await startRedis({ users: { [NODE]: 'on nopass ~* &* +@all' } });
  redis = await server.client();
  url = server.urlFor({ username: NODE, password: 'any' });
  return () => server[Symbol.asyncDispose]();
});

async function restrictTo(keys: readonly string[]): Promise<void> {
  await redis.call('ACL', 'SETUSER', NODE, 'resetkeys', ...keys);
}

/** Lock events as a subscriber hears them that looks for no ends itself. */
async function hear(): Promise<LockEvent[]> {
  const events: LockEvent[] = [];
  const listener = await server.client();
  listener.on('pmessage', (_pattern, _channel, text: string) => void events.push(JSON.parse(text)));
  await listener.psubscribe('*:lock_events');
  return events;
}

async function startHolder(options: object): Promise<Fixture<Message>> {
  const child = startFixture<Message>('locks/fixtures/holder.mjs', {
    args: [JSON.stringify({ url: server.url, ttlMs: TTL_MS, ...options })],
  });
  onTestFinished(async () => {
    await child.kill();
  });
  await child.message(({ holding }) => holding === true);
  return child;
}

async function spoil(key: string): Promise<void> {
  await redis.multi().unlink(key).rpush(key, 'not ours').exec();
}

describe.each(['v1', 'slotted'] satisfies Layout[])('on %s', (layout) => {
  test('6.7 the lock of a dead holder is announced and handed on while every pass of presence fails', async () => {
    const events = await hear();
    const node = await openClient({ url, layout, sweepIntervalMs: SWEEP_MS });
    await node.startReaper();
    const waiter = await openClient({ url: server.url, layout });
    const holders = await Promise.all(['l', 'm'].map((name) => startHolder({ name, layout })));
    const waiting = waiter.locks.acquire('m', { ownerId: 'bob', waitMs: 30_000 });
    await eventually(async () => expect((await waiter.locks.inspect('m'))?.waiters).toBe(1));
    await restrictTo(LOCK_KEYS);
    const { sweepsFailed } = node.metrics();
    await eventually(() => expect(node.metrics().sweepsFailed).toBeGreaterThan(sweepsFailed));
    const { sweeps } = node.metrics();
    for (const holder of holders) await holder.kill();

    await (await waiting).release();
    await eventually(() => {
      const ended = events.filter(({ type }) => type === 'expired');
      expect(ended.map(brief).sort()).toEqual(['expired l ada', 'expired m ada']);
    });
    expect(node.metrics().sweeps, 'a pass of presence succeeded').toBe(sweeps);
  });

  test('6.7 the lock of a dead holder is announced while presence keys hold other types', async () => {
    const events = await hear();
    const node = await openClient({ url, layout, sweepIntervalMs: SWEEP_MS, ttlMs: TTL_MS });
    await node.join({ roomId: 'r', userId: 'u', connId: 'c', snapshot: false });
    const holder = await startHolder({ name: 'l', layout });
    const room = ['conns', 'members', 'last_seen', 'conn_meta'].map(
      (part) => `prs:{room:r}:${part}`,
    );
    for (const key of [...room, 'prs:active_rooms', ...(await redis.keys('prs:due:*'))]) {
      await spoil(key);
    }
    await node.startReaper();
    await holder.kill();
    await eventually(() => expect(events.map(brief)).toContain('expired l ada'));
  });

  test.each([
    ['the keys of a lock hold other types', 'type'],
    ['every look at locks is refused', 'acl'],
  ])('6.7 dead connections leave while %s', async (_, fault) => {
    const node = await openClient({ url, layout, sweepIntervalMs: SWEEP_MS, ttlMs: TTL_MS });
    const recorder = await record(await openClient({ url: server.url, layout }));
    await node.locks.acquire('l', { ownerId: 'ada', ttlMs: 200, autoRenew: false });
    const connIds = Array.from({ length: 5 }, (_, i) => `c${i}`);
    for (const connId of connIds) {
      await node.join({ roomId: `r${connId}`, userId: 'u', connId, snapshot: false });
    }
    if (fault === 'acl') await restrictTo(PRESENCE_KEYS);
    else for (const key of await redis.keys('prs:*lock*')) await spoil(key);
    await node.startReaper();
    await eventually(() => {
      const leaves = leavesOf(recorder.events);
      expect(leaves.map(({ connId }) => connId).sort()).toEqual(connIds);
    });
    expect(node.metrics().sweepsFailed).toBe(0);
    await expect(node.reapOnce()).resolves.toMatchObject({ expired: 0 });
  });

  test('6.6 reapOnce removes dead connections and announces the ends of locks, without a reaper', async () => {
    const events = await hear();
    const node = await openClient({ url, layout, ttlMs: 50 });
    const recorder = await record(await openClient({ url: server.url, layout }));
    const holders = await Promise.all(['l', 'm'].map((name) => startHolder({ name, layout })));
    await node.join({ roomId: 'r', userId: 'u', connId: 'c', snapshot: false });
    await holders[0]?.kill();
    await eventually(async () => {
      expect(await node.fetchRoomSnapshot('r')).toEqual([]);
      expect(await node.locks.inspect('l')).toBeNull();
    });
    expect(events.map(brief)).not.toContain('expired l ada');
    expect(await node.reapOnce()).toMatchObject({ expired: 1 });
    await eventually(() => expect(leavesOf(recorder.events)).toHaveLength(1));
    // On slotted, the index may say for a moment longer that the lock is held.
    await eventually(async () => {
      expect(await node.reapOnce()).toMatchObject({ expired: 0 });
      expect(events.map(brief)).toContain('expired l ada');
    });

    // What fails in one of the two does not keep the other from being done.
    await holders[1]?.kill();
    await eventually(async () => expect(await node.locks.inspect('m')).toBeNull());
    await restrictTo(LOCK_KEYS);
    await eventually(async () => {
      await expect(node.reapOnce()).rejects.toEqual(failure('PERMISSION'));
      expect(events.map(brief)).toContain('expired m ada');
    });
  });
});

test('6.3 a node that holds a lock and makes the passes is killed: another announces the end in time', async () => {
  const sweepIntervalMs = 1_000;
  const events = await hear();
  const node = await openClient({ url, sweepIntervalMs });
  // With a room in the index, one node's pass serves all.
  await node.join({ roomId: 'r', userId: 'u', connId: 'c', snapshot: false });
  const holder = await startHolder({ name: 'l', sweepIntervalMs, reaps: true });
  await holder.message(({ sweeps = 0 }) => sweeps > 0);
  await node.startReaper();
  await holder.kill();
  const ends = Number(await redis.hget('prs:{prs:lock:l}:holder', 'ends'));
  await eventually(() => expect(events.map(brief)).toContain('expired l ada'), {
    timeoutMs: 10_000,
  });
  const ended = events.find(({ type }) => type === 'expired');
  const late = (ended?.ts ?? 0) - ends;
  expect(late).toBeGreaterThanOrEqual(0);
  expect(late).toBeLessThanOrEqual((sweepIntervalMs + MARGIN_MS) * slowness());
});

describe('6.3 what an idle fleet costs Redis for locks', () => {
  /** How often a command was called: only `lock_due.lua` calls ZRANGE here, and `sweep_due.lua` SCARD. */
  async function calls(command: 'zrange' | 'scard'): Promise<number> {
    return (await commandCalls(redis))[command] ?? 0;
  }

  async function startNodes(count: number, options: object = {}) {
    const nodes = await Promise.all(
      Array.from({ length: count }, () =>
        openClient({ url, sweepIntervalMs: 200, ttlMs: LONG_TTL_MS, ...options }),
      ),
    );
    await nodes[0]?.join({ roomId: 'r', userId: 'u', connId: 'c', snapshot: false });
    for (const node of nodes) {
      await node.startReaper();
      await eventually(() => expect(node.metrics().sweeps).toBeGreaterThan(0));
    }
    return nodes;
  }

  /** What so many questions whose turn it is cost in looks at locks. */
  async function during(questions: number): Promise<{ asked: number; looks: number }> {
    const [asked, looks] = [await calls('scard'), await calls('zrange')];
    await eventually(async () => (await calls('scard')) >= asked + questions, {
      timeoutMs: 30_000,
    });
    return { asked: (await calls('scard')) - asked, looks: (await calls('zrange')) - looks };
  }

  test('6.3 one node looks once in each of its passes', async () => {
    await startNodes(1);
    const { asked, looks } = await during(15);
    expect(looks).toBeGreaterThanOrEqual(asked / 2);
    expect(looks).toBeLessThanOrEqual(asked + 2);
  });

  test('6.3 of several nodes, only the one that makes the passes looks', async () => {
    await startNodes(5);
    const { asked, looks } = await during(60);
    // One of five. A node that is late on a busy machine looks once more.
    expect(looks).toBeGreaterThan(0);
    expect(looks).toBeLessThanOrEqual(asked / 2);
  });

  test('6.3 a node without a reaper does not look', async () => {
    const node = await openClient({ url, ttlMs: LONG_TTL_MS });
    await node.join({ roomId: 'r', userId: 'u', connId: 'c', snapshot: false });
    expect(await calls('zrange')).toBe(0);
    await node.reapOnce();
    expect(await calls('zrange')).toBe(1);
  });
});
