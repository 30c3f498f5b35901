// A cluster that is built anew at the same addresses: empty, with other node ids and lower epochs. The
// map of the old one is no newer map of the same cluster.
import { expect, onTestFinished, test } from 'vitest';
import { openClient } from '../support/clients.js';
import { startCluster, UNHURRIED_MS } from '../support/cluster.js';
import { eventually } from '../support/wait.js';

const ROOMS = ['r0', 'r1', 'r2', 'r3', 'r4', 'r5'];
const LIMITS = { commandTimeoutMs: 2_000 };
const WITHIN = { timeoutMs: 15_000 };

test('15: a client that lived through it calls and hears again', async () => {
  const cluster = await startCluster({ replicas: 0, nodeTimeoutMs: UNHURRIED_MS });
  onTestFinished(() => cluster[Symbol.asyncDispose]());
  // The new cluster begins with lower epochs.
  for (const server of cluster.servers) {
    const admin = await cluster.on(server);
    for (let i = 0; i < 5; i++) await admin.call('CLUSTER', 'BUMPEPOCH');
  }
  const client = await openClient({ url: cluster.url, limits: LIMITS });
  const heard: string[] = [];
  const gaps: string[] = [];
  await client.subscribe((event) => void heard.push(`all ${event.connId}`));
  for (const roomId of ROOMS) {
    await client.subscribe((event) => void heard.push(`one ${event.connId}`), { roomId });
  }
  client.on('resync', ({ reason }) => void gaps.push(reason));
  for (const roomId of ROOMS) await client.join({ roomId, userId: 'u', connId: `old-${roomId}` });
  await eventually(() => heard.length === 2 * ROOMS.length);
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
          expect(heard).toContain(`all ${roomId}-${turn}`);
          expect(heard).toContain(`one ${roomId}-${turn}`);
        }
      },
      { timeoutMs: 300 },
    );
  }, WITHIN);
  // It is told when the new cluster serves calls, which can be after the first events.
  await eventually(() => expect(gaps).toContain('reconnected'), WITHIN);
});
