// Spec 3.7 (and 4.2, 3.10): thousands of random interleavings of join, heartbeat, leave and reap on
// a few connections by several clients, with TTLs that end in between. Afterwards all indices
// agree, and the events match the stored data.
import { setImmediate as turn } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { checkIndices, readIndices } from '../redis/indices.js';
import { createRandom, type Random, seed } from '../support/random.js';
import { size } from '../support/size.js';
import { eventually } from '../support/wait.js';
import { Replay } from './replay.js';
import {
  type AnyEvent,
  type Client,
  keysBesideNodes,
  onEveryStore,
  record,
  SHORT_TTL_MS,
} from './stores.js';

/** The minimum number of steps on each store. */
const STEPS = size(8_000, 24_000);
const STEPS_OF_A_ROUND = 1_000;
const NODES = 4;
/** The number of calls that each node has in flight. */
const LANES = 3;
/** The TTL of a round: from "expires between two calls" to "never". */
const TTLS = [2, 10, 40, 600_000];
const CONNS = ['c0', 'c1', 'c2', 'c3'];
const ROOMS = ['r0', 'r1', 'r2'];
const USERS = ['u0', 'u1'];

/** The reports of the calls of a round, to compare with the events. */
interface Reported {
  /** `<connId> <epoch>` of each acknowledged join. */
  joins: string[];
  left: number;
  changed: number;
  reaped: number;
}

/** One step on one node. `epochs` has this node's last epoch of each connection. */
async function step(
  node: Client,
  random: Random,
  epochs: Map<string, number>,
  reported: Reported,
): Promise<void> {
  const connId = random.pick(CONNS);
  const dice = random.next();
  if (dice < 0.3) {
    const roomId = random.pick(ROOMS);
    const userId = random.pick(USERS);
    const state = { n: random.int(0, 3) };
    const snapshot = random.chance(0.1);
    const { epoch } = await node.join({ roomId, userId, connId, state, snapshot });
    epochs.set(connId, epoch);
    reported.joins.push(`${connId} ${epoch}`);
  } else if (dice < 0.5) {
    if (await node.leave(connId)) reported.left++;
  } else if (dice < 0.6) {
    reported.reaped += (await node.reapOnce()).expired;
  } else {
    const known = epochs.get(connId);
    // Without an epoch, with the node's own epoch (which may be stale), or with a higher one.
    const epoch = random.chance(0.4) ? undefined : known && known + Number(random.chance(0.03));
    const patchState = random.chance(0.4) ? { n: random.int(0, 3), by: undefined } : undefined;
    try {
      const heartbeat = { connId, ...(epoch && { epoch }), ...(patchState && { patchState }) };
      if ((await node.heartbeat(heartbeat)).changed) reported.changed++;
    } catch (error) {
      expect(['CONNECTION_NOT_FOUND', 'STALE_EPOCH']).toContain((error as { code: string }).code);
    }
  }
}

onEveryStore('3.7 interleavings', (store) => {
  test(`3.7 ${STEPS} random steps leave no stale entry, and no event is missing or duplicated (seed ${seed})`, {
    timeout: 120_000,
  }, async () => {
    const watcher = await store.connect();
    const reaper = await store.connect({ ttlMs: SHORT_TTL_MS });
    const recorder = await record(watcher);
    const ofRoom = await record(await store.connect(), { roomId: 'r0' });
    const observer = store.name === 'redis' ? await lookAt(store.redis()) : undefined;
    const replay = new Replay();
    let replayed = 0;
    const catchUp = async () => {
      const events = await recorder.settled();
      const fresh = events.slice(replayed);
      replayed = events.length;
      for (const event of fresh) replay.apply(event);
      return fresh;
    };

    for (let round = 0; round < STEPS / STEPS_OF_A_ROUND; round++) {
      const ttlMs = TTLS[round % TTLS.length] as number;
      const reported: Reported = { joins: [], left: 0, changed: 0, reaped: 0 };
      const nodes = await Promise.all(
        Array.from({ length: NODES }, () => store.connect({ ttlMs })),
      );
      let steps = 0;
      await Promise.all(
        nodes.flatMap((node, n) => {
          const epochs = new Map<string, number>();
          return Array.from({ length: LANES }, async (_, lane) => {
            const random = createRandom(round * 1_000 + n * 10 + lane);
            while (steps < STEPS_OF_A_ROUND) {
              steps++;
              await step(node, random, epochs, reported);
              if (random.chance(0.02)) await turn();
            }
          });
        }),
      );

      // The data in Redis, expired or not, match the events at this moment.
      const events = await catchUp();
      if (observer) {
        const indices = await readIndices(observer);
        expect(checkIndices(indices)).toEqual(replay.present);
      }
      checkReports(events, reported);

      // Then expired connections are reaped, and snapshots show the rest.
      await eventually(async () => {
        for (const node of [...nodes, reaper]) await node.reapOnce();
        await catchUp();
        expect(await snapshots(watcher)).toEqual(viewOf(replay));
      });

      // The next round starts empty; all of its joins must be new.
      for (const connId of CONNS) await watcher.leave(connId);
      await eventually(async () => {
        await reaper.reapOnce();
        await catchUp();
        expect(replay.present).toEqual([]);
        expect(await keysBesideNodes(observer)).toBe(0);
      });
      await Promise.all(nodes.map((node) => node.close()));
    }

    // A subscriber to one room sees the same events of that room in the same order.
    expect(await ofRoom.settled()).toEqual(
      (await recorder.settled()).filter((event) => event.roomId === 'r0'),
    );
    expect(replay.joins.size).toBeGreaterThan(STEPS / 10);
    expect(watcher.metrics().eventsDropped).toBe(0);
  });
});

function isTimeout(event: AnyEvent): boolean {
  return event.type === 'leave' && event.reason === 'timeout';
}

/** Every report has its event, and every event has its report. */
function checkReports(events: AnyEvent[], reported: Reported): void {
  const joined = events.filter((event) => event.type === 'join');
  expect(joined.map((event) => `${event.connId} ${event.epoch}`).sort()).toEqual(
    reported.joins.sort(),
  );
  const left = events.filter((event) => event.type === 'leave' && event.reason === 'left');
  expect(left.length).toBe(reported.left);
  // Patches in one batch produce one event.
  const updates = events.filter((event) => event.type === 'update').length;
  expect(updates).toBeLessThanOrEqual(reported.changed);
  expect(updates > 0).toBe(reported.changed > 0);
  // A join announces expired connections that it replaces; a reaper announces all that it removes.
  const timeouts = events.filter(isTimeout).length;
  expect(timeouts).toBeGreaterThanOrEqual(reported.reaped);
}

async function snapshots(client: Client): Promise<unknown[]> {
  const rooms = await Promise.all(ROOMS.map((room) => client.fetchRoomSnapshot(room)));
  return rooms
    .flat()
    .map(({ roomId, connId, userId, state }) => ({ roomId, connId, userId, state }))
    .sort(byPlace);
}

function viewOf(replay: Replay): unknown[] {
  return [...replay.rooms]
    .flatMap(([roomId, room]) =>
      [...room].map(([connId, { userId, state }]) => ({ roomId, connId, userId, state })),
    )
    .sort(byPlace);
}

type Entry = { roomId: string; connId: string };

function byPlace(a: Entry, b: Entry): number {
  return `${a.roomId} ${a.connId}` < `${b.roomId} ${b.connId}` ? -1 : 1;
}

async function lookAt({ server, db }: { server: { client(db: number): unknown }; db: number }) {
  return (await server.client(db)) as Parameters<typeof readIndices>[0];
}
