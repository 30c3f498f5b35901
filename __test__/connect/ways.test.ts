// Kinds of connections: TCP, TLS, unix socket, password, ACL user, db, key prefix, and in-process
// names.
import { PresenceClient } from 'rollcall';
import { beforeAll, describe, expect, test } from 'vitest';
import { openClient, rejection, type Untyped } from '../support/clients.js';
import { type RedisServer, startRedis } from '../support/redis.js';
import { certificates } from '../support/tls.js';
import { eventually } from '../support/wait.js';

const IDS = { roomId: 'r', userId: 'u', connId: 'c' };

/** Joins, receives the event, and leaves: uses every kind of connection that a client opens. */
async function works(client: PresenceClient<Untyped>): Promise<void> {
  const received: string[] = [];
  const stop = await client.subscribe((event) => void received.push(event.type));
  await client.join(IDS);
  await client.heartbeat({ connId: 'c', patchState: { a: 1 } });
  expect((await client.fetchRoomSnapshot('r')).map(({ state }) => state)).toEqual([{ a: 1 }]);
  await client.leave('c');
  await eventually(() => expect(received).toEqual(['join', 'update', 'leave']));
  await stop();
}

describe('11: one server, with each kind of connection', () => {
  const password = 'p@ss/w:rd %41 ü';
  let server: RedisServer;
  beforeAll(async () => {
    server = await startRedis({
      requirepass: password,
      // For a pattern subscription, Redis compares the channel rule literally.
      users: {
        alice: 'on >wonder/land ~prs:* resetchannels &prs:{room:*}:events +@all -@dangerous +info',
      },
    });
    return () => server[Symbol.asyncDispose]();
  });

  test('redis:// with special characters in the password', async () => {
    await works(await openClient(server.urlFor()));
  });

  test('the default user by name', async () => {
    await works(await openClient(server.urlFor({ username: 'default' })));
  });

  test('an ACL user that has only the prefix and no dangerous commands', async () => {
    const url = server.urlFor({ username: 'alice', password: 'wonder/land' });
    const client = await openClient(url);
    await works(client);
    await client.reapOnce();
  });

  test('a user without INFO and SCRIPT: scripts are sent with EVAL', async () => {
    const admin = await server.client();
    await admin.call('ACL', 'SETUSER', 'bob', 'on', '>b', '~*', '&*', '+@all', '-info', '-script');
    await works(await openClient(server.urlFor({ username: 'bob', password: 'b' })));
  });

  test('a db by number', async () => {
    const client = await openClient(server.urlFor({ db: 9 }));
    await client.join(IDS);
    expect(await server.dbsize(0)).toBe(0);
    expect(await server.dbsize(9)).toBeGreaterThan(0);
    await client.leave('c');
    expect(await server.dbsize(9)).toBe(0);
  });

  test('redis+unix://', async () => {
    const pass = encodeURIComponent(password);
    await works(await openClient(`redis+unix://${server.socketPath}?pass=${pass}`));
    const client = await openClient(`redis+unix://${server.socketPath}?pass=${pass}&db=3`);
    await client.join(IDS);
    expect(await server.dbsize(3)).toBeGreaterThan(0);
    await client.leave('c');
  });

  test('localhost by name', async () => {
    await works(await openClient(server.urlFor().replace('127.0.0.1', 'localhost')));
  });

  test('2: keyPrefix is prepended to every key and channel; different prefixes share no data', async () => {
    const admin = await server.client();
    const one = await openClient({ url: server.url, keyPrefix: 'one:{x}*:' });
    const two = await openClient({ url: server.url, keyPrefix: 'two:' });
    const received: string[] = [];
    await two.subscribe((event) => void received.push(event.roomId));
    await one.join(IDS);
    expect(await two.fetchRoomSnapshot('r')).toEqual([]);
    const keys = await admin.keys('*');
    expect(keys.length).toBeGreaterThan(0);
    expect(keys.filter((key) => !key.startsWith('one:{x}*:'))).toEqual([]);
    await two.join({ ...IDS, roomId: 'other' });
    await eventually(() => expect(received).toEqual(['other']));
    await works(one);
    await two.leave('c');
    expect(await server.dbsize()).toBe(0);
  });

  test('2: channelPrefix is prepended to channels only, as with the keyPrefix of ioredis', async () => {
    const { Redis } = await import('ioredis');
    const other = new Redis({ path: server.socketPath, password, keyPrefix: 'app:' });
    const plain = await server.client();
    const messages: string[] = [];
    const subscriber = await server.client();
    subscriber.on('pmessage', (_pattern, channel) => messages.push(channel));
    await subscriber.psubscribe('*');
    const client = await openClient({
      url: server.url,
      keyPrefix: 'app:prs:',
      channelPrefix: 'prs:',
    });
    await works(client);
    await client.join(IDS);
    expect(await other.hget('prs:conn:c', 'room_id')).toBe('r');
    expect((await plain.keys('*')).filter((key) => !key.startsWith('app:prs:'))).toEqual([]);
    await client.leave('c');
    await eventually(() => expect(messages).toHaveLength(5));
    expect(new Set(messages)).toEqual(new Set(['prs:{room:r}:events']));
    expect(await server.dbsize()).toBe(0);
    other.disconnect();
  });
});

