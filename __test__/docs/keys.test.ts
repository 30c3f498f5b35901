// docs/reference/redis-keys.md lists the keys and channels that a client uses, on each layout, and
// no others. MONITOR records the names in use, including those in scripts.
import { PresenceClient } from 'rollcall';
import { describe, expect, onTestFinished, test } from 'vitest';
import { sharedCluster } from '../support/cluster.js';
import { type RedisServer, startRedis } from '../support/redis.js';
import { eventually } from '../support/wait.js';
import { names, readPage, rows, section } from './tables.js';

const page = readPage('reference/redis-keys.md');

/** The names on the page for a layout. `also` are the values of the second column that apply. */
function documented(layout: 'v1' | 'slotted', also: string[]): string[] {
  const channels = rows(section(page, '## Channels'))
    .filter(([, where = '']) => where === 'both' || also.includes(where))
    .map(([channel = '']) => channel.replaceAll('`', ''));
  const keys = [section(page, '## Both layouts'), section(page, `## Layout ${layout}`)];
  return [...keys.flatMap(names), ...channels].sort();
}

/** The ids that the client below uses, with their placeholders on the page. */
const IDS = {
  roomId: 'theroom',
  userId: 'theuser',
  connId: 'theconn',
  channelType: 'thetype',
  channelName: 'thename',
  lockName: 'thelock',
};
const { roomId, userId, connId, channelType, channelName, lockName } = IDS;

/** A name in Redis with the placeholders of the page. */
function generic(name: string): string {
  const ids = Object.entries(IDS).reduce(
    (text, [field, id]) => text.replaceAll(id, `<${field}>`),
    name,
  );
  return ids
    .replace(/^prs:due:\d+$/, 'prs:due:<shard>')
    .replace(/^prs:lock_wake:.+$/, 'prs:lock_wake:<node>')
    .replace(/\{node:[0-9a-f]+\}/, '{node:<id>}')
    .replace(/^prs:node_calls:.+$/, 'prs:node_calls:<id>')
    .replace(/\{slot:[0-9a-f]+\}/, '{slot:<n>}')
    .replace(/^__keyevent@\d+__/, '__keyevent@<db>__');
}

/** Collects the names in the arguments of commands on these servers. */
async function listen(servers: RedisServer[]): Promise<Set<string>> {
  const received = new Set<string>();
  for (const server of servers) {
    const monitor = await (await server.client()).monitor();
    onTestFinished(() => monitor.disconnect());
    monitor.on('monitor', (_time: string, args: string[]) => {
      for (const arg of args) {
        // Except patterns and prefixes.
        if (/^(prs:|__keyevent@)[^*]*[^*:]$/.test(arg)) received.add(generic(arg));
      }
    });
  }
  return received;
}

/** Calls every method of a client. */
async function work(url: string, isCluster: boolean): Promise<void> {
  const open = (liveness: 'heartbeat' | 'node' = 'heartbeat') =>
    PresenceClient.connect({
      liveness,
      url,
      ttlMs: 60_000,
      stateStorage: 'separate',
      expiry: 'notifications',
      logger: {},
      limits: { commandTimeoutMs: 30_000 },
    });
  await using client = await open();
  await using other = await open();
  const handler = () => {};
  const ends = await Promise.all([
    client.subscribe(handler, { roomId }),
    client.metadata.subscribe(handler, { channelType, channelName }),
    client.locks.subscribe(handler, { name: lockName }),
  ]);
  // With sharded events, a subscription to all rooms uses the channels of the slots.
  if (isCluster) ends.push(await other.subscribe(handler));
  await client.startReaper();
  const { epoch } = await client.join({ roomId, userId, connId, state: { a: 1 } });
  await client.heartbeat({ connId, epoch, patchState: { a: 2 } });
  await other.getUserPresence(userId);
  await client.reapOnce();
  await client.metadata.set({ channelType, channelName, data: [{ key: 'k', value: 'v' }] });
  const lock = await client.locks.acquire(lockName, { ownerId: 'me' });
  const waiting = other.locks.acquire(lockName, { ownerId: 'you', waitMs: 30_000 });
  await eventually(async () => {
    expect((await client.locks.inspect(lockName))?.waiters).toBe(1);
  });
  await lock.release();
  await (await waiting).release();
  await client.leave(connId);
  await using node = await open('node');
  await node.join({ roomId, userId, connId });
  await node.leave(connId);
  await Promise.all(ends.map((end) => end()));
}

describe('redis-keys.md', () => {
  test('v1: lists the names that a client uses, and no others', async () => {
    await using server = await startRedis();
    const received = await listen([server]);
    await work(server.url, false);
    await eventually(() => expect([...received].sort()).toEqual(documented('v1', ['v1'])));
  });

  test('slotted, on a cluster: lists the names that a client uses, and no others', async () => {
    const cluster = await sharedCluster();
    onTestFinished(() => cluster[Symbol.asyncDispose]());
    const received = await listen(await cluster.masters());
    await work(cluster.url, true);
    await eventually(() => {
      expect([...received].sort()).toEqual(documented('slotted', ['slotted', 'cluster']));
    });
  });
});
