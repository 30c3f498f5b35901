// Spec 14.3 and 14.4 with real server processes that answer for their connections: one is killed,
// stopped past its lease, or blocked, and Redis loses everything. On each layout and on a cluster.
import { PresenceClient, type PresenceEvent } from 'rollcall';
import { describe, expect, test } from 'vitest';
import { silent } from '../conformance/stores.js';
import { type Fixture, startFixture } from '../support/process.js';
import { size } from '../support/size.js';
import { eventually, slowness } from '../support/wait.js';
import { PLACES } from './places.js';

type Message = { joined: number } | { heartbeat: string; answer: string } | { blocked: number };

const LEASE_MS = 2_000;
const SWEEP_MS = 500;
const CONNECTIONS = size(400, 10_000);

const heartbeat = (node: Fixture<Message>, connId: string, seen = node.messages.length) => {
  node.send({ heartbeat: connId });
  return node
    .message((message) => 'heartbeat' in message && node.messages.indexOf(message) >= seen)
    .then((message) => 'answer' in message && message.answer);
};

describe.each(PLACES)('14 nodes that die [$title]', ({ layout, open }) => {
  const options = { layout, nodeLeaseMs: LEASE_MS, sweepIntervalMs: SWEEP_MS };

  /** Two nodes with connections, and a client that records all events. */
  async function fleet(more: { nodeWatchdogMs?: number } = {}, connections = CONNECTIONS) {
    const opened: AsyncDisposable[] = [];
    const use = <T extends AsyncDisposable>(one: T): T => {
      opened.unshift(one);
      return one;
    };
    const place = use(await open());
    const start = (name: string) =>
      use(
        startFixture<Message>('fleet/fixtures/owner.mjs', {
          args: [
            JSON.stringify({ ...options, ...more, url: place.url }),
            name,
            String(connections),
          ],
        }),
      );
    const [a, b] = [start('a'), start('b')];
    await Promise.all([a, b].map((node) => node.message((message) => 'joined' in message, 60_000)));
    const watcher = use(
      await PresenceClient.connect({ url: place.url, ...options, logger: silent }),
    );
    const events: PresenceEvent[] = [];
    await watcher.subscribe((event) => void events.push(event));
    return {
      a,
      b,
      watcher,
      events,
      admins: place.admins,
      [Symbol.asyncDispose]: async () => {
        for (const one of opened) await one[Symbol.asyncDispose]();
      },
    };
  }

  const of = (name: string, count = CONNECTIONS) =>
    Array.from({ length: count }, (_, i) => `${name}-${i}`).sort();
  const leaves = (events: PresenceEvent[]) =>
    events.filter(({ type }) => type === 'leave').map(({ connId }) => connId);

  test('14.3 killed: its connections leave, each once, in time, and no others', {
    timeout: 120_000,
  }, async () => {
    await using world = await fleet();
    const { a, b, events } = world;
    await b.kill();
    const killed = Date.now();
    await eventually(() => leaves(events).length >= CONNECTIONS, { timeoutMs: 30_000 });
    const took = Date.now() - killed;
    expect(leaves(events).sort()).toEqual(of('b'));
    expect(new Set(events.map((event) => 'reason' in event && event.reason))).toEqual(
      new Set(['timeout']),
    );
    expect(took).toBeLessThan((LEASE_MS + SWEEP_MS + 2_000) * slowness());
    expect(await heartbeat(a, 'a-0')).toBe('alive');
    a.send('end');
    await a.exited;
    await eventually(() => leaves(events).length >= 2 * CONNECTIONS, { timeoutMs: 30_000 });
    expect(leaves(events).sort()).toEqual([...of('a'), ...of('b')].sort());
  });

  test('14.3 stopped past its lease: it learns it before it answers a heartbeat', {
    timeout: 60_000,
  }, async () => {
    const count = 60;
    await using world = await fleet({}, count);
    const { b, events } = world;
    process.kill(b.pid, 'SIGSTOP');
    await eventually(() => leaves(events).length >= count, { timeoutMs: 20_000 });
    process.kill(b.pid, 'SIGCONT');
    const answers = await Promise.all(
      [0, 1, 2].map((i) => heartbeat(b, `b-${i}`, b.messages.length + i)),
    );
    expect(answers).toEqual(Array(3).fill('CONNECTION_NOT_FOUND'));
    expect(leaves(events).sort()).toEqual(of('b', count));
  });

  test('14.1 blocked for less than nodeWatchdogMs it lives, for longer it does not', {
    timeout: 60_000,
  }, async () => {
    const count = 20;
    await using world = await fleet({ nodeWatchdogMs: 3_000 }, count);
    const { b, events } = world;
    // Longer than the lease: the core renews it.
    b.send({ block: LEASE_MS + 500 });
    await b.message((message) => 'blocked' in message, 20_000);
    expect(await heartbeat(b, 'b-0')).toBe('alive');
    expect(leaves(events)).toEqual([]);
    b.send({ block: 3_000 + LEASE_MS + SWEEP_MS + 4_000 });
    await eventually(() => leaves(events).length >= count, { timeoutMs: 20_000 });
    await b.message((message) => 'blocked' in message && message.blocked > 3_000, 20_000);
    expect(await heartbeat(b, 'b-0')).toBe('CONNECTION_NOT_FOUND');
    expect(leaves(events).sort()).toEqual(of('b', count));
  });

  test('14.4 Redis loses everything: all connections are joined again, and nobody leaves', {
    timeout: 60_000,
  }, async () => {
    const count = 200;
    await using world = await fleet({}, count);
    const { a, b, watcher, events, admins } = world;
    await Promise.all(admins.map((admin) => admin.flushall()));
    const listed = async () => {
      const rooms = await Promise.all(
        Array.from({ length: 25 }, (_, i) => watcher.fetchRoomSnapshot(`room-${i}`)),
      );
      return rooms.flat();
    };
    await eventually(
      async () =>
        expect((await listed()).map(({ connId }) => connId).sort()).toEqual(
          [...of('a', count), ...of('b', count)].sort(),
        ),
      { timeoutMs: 20_000, intervalMs: 50 },
    );
    for (const { connId, state } of await listed()) {
      expect(state).toEqual({ i: Number(connId.split('-')[1]) });
    }
    expect(leaves(events)).toEqual([]);
    expect(await heartbeat(a, 'a-7')).toBe('alive');
    expect(await heartbeat(b, 'b-7')).toBe('alive');
  });
});
