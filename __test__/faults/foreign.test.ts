// Keys with a wrong type, incomplete hashes, users with limited permissions, and a server with a
// wrong certificate. Errors are typed, and other rooms and connections are unaffected.
import type { Redis } from 'ioredis';
import { generate } from 'selfsigned';
import { describe, expect, test } from 'vitest';
import { rejection } from '../support/clients.js';
import { startProxy } from '../support/proxy.js';
import { startRedis } from '../support/redis.js';
import { certificates } from '../support/tls.js';
import { eventually } from '../support/wait.js';
import { proven } from './proven.js';
import { removeFromScripts } from './scripts.js';
import { connect, startWorld } from './world.js';

const ROOM_KEYS = ['conns', 'members', 'last_seen', 'conn_meta'] as const;

async function spoil(redis: Redis, key: string): Promise<void> {
  // A type that Rollcall never uses.
  await redis.multi().unlink(key).rpush(key, 'not ours').exec();
}

/** The result of a call: `ok`, or the code of its error. */
function codeOf(call: () => Promise<unknown>): Promise<string> {
  return call().then(
    () => 'ok',
    (error: { code: string }) => error.code,
  );
}

describe('6: keys of another type', () => {
  for (const part of ROOM_KEYS) {
    proven(`${part} of a room: other rooms are unaffected`, { without: 'isolation' }, async () => {
      const world = await startWorld({ nodes: 1 });
      const { redis, healthy } = world;
      const short = await connect({
        url: world.server.url,
        ttlMs: 600,
        sweepIntervalMs: 100,
        fallbackSweepMs: 200,
      });
      const ids = Array.from({ length: 40 }, (_, i) => i);
      const conn = (i: number) => ({ roomId: `r${i % 4}`, userId: `u${i}`, connId: `c${i}` });
      for (const i of ids) await short.join({ ...conn(i), snapshot: false });
      await short.startReaper();
      await spoil(redis, `prs:{room:r0}:${part}`);
      // Every call on the room settles with a suitable code.
      const calls = [
        () => short.join({ roomId: 'r0', userId: 'u', connId: 'new' }),
        () => healthy.fetchRoomSnapshot('r0'),
        () => short.leave('c0'),
        () => short.heartbeat({ connId: 'c4', patchState: { a: 1 } }),
        () => short.reapOnce(),
      ];
      for (const call of calls) {
        expect(['ok', 'CORRUPT_DATA', 'CONNECTION_NOT_FOUND']).toContain(await codeOf(call));
      }
      // In the same batch, the connections of other rooms are refreshed.
      const heartbeats = await short.heartbeatMany(ids.map((i) => ({ connId: `c${i}` })));
      for (const [i, heartbeat] of heartbeats.entries()) {
        if (i % 4 > 0) expect(heartbeat, `c${i}`).not.toBeInstanceOf(Error);
      }
      // They expire and are removed in time.
      await eventually(
        async () => {
          for (const room of ['r1', 'r2', 'r3']) {
            expect(await redis.exists(`prs:{room:${room}}:conns`), room).toBe(0);
          }
        },
        { timeoutMs: 3000 },
      );
      expect(short.metrics().sweepsFailed).toBe(0);
      // After the key is deleted, the room works again.
      await redis.unlink(...(await redis.keys('prs:*')));
      await short.join({ roomId: 'r0', userId: 'u', connId: 'new' });
      expect(await healthy.fetchRoomSnapshot('r0')).toHaveLength(1);
      await short.leave('new');
      await short.close();
      await world.emptied();
    });
  }

  for (const part of ['user', 'due'] as const) {
    const title = `of a ${part}: others are unaffected`;
    const holds = async () => {
      const world = await startWorld({ nodes: 1 });
      const { redis, server } = world;
      const short = await connect({
        url: server.url,
        ttlMs: 600,
        sweepIntervalMs: 100,
        fallbackSweepMs: 200,
      });
      const conn = (i: number) => ({ roomId: `x${i}`, userId: `u${i}`, connId: `c${i}` });
      for (let i = 0; i < 40; i++) await short.join({ ...conn(i), snapshot: false });
      const [shard = ''] = await redis.keys('prs:due:*');
      const own = part === 'due' ? [shard] : ['prs:user:u0:conns', 'prs:user:u0:rooms'];
      const same = part === 'due' ? await redis.zrange(shard, '0', '-1') : ['x0'];
      expect(same.length).toBeLessThan(20);
      for (const key of own) await spoil(redis, key);
      await short.startReaper();
      for (let i = 0; i < 40; i++) {
        // Calls on the damaged part settle with a suitable code; the others succeed.
        const fits = same.includes(`x${i}`) ? ['ok', 'CORRUPT_DATA'] : ['ok'];
        for (const call of [
          () => short.join(conn(i)),
          () => short.heartbeat({ connId: `c${i}`, patchState: { i } }),
          () => short.getUserPresence(`u${i}`),
          () => short.join({ ...conn(i), connId: `left${i}` }),
          () => short.leave(`left${i}`),
        ]) {
          expect(fits, `${call}`).toContain(await codeOf(call));
        }
      }
      await eventually(
        async () => {
          const there = await redis.keys('prs:{room:*}:conns');
          expect(
            there.filter((key) => !same.some((room) => key.includes(`{room:${room}}`))),
          ).toEqual([]);
        },
        { timeoutMs: 4000 },
      );
      expect(short.metrics().sweepsFailed).toBe(0);
      // After the key is deleted, the rest is removed, too.
      await redis.unlink(own);
      await eventually(async () => expect(await redis.keys('*')).toEqual([]), { timeoutMs: 4000 });
    };
    // The scripts themselves ignore a user's sets of another type (`expiry/parts.test.ts`).
    if (part === 'user') test(title, holds);
    else proven(title, { without: 'isolation' }, holds);
  }

  proven(
    'of all rooms, of locks, of metadata: typed errors',
    { without: 'server-words' },
    async () => {
      const world = await startWorld({ nodes: 1 });
      const node = world.node();
      const { redis } = world;
      const channel = { channelType: 't', channelName: 'n' };
      const data = [{ key: 'k', value: 'v' }];
      const calls = (of: string) => ({
        join: () => node.join({ roomId: `r${of}`, userId: of, connId: of }),
        heartbeat: () => node.heartbeat({ connId: of }),
        leave: () => node.leave(of),
        reap: () => node.reapOnce(),
        acquire: async () => {
          const lock = await node.locks.acquire(of, { ownerId: 'o' });
          await lock.release();
        },
        inspect: () => node.locks.inspect(of),
        revoke: () => node.locks.revoke(of),
        set: () => node.metadata.set({ ...channel, channelName: of, data }),
        get: () => node.metadata.get({ ...channel, channelName: of }),
      });
      /** By key, the calls on other names that may fail. */
      const keys: [key: string, of: string, others: string[]][] = [
        ['prs:active_rooms', '1', ['join', 'leave', 'reap']],
        // A hint, which is rewritten: it fails no lock.
        ['prs:lock_due', '1', []],
        ['prs:lock:1', '1', []],
        ...['token', 'holder', 'queue', 'living'].map((name): [string, string, string[]] => [
          `prs:{prs:lock:1}:${name}`,
          '1',
          [],
        ]),
        ['prs:{chan:t:1}:meta', '1', []],
      ];
      for (const [key, of, others] of keys) {
        await spoil(redis, key);
        const failed: string[] = [];
        for (const name of [of, '2']) {
          for (const [what, call] of Object.entries(calls(name))) {
            const code = await codeOf(call);
            if (code !== 'ok') failed.push(`${name} ${what}: ${code}`);
          }
        }
        const fits = ['ok', 'CORRUPT_DATA', 'CONNECTION_NOT_FOUND'];
        expect(failed.filter((line) => !fits.some((code) => line.endsWith(code)))).toEqual([]);
        expect(failed.length, key).toBeGreaterThan(/living$|lock_due$/.test(key) ? -1 : 0);
        const unexpected = failed.filter((line) => line.startsWith('2 '));
        expect(
          unexpected.filter((line) => !others.some((what) => line.startsWith(`2 ${what}:`))),
          key,
        ).toEqual([]);
        await redis.flushall();
      }
    },
  );

  proven('a connection: others in its batch are unaffected', { without: 'isolation' }, async () => {
    const world = await startWorld({ nodes: 1 });
    const node = world.node();
    const ids = Array.from({ length: 50 }, (_, i) => `c${i}`);
    for (const connId of ids) await node.join({ roomId: 'r0', userId: connId, connId });
    await spoil(world.redis, 'prs:conn:c7');
    await spoil(world.redis, 'prs:conn:c31');
    const heartbeats = await node.heartbeatMany(ids.map((connId) => ({ connId })));
    const failed = heartbeats.flatMap((heartbeat, i) =>
      heartbeat instanceof Error ? [[ids[i], Reflect.get(heartbeat, 'code')]] : [],
    );
    expect(failed).toEqual([
      ['c7', 'CORRUPT_DATA'],
      ['c31', 'CORRUPT_DATA'],
    ]);
    expect((await rejection(() => node.leave('c7'))).code).toBe('CORRUPT_DATA');
    const there = await world.healthy.fetchRoomSnapshot('r0');
    expect(there).toHaveLength(48);
    await world.redis.unlink('prs:conn:c7', 'prs:conn:c31');
    await node.join({ roomId: 'r0', userId: 'c7', connId: 'c7' });
    await node.join({ roomId: 'r0', userId: 'c31', connId: 'c31' });
    await world.converged();
    await world.emptied();
  });

  proven(
    'an incomplete hash: calls settle, and the reaper removes it',
    { without: 'reaping' },
    async () => {
      const world = await startWorld({ nodes: 1 });
      const { redis, server } = world;
      const fields = ['conn_id', 'user_id', 'room_id', 'last_seen_ms', 'epoch', 'state'];
      const short = await connect({
        url: server.url,
        ttlMs: 500,
        sweepIntervalMs: 100,
        fallbackSweepMs: 200,
      });
      for (const field of fields) {
        const connId = `c-${field}`;
        await short.join({ roomId: 'r0', userId: 'u', connId });
        await redis.hdel(`prs:conn:${connId}`, field);
      }
      await short.startReaper();
      for (const field of fields) {
        for (const call of [
          () => short.heartbeat({ connId: `c-${field}` }),
          () => short.heartbeat({ connId: `c-${field}`, patchState: { a: 1 } }),
          () => short.fetchRoomSnapshot('r0'),
          () => short.getUserPresence('u'),
        ]) {
          const code = await codeOf(call);
          expect(['ok', 'CONNECTION_NOT_FOUND', 'CORRUPT_DATA'], field).toContain(code);
        }
      }
      await eventually(async () => expect(await redis.keys('*')).toEqual([]), { timeoutMs: 4000 });
    },
  );
});

