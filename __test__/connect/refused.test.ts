// `connect` fails with the right code, within the connect timeout, and without a secret in any
// message (spec 12, 13).
import { type ClientOptions, PresenceClient } from 'rollcall';
import { beforeAll, describe, expect, test } from 'vitest';
import { everythingIn, keepLog, openClient, rejection } from '../support/clients.js';
import { type RedisServer, startRedis } from '../support/redis.js';
import { startClock } from '../support/wait.js';
import { answeringPort, closingPort, httpPort, refusedPort, silentPort } from './other-servers.js';

const TIMEOUT_MS = 700;
/** Tolerance for a busy machine, in addition to the option. */
const GRACE_MS = 1500;
const SECRET = 'hush-hush-4711';

/** The error of `connect`; checks the common properties of all failures. */
async function failure(options: ClientOptions) {
  const logger = keepLog();
  const clock = startClock();
  const error = await rejection(() =>
    PresenceClient.connect({ limits: { connectTimeoutMs: TIMEOUT_MS }, logger, ...options }),
  );
  expect(clock.ms).toBeLessThan(TIMEOUT_MS + GRACE_MS);
  expect(`${everythingIn(error)}\n${logger.lines.join('\n')}`).not.toContain(SECRET);
  return error;
}

const at = (port: number, rest = '') => `redis://:${SECRET}@127.0.0.1:${port}${rest}`;

describe('12: no server: UNAVAILABLE within the connect timeout', () => {
  test('a port on which nothing listens', async () => {
    const port = await refusedPort();
    const error = await failure({ url: at(port) });
    expect(error.code).toBe('UNAVAILABLE');
    expect(error.message).toContain(`127.0.0.1:${port}`);
    expect(error.cause).toBeInstanceOf(Error);
  });

  test('a port that accepts and never answers', async () => {
    const port = await silentPort();
    const began = performance.now();
    const error = await failure({ url: at(port) });
    expect(performance.now() - began).toBeGreaterThan(TIMEOUT_MS - 50);
    expect(error.code).toBe('UNAVAILABLE');
    expect(error.message).toContain(`127.0.0.1:${port}`);
  });

  test('a port that accepts and never answers, with TLS', async () => {
    const error = await failure({ url: at(await silentPort()).replace('redis:', 'rediss:') });
    expect(error.code).toBe('UNAVAILABLE');
  });

  test('a port that closes every connection', async () => {
    expect((await failure({ url: at(await closingPort()) })).code).toBe('UNAVAILABLE');
  });

  test('a host that has no address', async () => {
    const error = await failure({ url: `redis://:${SECRET}@no-such-host.invalid:6379` });
    expect(error.code).toBe('UNAVAILABLE');
    expect(error.message).toContain('no-such-host.invalid');
  });

  test('a unix socket that does not exist', async () => {
    const error = await failure({ url: `redis+unix:///nowhere/redis.sock?pass=${SECRET}` });
    expect(error.code).toBe('UNAVAILABLE');
  });
});

describe('12: a server that is not Redis: UNAVAILABLE, and the message names the cause', () => {
  test.each<[string, () => Promise<number>]>([
    ['a web server', httpPort],
    ['an SSH server', () => answeringPort('SSH-2.0-OpenSSH_9.6\r\n')],
    ['text', () => answeringPort('hello, who are you?\r\n')],
    ['binary garbage', () => answeringPort(Buffer.from([0xff, 0xfe, 0, 1, 2, 13, 10]))],
  ])('%s', async (_, start) => {
    const error = await failure({ url: at(await start()) });
    expect(error.code).toBe('UNAVAILABLE');
    expect(error.message).toContain('not a Redis server');
  });

  test.each<[string, string]>([
    ['a number for everything', ':1\r\n'],
    ['an array without end', '*1000000\r\n'],
    ['a reply of impossible length', '$99999999999999\r\n'],
    ['nulls for everything', '$-1\r\n'],
    ['OK for everything', '+OK\r\n'],
  ])('an answer that resembles Redis: %s', async (_, bytes) => {
    const error = await failure({ url: at(await answeringPort(bytes)) });
    expect(error.code).toBe('UNAVAILABLE');
  });
});

