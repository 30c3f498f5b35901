// When one master of a cluster is down, heartbeats of connections on other masters are delayed only
// for the time in which the master may return.
import { expect, onTestFinished, test } from 'vitest';
import { openClient } from '../support/clients.js';
import { startCluster, UNHURRIED_MS } from '../support/cluster.js';
import { eventually, startClock } from '../support/wait.js';

const COMMAND_TIMEOUT_MS = 1_000;

test('7: a master that is down fails no heartbeat of other masters and delays them only briefly', async () => {
  const config = { 'cluster-require-full-coverage': 'no' };
  const cluster = await startCluster({
    replicas: 0,
    nodeTimeoutMs: UNHURRIED_MS,
    server: { config },
  });
  onTestFinished(() => cluster[Symbol.asyncDispose]());
  const limits = { commandTimeoutMs: COMMAND_TIMEOUT_MS };
  const client = await openClient({ url: cluster.url, limits });
  const [dead] = await cluster.masters();
  const conns = { healthy: [] as string[], dead: [] as string[] };
  for (let i = 0; i < 30; i++) {
    const is = (await cluster.ownerOf(`prs:{room:r${i}}:events`)) === dead ? 'dead' : 'healthy';
    conns[is].push(`c${i}`);
    await client.join({ roomId: `r${i}`, userId: `u${i}`, connId: `c${i}`, snapshot: false });
  }
  expect(conns.dead.length).toBeGreaterThan(2);
  const all = [...conns.healthy, ...conns.dead];
  await client.heartbeatMany(all.map((connId) => ({ connId })));

  /** Sends all heartbeats in one batch; with `patches`, every second one has a patch. */
  const heartbeat = async (patches: boolean) => {
    const clock = startClock();
    const items = all.map((connId, i) => ({
      connId,
      ...(patches && i % 2 === 0 ? { patchState: { at: clock.ms } } : {}),
    }));
    const results = await client.heartbeatMany(items);
    const failed = all.filter((_, i) => results[i] instanceof Error);
    return { failed, codes: new Set(results.map((result) => Reflect.get(result, 'code'))), clock };
  };
  await dead?.kill();
  for (const patches of [false, true]) {
    const { failed, codes } = await heartbeat(patches);
    expect(failed.sort()).toEqual([...conns.dead].sort());
    expect([...codes].filter(Boolean)).toEqual(['UNAVAILABLE']);
  }
  // From here on the client knows that the master is down.
  const { failed, clock } = await heartbeat(false);
  expect(failed.sort()).toEqual([...conns.dead].sort());
  expect(clock.ms).toBeLessThan(COMMAND_TIMEOUT_MS / 2);

  await dead?.start();
  await eventually(
    async () => {
      const { codes } = await heartbeat(false);
      // The master returns empty.
      expect([...codes].filter(Boolean)).toEqual(['CONNECTION_NOT_FOUND']);
    },
    { timeoutMs: 20_000 },
  );
});
