// Rooms that a node attends: who looks at them, what dies in them, and what becomes of them when the
// node is gone, was stopped, or lost its connection.
import type { Redis } from 'ioredis';
import { PresenceClient } from 'rollcall';
import { beforeEach, describe, expect, test } from 'vitest';
import { writeJoin } from '../../benchmark/lib/population.mjs';
import {
  type AnyState,
  type Client,
  LONG_TTL_MS,
  type Recorder,
  record,
  silent,
} from '../conformance/stores.js';
import { untilStopped } from '../support/process.js';
import { type RedisServer, startRedis } from '../support/redis.js';
import { eventually } from '../support/wait.js';
import {
  attendants,
  BEAT_MS,
  fewestLooks,
  nodeMarks,
  OPTIONS,
  passed,
  place,
  SWEEP_MS,
  startBeating,
  TTL_MS,
} from './attended.js';
import { expectOnce, expectTimely, leavesOf, MARGIN_MS, millis, readLastSeen } from './expiry.js';
import { endAll, startNode } from './nodes.js';

const ROOMS = 30;
const ROOM_IDS = Array.from({ length: ROOMS }, (_, room) => `r${room}`);
const LATE = { ttlMs: TTL_MS, latestMs: SWEEP_MS + MARGIN_MS };

let server: RedisServer;
let redis: Redis;
/** Neither reaps nor sends heartbeats. */
let long: Client;
let recorder: Recorder;

beforeEach(async () => {
  server = await startRedis();
  redis = await server.client();
  long = await PresenceClient.connect<AnyState>({
    url: server.url,
    ttlMs: LONG_TTL_MS,
    logger: silent,
  });
  recorder = await record(long);
  return async () => {
    await long.close();
    await server[Symbol.asyncDispose]();
  };
});

/** When connections of all rooms were last heard of, those named so. */
async function lastSeenOf(name: string): Promise<Map<string, number>> {
  const all = await readLastSeen(redis, ROOM_IDS);
  return new Map([...all].filter(([connId]) => connId.replace(/\d+$/, '') === name));
}

async function allAttended(...clients: { client: Client }[]): Promise<void> {
  const sum = () =>
    clients.reduce((total, { client }) => total + client.metrics().roomsAttended, 0);
  await eventually(() => expect(sum()).toBe(ROOMS), { timeoutMs: 4 * TTL_MS });
}

describe('a room that is attended', () => {
  test('is attended by one node, whoever has connections there; 6.1 what dies is found in time', async () => {
    const nodes = [
      await startBeating(server.url),
      await startBeating(server.url),
      await startBeating(server.url),
    ] as const;
    for (const [n, node] of nodes.entries()) {
      await node.join(`n${n}-`, ROOMS);
      await node.client.startReaper();
    }
    await allAttended(...nodes);
    const by = new Set((await attendants(redis)).values());
    expect(by.has(undefined)).toBe(false);
    // A node that sees none of the rooms come due has yet to see one that it may attend.
    expect(by.size).toBeLessThanOrEqual(nodes.length);

    // Those of one node fall silent, whoever attends the rooms; and others that no node of ours has made.
    const pipeline = redis.pipeline();
    const now = await millis(redis);
    for (let room = 0; room < ROOMS; room++) {
      const { roomId, userId, connId } = place('foreign', room);
      const stateJson = '{}';
      writeJoin(pipeline, { roomId, userId, connId, epoch: now, stateJson, now });
      pipeline.pexpire(`prs:conn:${connId}`, TTL_MS);
    }
    await pipeline.exec();
    nodes[1].drop('n1-');
    await passed(redis, 2 * BEAT_MS);
    const lastSeen = new Map([...(await lastSeenOf('n1-')), ...(await lastSeenOf('foreign'))]);
    expect(lastSeen.size).toBe(2 * ROOMS);
    await eventually(() => expect(leavesOf(recorder.events)).toHaveLength(2 * ROOMS), {
      timeoutMs: 3 * TTL_MS,
    });
    expectTimely(leavesOf(await recorder.settled()), lastSeen, LATE);

    // 2.3: marks go with the last room.
    expect((await nodeMarks(redis)).length).toBeGreaterThan(0);
    for (const n of [0, 2] as const) {
      nodes[n].drop(`n${n}-`);
      for (let room = 0; room < ROOMS; room++) await nodes[n].client.leave(`n${n}-${room}`);
    }
    expect(await server.dbsize()).toBe(0);
    await passed(redis, 2 * SWEEP_MS);
    expect(await server.dbsize()).toBe(0);
    await eventually(() => {
      for (const { client } of nodes) expect(client.metrics().roomsAttended).toBe(0);
    });
  }, 60_000);

  test('whose heartbeats come slowly: nobody is removed; and when none comes: all are, in time', async () => {
    const node = await startBeating(server.url);
    await node.join('slow', ROOMS);
    await node.client.startReaper();
    await allAttended(node);
    node.drop('slow');
    const ids = ROOM_IDS.map((_, room) => ({ connId: `slow${room}` }));
    for (let beat = 0; beat < 4; beat++) {
      await passed(redis, TTL_MS * 0.7);
      await node.client.heartbeatMany(ids);
    }
    const lastSeen = await lastSeenOf('slow');
    expect(lastSeen.size).toBe(ROOMS);
    expect(leavesOf(recorder.events)).toEqual([]);
    await eventually(() => expect(leavesOf(recorder.events)).toHaveLength(ROOMS), {
      timeoutMs: 3 * TTL_MS,
    });
    expectTimely(leavesOf(await recorder.settled()), lastSeen, LATE);
    await eventually(() => expect(node.client.metrics().roomsAttended).toBe(0));
    expect(await server.dbsize()).toBe(0);
  }, 60_000);

  test('whose heartbeats all bring patches stays attended', async () => {
    const node = await startBeating(server.url);
    await node.join('p', ROOMS);
    await node.client.startReaper();
    await allAttended(node);
    node.drop('p');
    let n = 0;
    const looks = await fewestLooks(
      () => node.client.metrics().roomsSwept,
      async () => {
        const end = (await millis(redis)) + 2 * TTL_MS;
        while ((await millis(redis)) < end) {
          const patchState = { n: n++ };
          await node.client.heartbeatMany(
            ROOM_IDS.map((_, room) => ({ connId: `p${room}`, patchState })),
          );
          await passed(redis, BEAT_MS);
        }
      },
    );
    expect(looks, 'looks in two TTLs').toBeLessThan(ROOMS / 2);
  }, 60_000);

  test('that its node never takes care of is found by the check of all rooms', async () => {
    const reaper = await PresenceClient.connect<AnyState>({
      url: server.url,
      ...OPTIONS,
      fallbackSweepMs: 300,
      logger: silent,
    });
    await using _ = reaper;
    const joining = await startBeating(server.url);
    const places = ROOM_IDS.map((_, room) => place('lost', room));
    for (const one of places) await joining.client.join(one);
    // As if a node had claimed them and knew nothing of it; nothing says until when it answers for them.
    for (const shard of await redis.keys('prs:due:*')) {
      const rooms = await redis.zrangebyscore(shard, 0, `(${2 ** 52}`);
      await redis.zadd(shard, ...rooms.flatMap((room) => [-12345, room]));
    }
    await reaper.startReaper();
    await eventually(() => expect(leavesOf(recorder.events)).toHaveLength(ROOMS), {
      timeoutMs: 5 * TTL_MS,
    });
    expectOnce(leavesOf(await recorder.settled()));
    expect(await server.dbsize()).toBe(0);
    expect(reaper.metrics()).toMatchObject({ expired: ROOMS, repairs: 0 });
  }, 60_000);
});

