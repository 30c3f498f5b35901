// Masters of a cluster crash, hang or hand over while the cluster is in use. Writes that Redis
// acknowledged but had not replicated are lost with a master; the test counts and prints them.
import { expect, onTestFinished, test } from 'vitest';
import { Load } from '../cluster/load.js';
import { type RedisCluster, startCluster } from '../support/cluster.js';
import { createRandom, seed } from '../support/random.js';
import type { RedisServer } from '../support/redis.js';
import { eventually, slowness } from '../support/wait.js';
import { count } from './proven.js';

const FAILOVERS = count(3, 20);
const NODE_TIMEOUT_MS = 1_000;
/** Every slot is served again within this time. */
const RECOVERED_MS = NODE_TIMEOUT_MS + 5_000;
const WAYS = ['handed over', 'killed', 'stopped'] as const;
const ROOMS = 12;
/** Calls to a stopped master wait for this time, and their callers then repeat them. */
const COMMAND_TIMEOUT_MS = 1_000;

test(`3: ${FAILOVERS} failovers under load: back within the node timeout + 5 s, converged after each (seed ${seed})`, {
  timeout: 20_000 + FAILOVERS * 30_000,
}, async () => {
  const cluster = await startCluster({ nodeTimeoutMs: NODE_TIMEOUT_MS });
  onTestFinished(() => cluster[Symbol.asyncDispose]());
  const random = createRandom(2);
  const load = await Load.start({
    url: cluster.url,
    random,
    rooms: ROOMS,
    commandTimeoutMs: COMMAND_TIMEOUT_MS,
  });
  onTestFinished(() => load[Symbol.asyncDispose]());
  const took: Record<string, number[]> = {};
  const sum = { failed: 0, connections: 0, changes: 0 };
  for (let i = 0; i < FAILOVERS; i++) {
    const way = WAYS[i % WAYS.length] as (typeof WAYS)[number];
    const { master, replica } = random.pick(await replicated(cluster));
    const before = { lost: load.lost, errors: load.errors.length };
    const start = performance.now();
    await failOver(cluster, master, replica, way);
    // Recovered: every room accepts a join.
    await eventually(
      async () => {
        for (let room = 0; room < ROOMS; room++) {
          const connId = `probe${room}`;
          await load.client.join({ roomId: `r${room}`, userId: 'probe', connId, snapshot: false });
        }
      },
      { timeoutMs: RECOVERED_MS },
    );
    const ms = Math.round(performance.now() - start);
    took[way] = [...(took[way] ?? []), ms];
    if (way === 'stopped') master.resume();
    if (way === 'killed') await master.start();
    await cluster.settled();
    const changes = await load.whileIdle(async () => {
      await converged(load, way);
      return lostChanges(load);
    });
    const failed = load.errors.length - before.errors;
    const connections = load.lost - before.lost;
    console.log(
      `${way}: back after ${ms} ms, ${failed} calls failed; acknowledged and lost: ` +
        `${connections} connections, ${changes} changes of metadata`,
    );
    sum.failed += failed;
    sum.connections += connections;
    sum.changes += changes;
    expect(ms).toBeLessThan(RECOVERED_MS * slowness());
  }
  await load.stop();
  console.log(
    `${FAILOVERS} failovers, ${load.calls} calls: ${sum.failed} failed; acknowledged and lost: ` +
      `${sum.connections} connections, ${sum.changes} changes; ms to recovery: ${JSON.stringify(took)}`,
  );
  const eventsByValue = [...load.eventsByValue];
  const applied = eventsByValue.filter(([, changes]) => new Set(changes).size > 1);
  expect(applied, 'applied twice').toEqual([]);
  expect(
    eventsByValue.filter(([, changes]) => changes.length > 1),
    'told of twice',
  ).toEqual([]);
  // By connection and epoch: the time at which Redis applied it, and the number of its events.
  const joins = new Map<string, number[]>();
  for (const { type, connId, epoch, ts } of load.seen) {
    const join = `${connId} ${epoch}`;
    if (type === 'join') joins.set(join, [...(joins.get(join) ?? []), ts]);
  }
  const twice = [...joins].filter(([, times]) => times.length > 1);
  expect(twice, 'joined, or told of, twice').toEqual([]);
});

/** The masters with a replica: the cluster moves replicas to masters that have lost theirs. */
async function replicated(
  cluster: RedisCluster,
): Promise<{ master: RedisServer; replica: RedisServer }[]> {
  const masters = (await cluster.masters()).map(async (master) => {
    const [replica] = await cluster.replicasOf(master);
    return replica ? [{ master, replica }] : [];
  });
  return (await Promise.all(masters)).flat();
}

async function failOver(
  cluster: RedisCluster,
  master: RedisServer,
  replica: RedisServer,
  way: string,
): Promise<void> {
  if (way === 'killed') await master.kill();
  else if (way === 'stopped') master.pause();
  else await (await cluster.on(replica)).call('CLUSTER', 'FAILOVER');
}

/**
 * Every connection is in one room, and the acknowledged connections are in theirs, after a pass or
 * two of the reaper. A connection whose room was on a lost master can be back in its previous room;
 * a heartbeat with the newer epoch is then adopted there (spec 3.3). Such a join counts as lost.
 */
async function converged(load: Load, way: string): Promise<void> {
  const { client } = load;
  const takenBack = new Map<string, { roomId: string; epoch: number }>();
  await eventually(
    async () => {
      await client.reapOnce();
      const rooms = await Promise.all(
        Array.from({ length: ROOMS }, (_, i) => client.fetchRoomSnapshot(`r${i}`)),
      );
      const places = rooms.flat().filter(({ connId }) => connId.startsWith('c'));
      for (const [connId, expected] of load.places) {
        const found = places.filter((entry) => entry.connId === connId);
        expect(found.length, connId).toBeLessThan(2);
        // The next heartbeat detects what a failover reverted.
        if (!expected || found.length === 0) continue;
        const [{ roomId = '', epoch = 0 } = {}] = found;
        if (way !== 'handed over' && epoch === expected.epoch && roomId !== expected.roomId) {
          takenBack.set(connId, { roomId, epoch });
        } else {
          takenBack.delete(connId);
          expect(found, connId).toMatchObject([expected]);
        }
      }
    },
    { timeoutMs: 10_000, intervalMs: 200 },
  );
  for (const [connId, place] of takenBack) {
    load.places.set(connId, place);
    load.lost++;
  }
}

/**
 * The number of acknowledged changes that are not in the record; a lower bound if it also has
 * changes of unknown outcome.
 */
async function lostChanges(load: Load): Promise<number> {
  let lost = 0;
  for (const [channelName, acknowledged] of load.revisions) {
    const channel = { channelType: 'load', channelName };
    const { majorRevision } = await load.client.metadata.get(channel);
    lost += Math.max(0, acknowledged - majorRevision);
    load.revisions.set(channelName, majorRevision);
  }
  return lost;
}
