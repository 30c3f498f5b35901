// A cluster is rebuilt at the same addresses: empty, with other node ids and lower epochs. The
// client must not treat the map of the old cluster as a newer map of the new one.
import { expect, onTestFinished, test } from 'vitest';
import { openClient } from '../support/clients.js';
import { startCluster, UNHURRIED_MS } from '../support/cluster.js';
import { eventually } from '../support/wait.js';

const ROOMS = ['r0', 'r1', 'r2', 'r3', 'r4', 'r5'];
const LIMITS = { commandTimeoutMs: 2_000 };
const WITHIN = { timeoutMs: 15_000 };

test('15: a client that stays open can call and receives events again', async () => {
  const cluster = await startCluster({ replicas: 0, nodeTimeoutMs: UNHURRIED_MS });
  onTestFinished(() => cluster[Symbol.asyncDispose]());
  // The new cluster starts with lower epochs.
  for (const server of cluster.servers) {
    const admin = await cluster.on(server);
    for (let i = 0; i < 5; i++) await admin.call('CLUSTER', 'BUMPEPOCH');
  }
  const client = await openClient({ url: cluster.url, limits: LIMITS });
  const received: string[] = [];
  const gaps: string[] = [];
  await client.subscribe((event) => void received.push(`all ${event.connId}`));
  for (const roomId of ROOMS) {
    await client.subscribe((event) => void received.push(`one ${event.connId}`), { roomId });
  }
  client.on('resync', ({ reason }) => void gaps.push(reason));
  for (const roomId of ROOMS) await client.join({ roomId, userId: 'u', connId: `old-${roomId}` });
  await eventually(() => received.length === 2 * ROOMS.length);
  expect(gaps).toEqual([]);

  await cluster.rebuild();
  const other = await openClient({ url: cluster.url });
  for (const roomId of ROOMS) {
    await eventually(
      () => client.join({ roomId, userId: 'u', connId: `own-${roomId}`, snapshot: false }),
      WITHIN,
    );
  }
  let turn = 0;
  await eventually(async () => {
    turn += 1;
    for (const roomId of ROOMS) {
      await other.join({ roomId, userId: 'u', connId: `${roomId}-${turn}`, snapshot: false });
    }
    await eventually(
      () => {
        for (const roomId of ROOMS) {
          expect(received).toContain(`all ${roomId}-${turn}`);
          expect(received).toContain(`one ${roomId}-${turn}`);
        }
      },
      { timeoutMs: 300 },
    );
  }, WITHIN);
  // `resync` is emitted when the new cluster serves calls, which can be after the first events.
  await eventually(() => expect(gaps).toContain('reconnected'), WITHIN);
});