describe('a node that attends rooms', () => {
  test('is SIGSTOPped for longer than it answers for them: others find what dies; it takes another id', async () => {
    const victim = await startNode({ url: server.url, ...OPTIONS });
    const items = ROOM_IDS.map((_, room) => place('v', room));
    const alive = items.map(({ connId }) => connId);
    await victim.tell('join', { items, alive, everyMs: BEAT_MS });
    await victim.tell('startReaper');
    const attended = async () => (await victim.tell('metrics')).metrics?.roomsAttended;
    await eventually(async () => expect(await attended()).toBe(ROOMS), { timeoutMs: 4 * TTL_MS });
    const other = await startBeating(server.url);
    await other.join('o', ROOMS);
    await other.client.startReaper();

    // Not conspicuous yet.
    other.drop('o');
    await passed(redis, 2 * BEAT_MS);
    const lastSeen = await lastSeenOf('o');
    process.kill(victim.pid, 'SIGSTOP');
    await untilStopped(victim.pid);
    const [before, ...others] = new Set((await attendants(redis)).values());
    expect([typeof before, others]).toEqual(['string', []]);
    await eventually(async () => {
      expect([...(await attendants(redis)).values()]).not.toContain(before);
    });
    process.kill(victim.pid, 'SIGCONT');
    await eventually(() => expect(leavesOf(recorder.events)).toHaveLength(ROOMS), {
      timeoutMs: 2 * TTL_MS,
    });
    expectTimely(leavesOf(await recorder.settled()), lastSeen, LATE);
    await eventually(
      async () => {
        const by = [...new Set((await attendants(redis)).values())];
        expect(by).toHaveLength(1);
        expect(by).not.toContain(undefined);
        expect(by).not.toContain(before);
        expect(await attended()).toBe(ROOMS);
      },
      { timeoutMs: 4 * TTL_MS },
    );
    // Nothing is left of what it said under the id that it had.
    await eventually(async () => {
      expect((await nodeMarks(redis)).filter((mark) => mark.startsWith(`${before} `))).toEqual([]);
    });
    expect(leavesOf(await recorder.settled())).toHaveLength(ROOMS);
    await endAll(victim);
  }, 60_000);

  test('loses its connection: it takes another id, and attends them again', async () => {
    const node = await startBeating(server.url);
    await node.join('n', ROOMS);
    await node.client.startReaper();
    await allAttended(node);
    const [before] = new Set((await attendants(redis)).values());
    await redis.call('CLIENT', 'KILL', 'TYPE', 'normal');
    await eventually(
      async () => {
        const by = [...new Set((await attendants(redis)).values())];
        expect(by).toHaveLength(1);
        expect(by).not.toContain(undefined);
        expect(by).not.toContain(before);
      },
      { timeoutMs: 4 * TTL_MS },
    );
    expect(node.client.metrics().roomsAttended).toBe(ROOMS);
    expect(leavesOf(recorder.events)).toEqual([]);
  }, 60_000);
});
