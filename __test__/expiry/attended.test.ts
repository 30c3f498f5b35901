// Rooms that a node attends: who looks at them, what dies in them, and what becomes of them when the
// node is gone, was stopped, or lost its connection.
import type { Redis } from 'ioredis';
import { PresenceClient } from 'rollcall';
import { beforeEach, describe, expect, test } from 'vitest';
import { writeJoin } from '../../benchmark/lib/population.mjs';
import { type AnyState, type Recorder, silent } from '../conformance/stores.js';
import { MARKS } from '../redis/indices.js';
import { untilStopped } from '../support/process.js';
import type { RedisServer } from '../support/redis.js';
import { eventually } from '../support/wait.js';
import {
  attendants,
  attendedBy,
  BEAT_MS,
  type Beating,
  fewestLooks,
  LATE,
  nameOf,
  nodeMarks,
  OPTIONS,
  passed,
  place,
  ROOM_IDS,
  ROOMS,
  roomsAttended,
  SWEEP_MS,
  startBeating,
  startReaping,
  startVictim,
  TTL_MS,
} from './attended.js';
import {
  expectOnce,
  expectTimely,
  leavesOf,
  millis,
  readLastSeen,
  startRecorded,
} from './expiry.js';
import { endAll } from './nodes.js';

let server: RedisServer;
let redis: Redis;
let recorder: Recorder;

beforeEach(async () => {
  const world = await startRecorded();
  ({ server, redis, recorder } = world);
  return () => world[Symbol.asyncDispose]();
});

/** When connections of all rooms were last heard of, those named so. */
async function lastSeenOf(name: string): Promise<Map<string, number>> {
  const all = await readLastSeen(redis, ROOM_IDS);
  return new Map([...all].filter(([connId]) => nameOf(connId) === name));
}

async function allAttended(...nodes: Beating[]): Promise<void> {
  await eventually(() => expect(roomsAttended(nodes)).toBe(ROOMS), { timeoutMs: 4 * TTL_MS });
}

/** That one node attends all rooms, by another id than that. */
async function expectAnotherThan(before: string | undefined): Promise<void> {
  const by = [...new Set((await attendants(redis)).values())];
  expect(by).toHaveLength(1);
  expect(by).not.toContain(undefined);
  expect(by).not.toContain(before);
}

describe('a room that is attended', () => {
  test('is attended by one node, whoever has connections there; 6.1 what dies is found in time', async () => {
    const nodes = [
      await startReaping(server.url, 'n0-'),
      await startReaping(server.url, 'n1-'),
      await startReaping(server.url, 'n2-'),
    ] as const;
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
    const node = await startReaping(server.url, 'slow');
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
    const node = await startReaping(server.url, 'p');
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
    expect(node.client.metrics().roomsAttended).toBe(ROOMS);
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
      const rooms = await redis.zrangebyscore(shard, 0, `(${MARKS}`);
      await redis.zadd(shard, ...rooms.flatMap((room) => [-12345, room]));
    }
    await reaper.startReaper();
    await eventually(() => expect(leavesOf(recorder.events)).toHaveLength(ROOMS), {
      timeoutMs: 5 * TTL_MS,
    });
    expectOnce(leavesOf(await recorder.settled()));
    expect(await server.dbsize()).toBe(0);
    // A pass counts when it has ended, and its events come before.
    await eventually(() => {
      expect(reaper.metrics()).toMatchObject({ expired: ROOMS, repairs: 0 });
    });
  }, 60_000);
});

describe('a node that attends rooms', () => {
  test('is SIGSTOPped for longer than it answers for them: others find what dies; it takes another id', async () => {
    const victim = await startVictim(server.url);
    const other = await startReaping(server.url, 'o');

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
        await expectAnotherThan(before);
        expect(await attendedBy(victim)).toBe(ROOMS);
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
    const node = await startReaping(server.url, 'n');
    await allAttended(node);
    const [before] = new Set((await attendants(redis)).values());
    await redis.call('CLIENT', 'KILL', 'TYPE', 'normal');
    await eventually(() => expectAnotherThan(before), { timeoutMs: 4 * TTL_MS });
    expect(node.client.metrics().roomsAttended).toBe(ROOMS);
    expect(leavesOf(recorder.events)).toEqual([]);
  }, 60_000);
});