describe('12: a server that refuses the login', () => {
  let server: RedisServer;
  beforeAll(async () => {
    server = await startRedis({
      requirepass: 'the-right-one',
      users: {
        reader: `on >${SECRET} ~* &* +@read +@connection`,
        elsewhere: `on >${SECRET} ~other:* resetchannels +@all`,
        nothing: `on >${SECRET} -@all`,
        asleep: `off >${SECRET} ~* &* +@all`,
      },
    });
    return () => server[Symbol.asyncDispose]();
  });

  test.each<[string, { username?: string; password: string }]>([
    ['a wrong password', { password: SECRET }],
    ['an unknown user', { username: 'nobody', password: SECRET }],
    ['a wrong password of a known user', { username: 'reader', password: `${SECRET}x` }],
    ['a disabled user', { username: 'asleep', password: SECRET }],
  ])('%s: PERMISSION', async (_, credentials) => {
    const error = await failure({ url: server.urlFor(credentials) });
    expect(error.code).toBe('PERMISSION');
    expect(error.message).toContain(`127.0.0.1:${server.port}`);
  });

  test('a missing password: PERMISSION', async () => {
    const error = await failure({ url: `redis://127.0.0.1:${server.port}` });
    expect(error.code).toBe('PERMISSION');
    expect(error.message).toContain('password');
  });

  test('a user without the right to read, write or publish: PERMISSION at the call', async () => {
    for (const username of ['reader', 'elsewhere']) {
      const url = server.urlFor({ username, password: SECRET });
      const client = await openClient({ url, logger: {} });
      const ids = { roomId: 'r', userId: 'u', connId: 'c' };
      const errors = [await rejection(() => client.join(ids))];
      if (username === 'elsewhere') {
        errors.push(await rejection(() => client.heartbeat({ connId: 'c' })));
        errors.push(await rejection(() => client.fetchRoomSnapshot('r')));
        errors.push(await rejection(() => client.subscribe(() => {})));
        errors.push(await rejection(() => client.subscribe(() => {}, { roomId: 'r' })));
        errors.push(await rejection(() => client.reapOnce()));
      }
      for (const error of errors) {
        expect(error.code).toBe('PERMISSION');
        expect(everythingIn(error)).not.toContain(SECRET);
        expect(error).not.toHaveProperty('outcome');
      }
    }
    expect(await server.dbsize()).toBe(0);
  });

  test('a user without any permission: PERMISSION', async () => {
    const error = await failure({
      url: server.urlFor({ username: 'nothing', password: SECRET }),
    }).catch(() => undefined);
    if (error !== undefined) return expect(error.code).toBe('PERMISSION');
    const client = await openClient(server.urlFor({ username: 'nothing', password: SECRET }));
    const refused = await rejection(() => client.fetchRoomSnapshot('r'));
    expect(refused.code).toBe('PERMISSION');
  });

  test('a db that the server does not have: INVALID_ARGUMENT', async () => {
    const error = await failure({ url: server.urlFor({ db: 16 }) });
    expect(error.code).toBe('INVALID_ARGUMENT');
    expect(error.message).toContain('db');
  });

  test('TLS to a server without TLS: UNAVAILABLE', async () => {
    const error = await failure({ url: at(server.port).replace('redis:', 'rediss:') });
    expect(error.code).toBe('UNAVAILABLE');
  });
});

describe('12: invalid URLs: INVALID_ARGUMENT, and the message repeats no part of them', () => {
  test.each([
    `${SECRET}`,
    `127.0.0.1:6379/${SECRET}`,
    `http://:${SECRET}@127.0.0.1`,
    `REDIS//:${SECRET}@127.0.0.1`,
    `redis:${SECRET}@127.0.0.1`,
    `redis://:${SECRET}@`,
    `redis://:${SECRET}@/1`,
    `redis://:${SECRET}@127.0.0.1:99999`,
    `redis://:${SECRET}@127.0.0.1:port`,
    `redis://:${SECRET}@127.0.0.1/notanumber`,
    `redis://:${SECRET}@127.0.0.1/-1`,
    `redis://:${SECRET}@127.0.0.1/1.5`,
    `redis://:${SECRET}@[::1`,
    `redis://:${SECRET}%@127.0.0.1:6379x`,
    `redis+unix://`,
    ` redis://:${SECRET}@127.0.0.1`,
    `redis://:${SECRET}@127.0.0.1?protocol=resp9`,
  ])('case %#', async (url) => {
    expect((await failure({ url })).code).toBe('INVALID_ARGUMENT');
  });
});
