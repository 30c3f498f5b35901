// Slots of a cluster move to several masters at once, one of which refuses subscriptions: rooms on
// the other masters get `resync`.
import { expect, onTestFinished } from 'vitest';
import { startCluster, UNHURRIED_MS } from '../support/cluster.js';
import type { RedisServer } from '../support/redis.js';
import { eventually } from '../support/wait.js';
import { proven } from './proven.js';
import { connect } from './world.js';

const WITHIN = { timeoutMs: 5_000 };

proven(
  '28: a master that refuses subscriptions affects neither events nor resync of others',
  { without: 'moved-in-part' },
  async () => {
    const cluster = await startCluster({ replicas: 0, nodeTimeoutMs: UNHURRIED_MS });
    onTestFinished(() => cluster[Symbol.asyncDispose]());
    const [from, good, bad] = (await cluster.masters()) as [RedisServer, RedisServer, RedisServer];
    const admin = await cluster.on(from);
    const rooms: { roomId: string; slot: number }[] = [];
    for (let i = 0; rooms.length < 3; i++) {
      const key = `prs:{room:r${i}}:events`;
      if ((await cluster.ownerOf(key)) !== from) continue;
      const slot = Number(await admin.call('CLUSTER', 'KEYSLOT', key));
      rooms.push({ roomId: `r${i}`, slot });
    }
    const [first, second, third] = rooms as [
      (typeof rooms)[0],
      (typeof rooms)[0],
      (typeof rooms)[0],
    ];
    const client = await connect({ url: cluster.url });
    const other = await connect({ url: cluster.url });
    const received: string[] = [];
    const gaps: string[] = [];
    for (const { roomId } of [first, second]) {
      await client.subscribe(({ connId }) => void received.push(connId), { roomId });
    }
    client.on('resync', ({ reason }) => void gaps.push(reason));

    // The administrator uses another user.
    await (await cluster.on(bad)).call('ACL', 'SETUSER', 'default', '-ssubscribe');
    await cluster.moveSlot(first.slot, from, bad);
    await cluster.moveSlot(second.slot, from, good);
    await eventually(() => expect(gaps).toEqual(['reconnected']), WITHIN);
    await other.join({ roomId: second.roomId, userId: 'u', connId: 'there' });
    await eventually(() => expect(received).toContain('there'), WITHIN);
    // It does not block other subscriptions either.
    await client.subscribe(({ connId }) => void received.push(connId), { roomId: third.roomId });
    await other.join({ roomId: third.roomId, userId: 'u', connId: 'third' });
    await eventually(() => expect(received).toContain('third'), WITHIN);

    await (await cluster.on(bad)).call('ACL', 'SETUSER', 'default', '+ssubscribe');
    await eventually(() => expect(gaps).toEqual(['reconnected', 'reconnected']), WITHIN);
    await other.join({ roomId: first.roomId, userId: 'u', connId: 'first' });
    await eventually(() => expect(received).toContain('first'), WITHIN);
  },
);
