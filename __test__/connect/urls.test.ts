// Every part of a URL and every connection option is honoured, or refused with its name: a silently
// dropped password, database or TLS setting misleads the user.
import { createServer } from 'node:net';
import { type ClientOptions, PresenceClient } from 'rollcall';
import { beforeAll, describe, expect, test } from 'vitest';
import { everythingIn, openClient, rejection } from '../support/clients.js';
import { type RedisServer, startRedis } from '../support/redis.js';

const IDS = { roomId: 'r', userId: 'u', connId: 'c' };
const SECRET = 'hush-4711';

describe('16: settings are honoured', () => {
  let server: RedisServer;
  beforeAll(async () => {
    server = await startRedis({
      users: { tenant: 'on nopass ~t:* &* +@all', default: `on >${SECRET} ~* &* +@all` },
    });
    return () => server[Symbol.asyncDispose]();
  });

  /** The user names of the client's connections on the server. */
  async function userOf(url: string): Promise<string[]> {
    await using client = await PresenceClient.connect({ url, keyPrefix: 't:', logger: {} });
    await client.join(IDS);
    const list = (await (await server.client()).client('LIST')) as string;
    const ours = list
      .split('\n')
      .filter((line) => line && !line.includes(' user=rollcall-harness '));
    await client.leave('c');
    return [...new Set(ours.map((line) => / user=(\S+)/.exec(line)?.[1] ?? ''))];
  }

  test('a user name without a password logs in as that user, not as default', async () => {
    const { host, port } = server;
    expect(await userOf(`redis://tenant@${host}:${port}`)).toEqual(['tenant']);
    expect(await userOf(`redis://tenant:@${host}:${port}`)).toEqual(['tenant']);
    expect(await userOf(`redis+unix://${server.socketPath}?user=tenant`)).toEqual(['tenant']);
  });

  test('the db of the path and of ?db=, which must not disagree', async () => {
    const at = `redis://:${SECRET}@${server.host}:${server.port}`;
    for (const url of [`${at}/7`, `${at}?db=7`, `${at}/7?db=7`, `${at}/7/`]) {
      await using client = await PresenceClient.connect({ url, logger: {} });
      await client.join(IDS);
      expect(await server.dbsize(7), url).toBeGreaterThan(0);
      await client.leave('c');
    }
  });

  test('tls with redis:// uses TLS: nothing is sent unencrypted', async () => {
    await using secure = await startRedis({ tls: true, requirepass: SECRET });
    const tls = { ca: secure.tls?.ca ?? '' };
    const client = await openClient({ url: secure.url.replace('rediss:', 'redis:'), tls });
    await client.join(IDS);
    let received = '';
    const listener = createServer((socket) => {
      socket.on('data', (bytes) => {
        received += bytes.toString('latin1');
        socket.end();
      });
    });
    await new Promise<void>((resolve) => listener.listen(0, '127.0.0.1', resolve));
    const { port } = listener.address() as { port: number };
    for (const url of [
      `redis://:${SECRET}@127.0.0.1:${port}`,
      `redis-cluster://:${SECRET}@127.0.0.1:${port}`,
    ]) {
      await rejection(() => PresenceClient.connect({ url, tls, logger: {} }));
    }
    listener.close();
    expect(received).not.toContain(SECRET);
    // The first byte of a ClientHello.
    expect(received.charCodeAt(0)).toBe(0x16);
  });

  test('#insecure is tls.rejectUnauthorized: false', async () => {
    await using secure = await startRedis({ tls: true });
    await (await openClient(`${secure.url}#insecure`)).join(IDS);
  });
});

describe('16: unsupported settings are refused with their names, and the message contains no secret', () => {
  const login = `user:${SECRET}@`;
  const refused: [ClientOptions, RegExp][] = [
    [{ url: `redis://${login}h?family=6` }, /parameter "family"/],
    [{ url: `redis://${login}h?tls=true` }, /parameter "tls"; use rediss:/],
    [{ url: `redis://h?password=${SECRET}` }, /parameter "password"; write user:password@/],
    [{ url: `redis://${login}h?db=1&db=2` }, /db is given twice/],
    [{ url: `redis://${login}h/1?db=2` }, /db of the path is another/],
    [{ url: `redis://${login}h/1/2` }, /the db must be a whole number/],
    [{ url: `redis://${login}h?protocol=2` }, /protocol must be resp3/],
    [{ url: `redis://${login}h#${SECRET}` }, /only fragment there is is #insecure/],
    [{ url: `redis://${login}h#insecure` }, /#insecure is about TLS/],
    [{ url: `redis://${login}h1,h2` }, /several hosts/],
    [{ url: `redis://${login}h:0` }, /port must be a whole number/],
    [{ url: `redis://user:%${SECRET}@h` }, /begins no percent-encoding/],
    [{ url: `redis://user:${SECRET}/x@h` }, /an @ after the host/],
    [{ url: `redis://user:6379?${SECRET}@h` }, /an @ after the host/],
    [{ url: `redis+unix://${login}/tmp/s?pass=x` }, /user and password are given twice/],
    [{ url: `redis+unix://${login}h/tmp/s` }, /must have the form redis\+unix/],
    [{ url: `redis+unix:///tmp/s?password=${SECRET}` }, /there are db, user, pass/],
    [{ url: 'redis+unix:///tmp/s', tls: {} }, /tls is not possible on a unix socket/],
    [{ url: 'memory://', tls: {} }, /tls is not possible with an in-process store/],
    [{ tls: {} }, /tls is not possible with an in-process store/],
    [{ url: 'redis://h', sentinel: { password: SECRET } }, /sentinel is for redis-sentinel/],
    [{ url: 'redis://h', pubsub: 'sharded' }, /pubsub: "sharded" is for a Redis Cluster/],
    [{ url: 'rediss://h#insecure', tls: { rejectUnauthorized: true } }, /contradicts tls/],
    [{ url: `redis-cluster://${login}h/1` }, /no database but 0/],
    [{ url: `redis-cluster://${login}h?db=1` }, /no database but 0/],
    [{ url: `redis-cluster://${login}h:${SECRET}` }, /host is not of the form host:port/],
    [{ url: `redis-sentinel://${login}h/main/1?x=1` }, /parameter "x"/],
    [{ url: `redis-sentinel://${login}h/main/1/2` }, /the db must be a whole number/],
    [{ url: `redis-sentinel://${login}h` }, /must have the form redis-sentinel/],
  ];
  test.each(refused)('case %#: %j', async (options, message) => {
    const error = await rejection(() => PresenceClient.connect({ ...options, logger: {} }));
    expect([error.code, error.message]).toEqual([
      'INVALID_ARGUMENT',
      expect.stringMatching(message),
    ]);
    expect(everythingIn(error)).not.toContain(SECRET);
  });

  test('locks.urls: the message names the position in the list', async () => {
    const urls = ['redis://h1', 'redis://h2', `redis://:${SECRET}@h3?family=6`];
    const error = await rejection(() => PresenceClient.connect({ locks: { urls }, logger: {} }));
    expect(error.message).toMatch(/^locks\.urls\[2\]: url: there is no parameter "family"/);
    const cluster = ['redis://h1', 'redis://h2', 'redis+unix:///tmp/s'];
    const mixed = await rejection(() =>
      PresenceClient.connect({ locks: { urls: cluster }, tls: {}, logger: {} }),
    );
    expect(mixed.message).toMatch(/^locks\.urls\[2\]: tls is not possible/);
  });
});
