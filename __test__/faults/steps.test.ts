// A process ends between any two steps of an operation with several steps on a cluster. Another
// node repairs the incomplete operation within one fallback sweep: indices agree, no connection is
// missing, and no stale connection is left.
import { PresenceClient, type PresenceEvent } from 'rollcall';
import { describe, expect, onTestFinished } from 'vitest';
import { type RedisCluster, startCluster, UNHURRIED_MS } from '../support/cluster.js';
import { type Fixture, startFixture } from '../support/process.js';
import { eventually } from '../support/wait.js';
import { proven } from './proven.js';

/** A running reaper checks every shard once within this time. */
const FALLBACK_MS = 400;
/** A pass may be running when the time ends; the rest is tolerance for a busy machine. */
const AGREED_MS = FALLBACK_MS + 2_000;

interface Case {
  operation: 'join' | 'move' | 'leave' | 'empty' | 'reap' | 'check';
  /** The steps of `src/failpoints/steps.rs`. */
  step: string;
  /**
   * The number of concurrent calls in that step; the process ends after each possible subset of
   * them.
   */
  calls?: number;
}

const CASES: Case[] = [
  { operation: 'join', step: 'claim', calls: 2 },
  { operation: 'join', step: 'joined' },
  { operation: 'join', step: 'join-noted', calls: 3 },
  { operation: 'join', step: 'settled' },
  { operation: 'move', step: 'claim', calls: 2 },
  { operation: 'move', step: 'left' },
  { operation: 'move', step: 'leave-noted', calls: 2 },
  { operation: 'move', step: 'settled' },
  { operation: 'move', step: 'joined' },
  { operation: 'move', step: 'join-noted', calls: 2 },
  { operation: 'leave', step: 'left' },
  { operation: 'leave', step: 'leave-noted', calls: 2 },
  { operation: 'leave', step: 'settled' },
  { operation: 'empty', step: 'left' },
  { operation: 'empty', step: 'leave-noted', calls: 2 },
  { operation: 'empty', step: 'settled' },
  { operation: 'reap', step: 'reaped' },
  { operation: 'reap', step: 'carried-out', calls: 2 },
  { operation: 'reap', step: 'room-settled' },
  { operation: 'check', step: 'repaired' },
  { operation: 'check', step: 'carried-out', calls: 3 },
  { operation: 'check', step: 'indexed' },
];

/** A late answer of a busy machine is not a fault. */
const limits = { commandTimeoutMs: 30_000, connectTimeoutMs: 30_000 };

/**
 * Each group has separate data: the reaper inspects every room, and would continue the work of the
 * others.
 */
const GROUPS: Case['operation'][][] = [['join', 'move', 'leave', 'empty'], ['reap'], ['check']];

describe('4: the end of a process between two steps', () => {
  proven(
    'indices agree within one fallback sweep; no stale connection, no missing leave',
    { without: 'settling', fails: /agree/, timeoutMs: 120_000 },
    async () => {
      await using cluster = await startCluster({ replicas: 0, nodeTimeoutMs: UNHURRIED_MS });
      const worlds = await Promise.all(
        GROUPS.map(async (operations) => {
          const world = { keyPrefix: `${operations[0]}:prs:`, events: [] as PresenceEvent[] };
          const { keyPrefix } = world;
          const { url } = cluster;
          const watcher = await PresenceClient.connect({ url, keyPrefix, limits, logger: {} });
          onTestFinished(() => watcher.close());
          await watcher.subscribe((event) => {
            world.events.push(event);
          });
          const cases = CASES.filter(({ operation }) => operations.includes(operation));
          for (const point of cases.flatMap(pointsOf)) await endIn(cluster, keyPrefix, point);
          return world;
        }),
      );
      console.log(`${CASES.flatMap(pointsOf).length} processes have ended half way`);
      await Promise.all(worlds.map((world) => repaired(cluster, world)));
      // Claims that are never confirmed expire after ten seconds.
      await eventually(async () => expect(await cluster.keys(), 'keys agree').toEqual([]), {
        timeoutMs: 15_000,
      });
    },
  );
});

