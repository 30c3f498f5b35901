// Rollcall connects to the same server with the same settings as the given Redis client (spec 10):
// an ioredis client, a node-redis client, or a URL. The settings are read from clients that never
// connected.
import { Cluster, Redis, type RedisOptions } from 'ioredis';
import { createClient, createClientPool, createCluster, createSentinel } from 'redis';
import { PresenceService } from 'rollcall';
import { beforeAll, describe, expect, test } from 'vitest';
import type { Untyped } from '../support/clients.js';
import { type RedisCluster, startCluster, UNHURRIED_MS } from '../support/cluster.js';
import { type RedisServer, startRedis } from '../support/redis.js';
import { MASTER, startSentinels } from '../support/sentinel.js';
import { certificates } from '../support/tls.js';
import { eventually } from '../support/wait.js';
import { OPTIONS, serviceOn } from './services.js';

const c = { roomId: 'r', userId: 'u', connId: 'c' };

/** Joins, receives the event, and leaves; calls `look` while the connection is present. */
async function works(
  redis: ConstructorParameters<typeof PresenceService>[0],
  look: () => Promise<void> = async () => {},
): Promise<void> {
  const service = serviceOn(redis);
  const received: string[] = [];
  const stop = await service.subscribe(({ type }) => void received.push(type));
  expect(await service.join(c)).toHaveLength(1);
  await look();
  await service.leave('c');
  await eventually(() => expect(received).toEqual(['join', 'leave']));
  await stop();
}

/** An ioredis client that never connects. */
function lazy(options: Omit<RedisOptions, 'replyMapping'>): Redis {
  return new Redis({ ...options, lazyConnect: true });
}

describe('10: settings of an ioredis client', () => {
  const password = 'p@ss/w:rd %41 ü';
  let server: RedisServer;
  beforeAll(async () => {
    server = await startRedis({
      requirepass: password,
      users: { 'al/ice': 'on >wonder/land ~* &* +@all' },
    });
    return () => server[Symbol.asyncDispose]();
  });

  test('host, port, password, db', async () => {
    const { host, port } = server;
    await works(lazy({ host, port, password, db: 4 }), async () => {
      expect(await server.dbsize(4)).toBeGreaterThan(0);
      expect(await server.dbsize(0)).toBe(0);
    });
    const url = new Redis(server.urlFor({ db: 5 }), { lazyConnect: true });
    await works(url, async () => expect(await server.dbsize(5)).toBeGreaterThan(0));
  });

  test('a connected client, which its owner continues to use', async () => {
    const redis = new Redis(server.url);
    await redis.set('mine', '1');
    await works(redis);
    expect(await redis.getdel('mine')).toBe('1');
    redis.disconnect();
    // Also after it has ended: Rollcall only reads its settings.
    await works(redis);
  });

  test('username', async () => {
    const { port } = server;
    await works(lazy({ port, username: 'al/ice', password: 'wonder/land' }));
  });

  test('path (unix socket), with password and db', async () => {
    await works(lazy({ path: server.socketPath, password, db: 6 }), async () => {
      expect(await server.dbsize(6)).toBeGreaterThan(0);
    });
  });

  test('keyPrefix is prepended to every key and to no channel, as with ioredis', async () => {
    const redis = new Redis(server.url, { keyPrefix: 'app:' });
    const subscriber = await server.client();
    const channels: string[] = [];
    subscriber.on('pmessage', (_pattern, channel) => channels.push(channel));
    await subscriber.psubscribe('*');
    await works(redis, async () => {
      expect(await redis.hget('prs:conn:c', 'room_id')).toBe('r');
      const keys = await (await server.client()).keys('*');
      expect(keys.filter((key) => !key.startsWith('app:prs:'))).toEqual([]);
    });
    const room = 'prs:{room:r}:events';
    await eventually(() => expect(channels).toEqual([room, room]));
    redis.disconnect();
  });

  test('Sentinel: sentinels, name, their password, db', async () => {
    await using group = await startSentinels({
      servers: 1,
      sentinels: 1,
      password: 's3cret',
      sentinelPassword: 'watch',
    });
    const sentinels = group.sentinels.map(({ port }) => ({ host: '127.0.0.1', port }));
    const redis = new Redis({
      sentinels,
      name: MASTER,
      password: 's3cret',
      sentinelPassword: 'watch',
      db: 3,
      lazyConnect: true,
    });
    await works(redis, async () => expect(await group.servers[0]?.dbsize(3)).toBeGreaterThan(0));
  });

  test('Sentinel with TLS to both', async () => {
    await using group = await startSentinels({ servers: 1, sentinels: 1, tls: true });
    const tls = { ca: group.servers[0]?.tls?.ca ?? '' };
    const sentinels = group.sentinels.map(({ port }) => ({ host: '127.0.0.1', port }));
    const common = { sentinels, name: MASTER, lazyConnect: true, sentinelTLS: tls };
    await works(new Redis({ ...common, tls, enableTLSForSentinelMode: true }));
  });
});