describe('6: users with limited permissions', () => {
  const all = 'on >secret ~prs:* &prs:* &prs:{room:*}:events +@all';
  proven(
    'without PUBLISH: no call changes anything, not even in part',
    { without: 'may-publish' },
    async (off) => {
      await using server = await startRedis({ users: { mute: `${all} -publish` } });
      await using proxy = await startProxy(server.port);
      if (off.includes('may-publish')) {
        const redis = await server.client();
        await removeFromScripts(
          { redis, proxy },
          "not redis.acl_check_cmd(command, channel, '')",
          'false',
        );
      }
      const mute = await connect({ url: `redis://mute:secret@${proxy.host}:${proxy.port}` });
      // Also through the proxy: it shares the server's scripts.
      const other = await connect({ url: proxy.url });
      const at = { roomId: 'r', userId: 'u', connId: 'c' };
      expect((await rejection(() => mute.join(at))).code).toBe('PERMISSION');
      expect(await server.dbsize()).toBe(0);
      await other.join({ ...at, state: { a: 1 } });
      const keys = await server.dbsize();
      for (const call of [
        () => mute.heartbeat({ connId: 'c', patchState: { a: 2 } }),
        () => mute.join({ ...at, roomId: 'r2' }),
        () => mute.leave('c'),
        () => mute.metadata.set({ channelType: 't', channelName: 'n', data: [] }),
        () => mute.locks.acquire('l', { ownerId: 'o' }),
      ]) {
        expect((await rejection(call)).code).toBe('PERMISSION');
      }
      // Calls without an event succeed.
      await mute.heartbeat({ connId: 'c' });
      expect((await other.fetchRoomSnapshot('r')).map(({ state }) => state)).toEqual([{ a: 1 }]);
      expect(await server.dbsize()).toBe(keys);
      await other.leave('c');
    },
  );

  proven('without EVAL, and without CONFIG', { without: 'server-words' }, async () => {
    await using server = await startRedis({
      users: { plain: `${all} -@scripting`, fixed: `${all} -config` },
    });
    const plain = await connect({ url: server.urlFor({ username: 'plain', password: 'secret' }) });
    const at = { roomId: 'r', userId: 'u', connId: 'c' };
    for (const call of [
      () => plain.join(at),
      () => plain.reapOnce(),
      () => plain.locks.acquire('l', { ownerId: 'o' }),
      () => plain.metadata.set({ channelType: 't', channelName: 'n', data: [] }),
    ]) {
      const error = await rejection(call);
      expect([error.code, error.outcome]).toEqual(['PERMISSION', undefined]);
    }
    const lines: string[] = [];
    const fixed = await connect({
      url: server.urlFor({ username: 'fixed', password: 'secret' }),
      expiry: 'notifications',
      sweepIntervalMs: 100,
      ttlMs: 300,
      logger: { warn: (text: string) => void lines.push(text) },
    });
    await fixed.startReaper();
    await fixed.join(at);
    await eventually(async () => expect(await server.dbsize()).toBe(0));
    expect(lines.filter((line) => line.includes('CONFIG'))).toHaveLength(1);
  });

  proven('a wrong certificate is refused', { without: 'certificates' }, async () => {
    await using server = await startRedis({ tls: true });
    const other = await generate([{ name: 'commonName', value: 'Another CA' }], {
      keyType: 'ec',
      algorithm: 'sha256',
      extensions: [{ name: 'basicConstraints', cA: true, critical: true }],
    });
    const limits = { connectTimeoutMs: 2000 };
    for (const tls of [{ ca: other.cert }, {}, { ca: other.cert, servername: 'elsewhere' }]) {
      const error = await rejection(() => connect({ url: server.url, tls, limits }));
      expect(error.code).toBe('PERMISSION');
    }
    const { ca } = await certificates();
    const right = await connect({ url: server.url, tls: { ca } });
    await right.join({ roomId: 'r', userId: 'u', connId: 'c' });
    const wrongName = rejection(() =>
      connect({ url: server.url, tls: { ca, servername: 'elsewhere' }, limits }),
    );
    expect((await wrongName).code).toBe('PERMISSION');
  });
});