/** Another node starts and repairs the incomplete operations. */
async function repaired(cluster: RedisCluster, { keyPrefix, events }: World): Promise<void> {
  const checker = await PresenceClient.connect({
    url: cluster.url,
    keyPrefix,
    // As short as the TTL of the connections to reap; the other connections live on, by their
    // hashes.
    ttlMs: 30,
    fallbackSweepMs: FALLBACK_MS,
    limits,
    logger: {},
  });
  onTestFinished(() => checker.close());
  await checker.startReaper();
  const present = await eventually(() => readAgreeing(cluster, keyPrefix, events), {
    timeoutMs: AGREED_MS,
  });
  // Present connections can leave, others cannot.
  for (const connId of present.keys()) expect(await checker.leave(connId), connId).not.toBeNull();
  expect(await checker.leave('empty-left-1'), 'it is gone').toBeNull();
  await eventually(() => expect(presentBy(events), 'leaves agree').toEqual(new Map()));
}

interface World {
  keyPrefix: string;
  events: PresenceEvent[];
}

interface Point {
  operation: Case['operation'];
  step: string;
  done: number;
  name: string;
}

/** All subsets of the step's calls that can have been sent, except none. */
function pointsOf({ operation, step, calls = 1 }: Case): Point[] {
  return Array.from({ length: 2 ** calls - 1 }, (_, i) => {
    const name = `${operation}-${step}-${i + 1}`;
    return { operation, step, done: i + 1, name };
  });
}

/** Runs the operation in a process that ends at this point. */
async function endIn(cluster: RedisCluster, keyPrefix: string, point: Point): Promise<void> {
  const { operation, step, done, name } = point;
  const process: Fixture<string> = startFixture('faults/fixtures/steps.mjs', {
    args: [operation, cluster.url, keyPrefix, name, step, `${done}`],
  });
  onTestFinished(() => process[Symbol.asyncDispose]());
  if (operation === 'check') {
    await process.message((message) => message === 'joined');
    await spoil(cluster, keyPrefix, point);
    process.send('spoilt');
  }
  const { signal } = await process.exited;
  expect(`${signal} ${process.messages} ${process.stderr.slice(-300)}`, name).toMatch(/^SIGABRT/);
}

/** Damages data, so that the checks have something to repair. */
async function spoil(
  cluster: RedisCluster,
  keyPrefix: string,
  { step, name }: Point,
): Promise<void> {
  const del = async (key: string, ...command: [string, ...string[]]) => {
    const [verb, ...args] = command;
    await (await cluster.on(await cluster.ownerOf(key))).call(verb, key, ...args);
  };
  if (step === 'indexed') {
    const due = `${keyPrefix}due:`;
    for (const key of await cluster.keys()) if (key.startsWith(due)) await del(key, 'DEL');
  } else {
    await del(`${keyPrefix}{room:${name}-r}:conns`, 'SREM', name);
  }
}

/** The place of each connection, by its hash. */
type Places = Map<string, { room: string; user: string; epoch: string }>;

