// Masters that die, hang or hand over while the cluster is in use. What Redis acknowledged and had not
// replicated yet is lost with a master; how much is counted and printed.
import { expect, onTestFinished, test } from 'vitest';
import { type RedisCluster, startCluster } from '../support/cluster.js';
import { createRandom, seed } from '../support/random.js';
import type { RedisServer } from '../support/redis.js';
import { eventually } from '../support/wait.js';
import { Load } from './load.js';

/** `ROLLCALL_FAILOVERS=20` for the long run. */
const FAILOVERS = Number(process.env.ROLLCALL_FAILOVERS ?? 3);
const NODE_TIMEOUT_MS = 1_000;
const WAYS = ['handed over', 'killed', 'stopped'] as const;

test(`${FAILOVERS} failovers under load: back within the node timeout + 5 s (seed ${seed})`, {
  timeout: 20_000 + FAILOVERS * 25_000,
}, async () => {
  const cluster = await startCluster({ nodeTimeoutMs: NODE_TIMEOUT_MS });
  onTestFinished(() => cluster[Symbol.asyncDispose]());
  const random = createRandom(2);
  const load = await Load.start({ url: cluster.url, random });
  onTestFinished(() => load[Symbol.asyncDispose]());
  for (let i = 0; i < FAILOVERS; i++) {
    const way = WAYS[i % WAYS.length] as (typeof WAYS)[number];
    const masters = await cluster.masters();
    const master = masters[random.int(0, masters.length - 1)] as RedisServer;
    const before = { lost: load.lost, errors: load.errors.length };
    const start = performance.now();
    await failOver(cluster, master, way);
    // Recovered: every room takes a join.
    await eventually(
      async () => {
        for (let room = 0; room < 12; room++) {
          const connId = `probe${room}`;
          await load.client.join({ roomId: `r${room}`, userId: 'probe', connId, snapshot: false });
        }
      },
      { timeoutMs: NODE_TIMEOUT_MS + 5_000 },
    );
    const took = Math.round(performance.now() - start);
    if (way === 'stopped') master.resume();
    if (way === 'killed') await master.start();
    await cluster.settled();
    console.log(
      `${way}: back after ${took} ms, ${load.errors.length - before.errors} calls failed, ` +
        `${load.lost - before.lost} acknowledged connections lost`,
    );
    expect(took).toBeLessThan(NODE_TIMEOUT_MS + 5_000);
  }
  await load.stop();
  await converged(load);
});

async function failOver(cluster: RedisCluster, master: RedisServer, way: string): Promise<void> {
  const [replica] = await cluster.replicasOf(master);
  if (!replica) throw new Error('the master has no replica');
  if (way === 'killed') await master.kill();
  else if (way === 'stopped') master.pause();
  else await (await cluster.on(replica)).call('CLUSTER', 'FAILOVER');
}

/** Everybody is in one place, indices agree, and a pass or two of the reaper make it so. */
async function converged(load: Load): Promise<void> {
  const { client } = load;
  await eventually(
    async () => {
      await client.reapOnce();
      const rooms = await Promise.all(
        Array.from({ length: 12 }, (_, i) => client.fetchRoomSnapshot(`r${i}`)),
      );
      const places = rooms.flat().filter(({ connId }) => connId.startsWith('c'));
      for (const [connId, placed] of load.placed) {
        const found = places.filter((entry) => entry.connId === connId);
        if (placed) expect(found, connId).toMatchObject([placed]);
      }
    },
    { timeoutMs: 10_000, intervalMs: 200 },
  );
}
