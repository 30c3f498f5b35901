// One master of a cluster that is away costs heartbeats of connections on other masters nothing but the
// time in which it may be back.
import { expect, onTestFinished, test } from 'vitest';
import { openClient } from '../support/clients.js';
import { startCluster, UNHURRIED_MS } from '../support/cluster.js';
import { eventually, startClock } from '../support/wait.js';

const COMMAND_TIMEOUT_MS = 1_000;

test('7: a master that is away fails no heartbeat of other masters, and delays none for long', async () => {
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

  /** All in one batch; with a patch for every second one, if told. */
  const beat = async (patches: boolean) => {
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
    const { failed, codes } = await beat(patches);
    expect(failed.sort()).toEqual([...conns.dead].sort());
    expect([...codes].filter(Boolean)).toEqual(['UNAVAILABLE']);
  }
  // From now on it is known that it stays away.
  const { failed, clock } = await beat(false);
  expect(failed.sort()).toEqual([...conns.dead].sort());
  expect(clock.ms).toBeLessThan(COMMAND_TIMEOUT_MS / 2);

  await dead?.start();
  await eventually(
    async () => {
      const { codes } = await beat(false);
      // It has come back empty.
      expect([...codes].filter(Boolean)).toEqual(['CONNECTION_NOT_FOUND']);
    },
    { timeoutMs: 20_000 },
  );
});
