// Rooms that nodes attend, each claim with its control: what they save, and that a node that dies takes
// nothing with it.
import { expect, test } from 'vitest';
import {
  attendants,
  BEAT_MS,
  fewestLooks,
  LATE,
  OPTIONS,
  passed,
  place,
  ROOM_IDS,
  ROOMS,
  roomsAttended,
  startBeating,
  startReaping,
  startVictim,
  TTL_MS,
} from '../expiry/attended.js';
import {
  expectOnce,
  expectTimely,
  leavesOf,
  readLastSeen,
  startRecorded,
} from '../expiry/expiry.js';
import { type Node, startNode } from '../expiry/nodes.js';
import { startProxy } from '../support/proxy.js';
import { createRandom } from '../support/random.js';
import { startRedis } from '../support/redis.js';
import { eventually, slowness } from '../support/wait.js';
import { count, environmentWithout, proven } from './proven.js';

proven(
  'issue 4, 1: as long as heartbeats come, no pass looks at a room',
  { without: 'attending', fails: /looks in two TTLs/ },
  async () => {
    await using server = await startRedis();
    const redis = await server.client();
    const nodes = [await startReaping(server.url, 'n0-'), await startReaping(server.url, 'n1-')];
    const looks = () => nodes.reduce((sum, { client }) => sum + client.metrics().roomsSwept, 0);
    // Each comes due once before anybody can attend it.
    await eventually(() => looks() >= ROOMS, { timeoutMs: 3 * TTL_MS });
    await passed(redis, TTL_MS);
    const fewest = await fewestLooks(looks, () => passed(redis, 2 * TTL_MS));
    // Now and then a heartbeat is late on a busy machine.
    expect(fewest, 'looks in two TTLs').toBeLessThan(ROOMS / 2);
    await eventually(() => expect(roomsAttended(nodes)).toBe(ROOMS), { timeoutMs: 3 * TTL_MS });
  },
);

proven(
  'issue 4, 4: a node that is SIGKILLed: what dies in the rooms that it attended is found in time',
  { without: 'lapsing' },
  async (off) => {
    await using world = await startRecorded();
    const { server, redis, recorder } = world;
    const victim = await startVictim(server.url, environmentWithout(...off));
    // Another node's, in the same rooms; when it is killed, they have not been silent for long enough to be
    // conspicuous.
    const other = await startReaping(server.url, 'o');
    other.drop('o');
    await passed(redis, 2 * BEAT_MS);
    await victim.kill();
    expect((await attendants(redis)).get('r0'), 'who attends r0').toBeDefined();
    const lastSeen = await readLastSeen(redis, ROOM_IDS);
    expect(lastSeen.size).toBe(2 * ROOMS);
    await eventually(() => expect(leavesOf(recorder.events)).toHaveLength(2 * ROOMS), {
      timeoutMs: 3 * TTL_MS,
    });
    expectTimely(leavesOf(await recorder.settled()), lastSeen, LATE);
    expect(await server.dbsize()).toBe(0);
  },
);

/** For how long nodes are killed, stopped and cut off. */
const RANDOM_MS = count(25_000, 250_000);

test('issue 4, 4: nodes killed, stopped and cut off at random: one leave each, in time', {
  timeout: RANDOM_MS + 120_000,
}, async () => {
  const random = createRandom();
  await using world = await startRecorded();
  const { server, redis, recorder } = world;
  // What Redis has heard of whom, and when, looked at all the time.
  const lastSeen = new Map<string, number>();
  /** Of nodes that have attended rooms. */
  const ids = new Set<string>();
  let sampling = true;
  const sampled = (async () => {
    while (sampling) {
      for (const [conn, ms] of await readLastSeen(redis, ROOM_IDS)) lastSeen.set(conn, ms);
      for (const id of (await attendants(redis)).values()) if (id !== undefined) ids.add(id);
      await passed(redis, 20);
    }
  })();

  // Somebody is always there.
  const steady = await startBeating(server.url);
  await steady.join('steady', ROOMS / 3);
  await steady.client.startReaper();
  const ways = { killed: 0, stopped: 0, cut: 0 };
  let conns = 0;
  let running = true;
  /** One node after the other, each for as long as it lives. */
  const lane = async (name: string) => {
    await using proxy = await startProxy(server.port);
    while (running) {
      const node: Node = await startNode({ url: proxy.url, ...OPTIONS });
      await node.tell('startReaper');
      let mine: string[] = [];
      const steps = random.int(10, 30);
      for (let step = 0; running && step < steps; step++) {
        const way = random.next();
        if (way < 0.4 || mine.length === 0) {
          const items = Array.from({ length: random.int(1, 10) }, () => ({
            ...place(name, random.int(0, ROOMS - 1)),
            connId: `${name}${conns++}`,
          }));
          const alive = items.map(({ connId }) => connId);
          await node.tell('join', { items, alive, everyMs: BEAT_MS });
          mine.push(...alive);
        } else if (way < 0.6) {
          const connIds = mine.filter(() => random.chance(0.2));
          mine = mine.filter((connId) => !connIds.includes(connId));
          await node.tell('drop', { connIds });
        } else if (way < 0.7) {
          const connId = random.pick(mine);
          mine = mine.filter((id) => id !== connId);
          await node.tell('leave', { connId });
        } else if (way < 0.8) {
          proxy.cut();
          ways.cut++;
        } else if (way < 0.9) {
          process.kill(node.pid, 'SIGSTOP');
          await passed(redis, random.int(50, 2 * TTL_MS));
          process.kill(node.pid, 'SIGCONT');
          ways.stopped++;
        }
        await passed(redis, random.int(10, 1000));
      }
      await node.kill();
      ways.killed++;
    }
  };
  const lanes = ['a', 'b', 'c', 'd'].map(lane);
  await passed(redis, RANDOM_MS);
  running = false;
  await Promise.all(lanes);
  // It cleans up behind all of them.
  steady.drop('steady');
  await eventually(async () => expect(await server.dbsize()).toBe(0), { timeoutMs: 3 * TTL_MS });
  sampling = false;
  await sampled;

  const events = await recorder.settled();
  const leaves = leavesOf(events);
  expectOnce(leaves);
  const joins = events.filter(({ type }) => type === 'join');
  const named = (all: typeof events) => all.map(({ connId, epoch }) => `${connId} ${epoch}`);
  expect(named(leaves).sort()).toEqual(named(joins).sort());
  const late = leaves
    .filter(({ reason }) => reason === 'timeout')
    .map(({ connId, ts }) => ts - (lastSeen.get(connId) ?? 0) - TTL_MS);
  console.log(
    `${joins.length} joins, ${late.length} timed out`,
    ways,
    `late: ${Math.max(...late)}`,
  );
  expect(late.length).toBeGreaterThan(50);
  expect(Math.min(...late)).toBeGreaterThanOrEqual(0);
  expect(Math.max(...late)).toBeLessThanOrEqual(LATE.latestMs * slowness());
  expect(ids.size, 'nodes that attended rooms, by the index').toBeGreaterThan(2);
});
