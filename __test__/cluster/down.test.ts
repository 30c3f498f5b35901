// Some slots of the cluster have no master, so it accepts no calls: calls fail with UNAVAILABLE and
// name the cause during the whole outage (spec 20).
import { expect, onTestFinished, test } from 'vitest';
import { openClient, rejection } from '../support/clients.js';
import { startCluster } from '../support/cluster.js';
import { eventually } from '../support/wait.js';

test('15: CLUSTERDOWN is UNAVAILABLE with the cause in the message, also after the whole command timeout', async () => {
  const cluster = await startCluster({ replicas: 0, nodeTimeoutMs: 1_000 });
  onTestFinished(() => cluster[Symbol.asyncDispose]());
  const limits = { commandTimeoutMs: 1_000 };
  const client = await openClient({ url: cluster.url, limits });
  const [dead, ...healthy] = await cluster.masters();
  // Only rooms of masters that are still running.
  const rooms: string[] = [];
  for (let i = 0; rooms.length < 4; i++) {
    if ((await cluster.ownerOf(`prs:{room:r${i}}:events`)) !== dead) rooms.push(`r${i}`);
  }
  await dead?.kill();
  await eventually(
    async () => {
      for (const server of healthy) {
        const info = await (await cluster.on(server)).call('CLUSTER', 'INFO');
        expect(info).toContain('cluster_state:fail');
      }
    },
    { timeoutMs: 10_000 },
  );
  // Each call times out at a different moment between two attempts.
  for (const roomId of rooms) {
    for (const call of [
      () => client.fetchRoomSnapshot(roomId),
      () => client.join({ roomId, userId: 'u', connId: `c-${roomId}` }),
      () => client.heartbeat({ connId: `c-${roomId}`, patchState: { a: 1 } }),
    ]) {
      const error = await rejection(call);
      expect([error.code, error.message]).toEqual([
        'UNAVAILABLE',
        expect.stringContaining('CLUSTERDOWN'),
      ]);
      expect(error).not.toHaveProperty('outcome');
    }
  }
  await dead?.start();
  await cluster.settled();
  for (const roomId of rooms) {
    await eventually(() => client.join({ roomId, userId: 'u', connId: `c-${roomId}` }));
  }
});