describe('10: TLS settings', () => {
  let server: RedisServer;
  let strict: RedisServer;
  beforeAll(async () => {
    server = await startRedis({ tls: true, requirepass: 'secret' });
    strict = await startRedis({ tls: true, config: { 'tls-auth-clients': 'yes' } });
    return async () => {
      await server[Symbol.asyncDispose]();
      await strict[Symbol.asyncDispose]();
    };
  });

  test('ioredis: ca as text, as Buffer, in a list', async () => {
    const { ca } = await certificates();
    const { port } = server;
    for (const form of [ca, Buffer.from(ca), [Buffer.from(ca)], [ca]]) {
      await works(lazy({ port, password: 'secret', tls: { ca: form } }));
    }
  });

  test('ioredis: servername, rejectUnauthorized, and neither of them', async () => {
    const { ca } = await certificates();
    const { port } = server;
    const common = { host: '127.0.0.1', port, password: 'secret' };
    await works(lazy({ ...common, tls: { ca, servername: 'localhost' } }));
    await works(lazy({ ...common, tls: { rejectUnauthorized: false } }));
    const limits = { connectTimeoutMs: 1000 };
    for (const tls of [{}, { ca, servername: 'elsewhere' }]) {
      const service = serviceOn(lazy({ ...common, tls }), { client: { limits } });
      await expect(service.join(c)).rejects.toMatchObject({ code: 'PERMISSION' });
    }
  });

  test('cert and key, of ioredis and of node-redis', async () => {
    const { ca, cert, key } = await certificates();
    const { host, port } = strict;
    await works(lazy({ port, tls: { ca, cert, key: Buffer.from(key) } }));
    await works(createClient({ socket: { host, port, tls: true, ca, cert, key } }));
  });

  test('node-redis: rediss:// and socket.tls, with ca, servername, rejectUnauthorized', async () => {
    const { ca } = await certificates();
    const { host, port, url } = server;
    await works(createClient({ url, socket: { tls: true, ca } }));
    await works(
      createClient({ password: 'secret', socket: { host, port, tls: true, ca: Buffer.from(ca) } }),
    );
    await works(createClient({ url, socket: { tls: true, ca, servername: 'localhost' } }));
    await works(createClient({ url, socket: { tls: true, rejectUnauthorized: false } }));
  });

  test('{ url, tls }, for settings that a client does not expose', async () => {
    await works({ url: server.url, tls: { ca: (await certificates()).ca } });
  });
});

describe('10: settings of an ioredis Cluster', () => {
  const password = 'p@ss/w:rd';
  let cluster: RedisCluster;
  beforeAll(async () => {
    cluster = await startCluster({
      replicas: 0,
      nodeTimeoutMs: UNHURRIED_MS,
      server: { users: { 'al/ice': `on >${password} ~* &* +@all` } },
    });
    return () => cluster[Symbol.asyncDispose]();
  });

  test('startup nodes, username, password, keyPrefix', async () => {
    const nodes = cluster.servers.map(({ host, port }) => ({ host, port }));
    const redisOptions = { username: 'al/ice', password, keyPrefix: 'app:' };
    await works(new Cluster(nodes, { lazyConnect: true, redisOptions }), async () => {
      const keys = await cluster.keys();
      expect(keys).toContain('app:prs:{room:r}:conns');
      expect(keys.filter((key) => !key.startsWith('app:prs:'))).toEqual([]);
    });
  });

  test('startup nodes as URLs', async () => {
    const login = `${encodeURIComponent('al/ice')}:${encodeURIComponent(password)}`;
    const urls = cluster.servers.map(({ host, port }) => `redis://${login}@${host}:${port}`);
    await works(new Cluster(urls, { lazyConnect: true }));
  });
});

