// Slots move while the cluster is in use: callers never see MOVED, ASK or TRYAGAIN, and no data are
// lost.
import { PresenceClient } from 'rollcall';
import { expect, onTestFinished, test } from 'vitest';
import { startCluster, UNHURRIED_MS } from '../support/cluster.js';
import { createRandom, seed } from '../support/random.js';
import { eventually } from '../support/wait.js';
import { Load } from './load.js';

test(`live resharding under load: no error, nothing lost, subscriptions survive (seed ${seed})`, {
  timeout: 60_000,
}, async () => {
  // Without replicas there is no failover, so a busy machine causes no timeouts.
  const cluster = await startCluster({ replicas: 0, nodeTimeoutMs: UNHURRIED_MS });
  onTestFinished(() => cluster[Symbol.asyncDispose]());
  const random = createRandom(1);
  const load = await Load.start({ url: cluster.url, random, commandTimeoutMs: 15_000 });
  onTestFinished(() => load[Symbol.asyncDispose]());
  const one = await PresenceClient.connect({ url: cluster.url, logger: {} });
  onTestFinished(() => one.close());
  const ofRoom: string[] = [];
  await one.subscribe((event) => void ofRoom.push(event.connId), { roomId: 'r0' });

  // The slots of all rooms and of many connections and users move, one after the other.
  const client = await cluster.on(cluster.servers[0] as (typeof cluster.servers)[0]);
  const names = [
    ...Array.from({ length: 12 }, (_, i) => `{room:r${i}}`),
    ...Array.from({ length: 40 }, (_, i) => `prs:at:c${i}`),
    ...Array.from({ length: 10 }, (_, i) => `prs:due:${i}`),
    ...Array.from({ length: 10 }, (_, i) => `prs:user:u-c${i}:at`),
  ];
  // Each slot once: the new owner of a slot reaches the server that is asked with a delay.
  const moving = new Map<number, string>();
  for (const name of names) {
    moving.set(Number(await client.call('CLUSTER', 'KEYSLOT', name)), name);
  }
  for (const [slot, name] of moving) {
    const from = await cluster.ownerOf(name);
    const to = random.pick((await cluster.masters()).filter((master) => master !== from));
    await cluster.moveSlot(slot, from, to, 5);
  }
  await load.stop();
  console.log(`${moving.size} slots moved, ${load.calls} calls, ${load.resyncs} times resync`);

  expect(load.errors).toEqual([]);
  expect(load.lost).toBe(0);
  for (const [connId, place] of load.places) {
    const { connections } = await one.getUserPresence(`u-${connId}`);
    expect(connections).toMatchObject([{ connId, roomId: place?.roomId, epoch: place?.epoch }]);
  }
  // Both kinds of subscriptions receive events after the resharding.
  load.seen.length = 0;
  ofRoom.length = 0;
  for (let i = 0; i < 12; i++) {
    await one.join({ roomId: `r${i}`, userId: 'late', connId: `late${i}`, snapshot: false });
  }
  await eventually(() => {
    expect(ofRoom).toEqual(['late0']);
    expect(load.seen.map(({ connId }) => connId).sort()).toEqual(
      Array.from({ length: 12 }, (_, i) => `late${i}`).sort(),
    );
  });
});