/** Fails unless all indices and the events agree with the hashes. */
async function readAgreeing(
  cluster: RedisCluster,
  keyPrefix: string,
  events: PresenceEvent[],
): Promise<Places> {
  const data = await read(cluster, keyPrefix);
  const present: Places = new Map();
  const rooms = new Map<string, Map<string, string>>();
  const users = new Map<string, Record<string, string>>();
  for (const [key, value] of data) {
    const [, room, conn] = /^prs:\{room:(.*)\}:conn:(.*)$/.exec(key) ?? [];
    if (!room || !conn) continue;
    const { user_id: user = '', epoch = '' } = value as Record<string, string>;
    expect(present.has(conn), `${conn} is in one room only: rooms agree`).toBe(false);
    present.set(conn, { room, user, epoch });
    rooms.set(room, (rooms.get(room) ?? new Map()).set(conn, user));
    users.set(user, { ...users.get(user), [conn]: `${epoch}:${room}` });
  }
  const expected = new Map<string, unknown>();
  for (const [room, conns] of rooms) {
    const ids = [...conns.keys()].sort();
    expected.set(`prs:{room:${room}}:conns`, ids);
    expected.set(`prs:{room:${room}}:last_seen`, ids);
    expected.set(`prs:{room:${room}}:conn_meta`, ids);
    expected.set(`prs:{room:${room}}:members`, [...new Set(conns.values())].sort());
    for (const user of new Set(conns.values())) {
      const own = ids.filter((conn) => conns.get(conn) === user);
      expected.set(`prs:{room:${room}}:user:${user}`, own);
    }
  }
  for (const [user, conns] of users) expected.set(`prs:user:${user}:at`, conns);
  const due: string[] = [];
  for (const [conn, { room, user, epoch }] of present) {
    expected.set(`prs:at:${conn}`, { [`s:${room}`]: `${epoch}:${user}` });
  }
  const found = new Map<string, unknown>();
  for (const [key, value] of data) {
    if (key.startsWith('prs:due:')) due.push(...(value as string[]));
    else if (key.startsWith('prs:at:')) {
      // Claims of joins that never happened expire by themselves.
      const settled = Object.entries(value).filter(([field]) => field.startsWith('s:'));
      if (settled.length > 0) found.set(key, Object.fromEntries(settled));
    } else if (!/^prs:\{room:.*\}:conn:/.test(key)) {
      found.set(key, /:conn_meta$/.test(key) ? Object.keys(value).sort() : value);
    }
  }
  const sorted = (map: Map<string, unknown>) => Object.fromEntries([...map].sort());
  expect(sorted(found), 'indices agree').toEqual(sorted(expected));
  for (const room of rooms.keys()) expect(due, `due: ${room}: entries agree`).toContain(room);
  const places = new Map([...present].map(([conn, { room, epoch }]) => [conn, `${room} ${epoch}`]));
  expect(presentBy(events), 'events agree').toEqual(places);
  return present;
}

/** The present connections, by the events. */
function presentBy(events: PresenceEvent[]): Map<string, string> {
  const alive = new Map<string, Set<string>>();
  const left = new Set<string>();
  for (const { type, connId, roomId, epoch } of events) {
    const join = `${roomId} ${epoch}`;
    const joins = alive.get(connId) ?? new Set();
    alive.set(connId, joins);
    if (type === 'join') joins.add(join);
    else if (type === 'leave') {
      expect(left, `leaves agree: ${connId} left ${join} once`).not.toContain(`${connId} ${join}`);
      left.add(`${connId} ${join}`);
      joins.delete(join);
    }
  }
  const one = [...alive].filter(([, joins]) => joins.size > 0);
  return new Map(one.map(([conn, joins]) => [conn, [...joins].join(', ')]));
}

/**
 * All data of the masters under a prefix, with the prefix `prs:`: hashes as objects, sets and
 * sorted sets as sorted members.
 */
async function read(cluster: RedisCluster, keyPrefix: string): Promise<Map<string, object>> {
  const data = new Map<string, object>();
  for (const master of await cluster.masters()) {
    const client = await cluster.on(master);
    for (const key of await client.keys(`${keyPrefix}*`)) {
      const name = `prs:${key.slice(keyPrefix.length)}`;
      const type = await client.type(key);
      if (type === 'hash') data.set(name, await client.hgetall(key));
      else if (type === 'set') data.set(name, (await client.smembers(key)).sort());
      else if (type === 'zset') data.set(name, (await client.zrange(key, 0, '-1')).sort());
    }
  }
  return data;
}
