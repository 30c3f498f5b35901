// The ACL rules that README.md gives are enough for everything that a client does.
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { expect, test } from 'vitest';
import { openClient } from '../support/clients.js';
import { startRedis } from '../support/redis.js';
import { eventually } from '../support/wait.js';

/** The rules of the `ACL SETUSER` example, after the user's name. */
function rules(): string {
  const readme = readFileSync(path.resolve(import.meta.dirname, '../../README.md'), 'utf8');
  const example = /ACL SETUSER rollcall ([^`]+)```/.exec(readme)?.[1];
  if (example === undefined) throw new Error('README.md has no ACL rules');
  return example.replace(/\s+/g, ' ').trim();
}

test('the ACL rules of README.md are enough for presence, events, expiry, notifications, locks and metadata', async () => {
  await using server = await startRedis({ users: { rollcall: rules() } });
  const client = await openClient({
    url: `redis://rollcall:secret@${server.host}:${server.port}`,
    ttlMs: 300,
    sweepIntervalMs: 100,
    expiry: 'both',
  });
  const events: string[] = [];
  await client.subscribe((event) => void events.push(`all ${event.type}`));
  await client.subscribe((event) => void events.push(`room ${event.type}`), { roomId: 'r' });
  await client.startReaper();
  await client.join({ roomId: 'r', userId: 'u', connId: 'c' });
  await client.heartbeat({ connId: 'c' });
  await client.heartbeat({ connId: 'c', patchState: { a: 1 } });
  expect((await client.getUserPresence('u')).rooms).toEqual(['r']);
  await client.join({ roomId: 'r2', userId: 'u', connId: 'c2' });
  await client.leave('c2');
  await eventually(() => {
    expect(events.filter((event) => event.startsWith('room'))).toEqual([
      'room join',
      'room update',
      'room leave',
    ]);
  });
  const locks: string[] = [];
  await client.locks.subscribe((event) => void locks.push(`all ${event.type}`));
  await client.locks.subscribe((event) => void locks.push(`one ${event.type}`), { name: 'l' });
  const lock = await client.locks.acquire('l', { ownerId: 'u' });
  const next = client.locks.acquire('l', { ownerId: 'v', waitMs: 5_000 });
  await lock.extend();
  await lock.release();
  await next;
  await client.locks.revoke('l');
  expect(await client.locks.inspect('l')).toBeNull();
  await eventually(() => {
    const types = ['acquired', 'released', 'acquired', 'revoked'];
    expect(locks).toEqual(types.flatMap((type) => [`one ${type}`, `all ${type}`]));
  });
  const channel = { channelType: 't', channelName: 'n' };
  await client.metadata.subscribe((event) => void events.push(`all ${event.operation}`));
  await client.metadata.subscribe((event) => void events.push(`one ${event.operation}`), channel);
  const { fencingToken } = await client.locks.acquire('m', { ownerId: 'u' });
  const guarded = { ...channel, options: { lockName: 'm' }, actorUserId: 'u', fencingToken };
  await client.metadata.set({ ...guarded, data: [{ key: 'k' }] });
  await client.metadata.update({ ...guarded, data: [{ key: 'k' }] });
  await client.metadata.remove(guarded);
  expect((await client.metadata.get(channel)).majorRevision).toBe(3);
  await eventually(() => {
    for (const operation of ['set', 'update', 'remove']) {
      expect(events).toContain(`all ${operation}`);
      expect(events).toContain(`one ${operation}`);
    }
  });
  await client.reapOnce();
  await eventually(() => {
    expect(client.metrics()).toMatchObject({ sweepsFailed: 0, expired: 1 });
    expect(client.metrics().notifications).toBeGreaterThan(0);
  });
});