describe('11: rediss://', () => {
  let server: RedisServer;
  beforeAll(async () => {
    server = await startRedis({ tls: true, requirepass: 'secret' });
    return () => server[Symbol.asyncDispose]();
  });

  test('with the server’s certificate authority, for an address and for a name', async () => {
    const ca = server.tls?.ca ?? '';
    await works(await openClient({ url: server.url, tls: { ca } }));
    const url = server.url.replace('127.0.0.1', 'localhost');
    await works(await openClient({ url, tls: { ca } }));
  });

  test('with rejectUnauthorized: false, for any certificate', async () => {
    await works(await openClient({ url: server.url, tls: { rejectUnauthorized: false } }));
  });

  test('with another certificate authority, or the system’s: refused', async () => {
    const limits = { connectTimeoutMs: 2000 };
    const other = (await import('selfsigned')).generate;
    const { cert } = await other([{ name: 'commonName', value: 'Someone else' }], {
      keyType: 'ec',
      algorithm: 'sha256',
      extensions: [{ name: 'basicConstraints', cA: true, critical: true }],
    });
    for (const tls of [{ ca: cert }, {}]) {
      const error = await rejection(() =>
        PresenceClient.connect({ url: server.url, tls, limits, logger: {} }),
      );
      expect(error.code).toBe('PERMISSION');
      expect(`${error.message} ${(error.cause as Error).message}`).toMatch(/certificate/i);
    }
  });

  test('without TLS: UNAVAILABLE', async () => {
    const error = await rejection(() =>
      PresenceClient.connect({
        url: server.url.replace('rediss:', 'redis:'),
        limits: { connectTimeoutMs: 1000 },
        logger: {},
      }),
    );
    expect(error.code).toBe('UNAVAILABLE');
  });

  test('invalid certificates or keys: INVALID_ARGUMENT', async () => {
    const { ca } = await certificates();
    for (const tls of [{ ca: 'no PEM' }, { ca: '' }, { ca, cert: 'x' }, { ca, key: 'x' }]) {
      const error = await rejection(() =>
        PresenceClient.connect({ url: server.url, tls, logger: {} }),
      );
      expect(error.code).toBe('INVALID_ARGUMENT');
    }
  });

  test('a client certificate, if the server asks for one', async () => {
    const { ca, cert, key } = await certificates();
    await using strict = await startRedis({ tls: true, config: { 'tls-auth-clients': 'yes' } });
    await works(await openClient({ url: strict.url, tls: { ca, cert, key } }));
    const error = await rejection(() =>
      PresenceClient.connect({
        url: strict.url,
        tls: { ca },
        limits: { connectTimeoutMs: 2000 },
        logger: {},
      }),
    );
    expect(error.code).toBe('PERMISSION');
    expect(error.message).toContain('asks for a client certificate');
  });
});

describe('11.2: in the process', () => {
  test('clients of one name share a store; without a name each has its own', async () => {
    const [one, two, other, none, also] = await Promise.all(
      ['memory://a', 'memory://a', 'memory://b', 'memory://', undefined].map((url) =>
        openClient(url === undefined ? {} : { url }),
      ),
    );
    await works(one as PresenceClient<Untyped>);
    await one?.join(IDS);
    expect(await two?.fetchRoomSnapshot('r')).toHaveLength(1);
    for (const client of [other, none, also]) {
      expect(await client?.fetchRoomSnapshot('r')).toEqual([]);
    }
  });
});