describe('10: settings of a node-redis client', () => {
  let server: RedisServer;
  beforeAll(async () => {
    server = await startRedis({
      requirepass: 'p@ss',
      users: { alice: 'on >wonderland ~* &* +@all' },
    });
    return () => server[Symbol.asyncDispose]();
  });

  test('url', async () => {
    await works(createClient({ url: server.urlFor({ db: 2 }) }), async () => {
      expect(await server.dbsize(2)).toBeGreaterThan(0);
    });
  });

  test('socket.host, socket.port, username, password, database', async () => {
    const { host, port } = server;
    const client = createClient({
      socket: { host, port },
      username: 'alice',
      password: 'wonderland',
      database: 3,
    });
    await works(client, async () => expect(await server.dbsize(3)).toBeGreaterThan(0));
  });

  test('socket.path', async () => {
    await works(
      createClient({ socket: { path: server.socketPath, tls: false }, password: 'p@ss' }),
    );
  });

  test('keyPrefix', async () => {
    const redis = await server.client();
    await works(createClient({ url: server.url, keyPrefix: 'app:' }), async () => {
      expect(await redis.hget('app:prs:conn:c', 'room_id')).toBe('r');
    });
  });

  test('a client that is connected', async () => {
    const client = createClient({ url: server.url });
    await client.connect();
    await works(client);
    await client.close();
  });
});

describe('10: unsupported settings are refused, and the message names an alternative', () => {
  const unsupported: [string, () => unknown, RegExp][] = [
    [
      'natMap of an ioredis Cluster',
      () => new Cluster([{ host: 'h', port: 1 }], { lazyConnect: true, natMap: {} }),
      /redis\.options\.natMap is not supported/,
    ],
    [
      'a node-redis cluster',
      () => createCluster({ rootNodes: [{ url: 'redis://h' }] }),
      /^redis is a Redis Cluster client that does not show its options/,
    ],
    [
      'a node-redis sentinel client',
      () => createSentinel({ name: 'm', sentinelRootNodes: [{ host: 'h', port: 1 }] }),
      /does not show its options.*hand over \{ url, tls, sentinel \}/,
    ],
    [
      'a node-redis pool',
      () => createClientPool({ url: 'redis://h' }),
      /does not show its options/,
    ],
    [
      'a credentialsProvider',
      () =>
        createClient({
          credentialsProvider: {
            type: 'async-credentials-provider',
            credentials: async () => ({ password: 'x' }),
          },
        }),
      /credentialsProvider/,
    ],
    ['role: slave', () => lazy({ sentinels: [{ port: 1 }], name: 'm', role: 'slave' }), /role/],
    ['natMap', () => lazy({ sentinels: [{ port: 1 }], name: 'm', natMap: {} }), /natMap/],
    ['tls.pfx', () => lazy({ tls: { pfx: Buffer.from('x') } }), /tls\.pfx is not supported/],
    ['tls.passphrase', () => lazy({ tls: { passphrase: 'x' } }), /tls\.passphrase/],
    [
      'tls.checkServerIdentity',
      () => lazy({ tls: { checkServerIdentity: () => undefined } }),
      /tls\.checkServerIdentity/,
    ],
    ['tls.key as objects', () => lazy({ tls: { key: [{ pem: 'x' }] } }), /tls\.key must be PEM/],
  ];
  test.each(unsupported)('%s: UNSUPPORTED', (_name, redis, message) => {
    const make = () => new PresenceService(redis() as Untyped, OPTIONS);
    expect(make).toThrow(message);
    expect(make).toThrow(expect.objectContaining({ code: 'UNSUPPORTED' }));
  });

  test.each([
    ['sentinels without a name', { sentinels: [{ port: 1 }] }, /redis\.options\.name must be/],
    ['an invalid host', { host: 'h/../x' }, /redis\.options\.host is not/],
    ['an invalid port', { port: 'x' }, /redis\.options\.port must be/],
    [
      'a password that is not a string',
      { password: 5 },
      /redis\.options\.password must be a string/,
    ],
    [
      'a prefix that is not a string',
      { keyPrefix: 5 },
      /redis\.options\.keyPrefix must be a string/,
    ],
  ])('%s: INVALID_ARGUMENT', (_name, options, message) => {
    const make = () => new PresenceService({ options } as Untyped, OPTIONS);
    expect(make).toThrow(message);
    expect(make).toThrow(expect.objectContaining({ code: 'INVALID_ARGUMENT' }));
  });
});
