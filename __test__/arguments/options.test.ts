// Invalid options of `connect`, and the limits of spec 13 as options.
import { ERROR_CODES, PresenceClient } from 'rollcall';
import { describe, expect, test } from 'vitest';
import { nativeErrorCodes } from '../../dist/native.js';
import { openClient, rejection, type Untyped } from '../support/clients.js';
import { sharedRedis, startRedis } from '../support/redis.js';
import { startClock } from '../support/wait.js';

const connect = PresenceClient.connect as (options: unknown) => Promise<PresenceClient>;

describe('12: invalid options are refused, and the message names the option', () => {
  const COUNTS = [
    'ttlMs',
    'sweepIntervalMs',
    'fallbackSweepMs',
    'shardCount',
    'batchWindowMs',
    'limits.maxIdBytes',
    'limits.maxStateBytes',
    'limits.maxDepth',
    'limits.maxBatchSize',
    'limits.maxQueue',
    'limits.commandTimeoutMs',
    'limits.connectTimeoutMs',
    'limits.maxEventQueue',
    'limits.maxEventQueueBytes',
    'limits.maxPendingCalls',
    'limits.maxInFlightBytes',
  ];
  const at = (path: string, value: unknown) => {
    const [first = '', second] = path.split('.');
    return { logger: {}, [first]: second === undefined ? value : { [second]: value } };
  };

  test.each(COUNTS)('%s must be a whole number in its range', async (path) => {
    const values = ['5', null, Number.NaN, Number.POSITIVE_INFINITY, -1, 1.5, 5n, {}, [], true];
    for (const value of [...values, Symbol('x'), () => 1]) {
      const error = await rejection(() => connect(at(path, value)));
      expect(error.code).toBe('INVALID_ARGUMENT');
      expect(error.message).toContain(path);
    }
    if (path !== 'batchWindowMs') {
      const error = await rejection(() => connect(at(path, 0)));
      expect([error.code, error.message]).toEqual([
        'INVALID_ARGUMENT',
        expect.stringContaining(path),
      ]);
    }
  });

  test.each<[string, unknown]>([
    ['ttlMs', 10 * 366 * 24 * 3600 * 1000],
    ['shardCount', 1025],
    ['batchWindowMs', 60_001],
    ['limits.maxDepth', 1001],
    ['limits.maxBatchSize', 2001],
    ['expiry', 'sometimes'],
    ['stateStorage', 'somewhere'],
    ['stateStorage', null],
    ['stateCompression', 'gzip'],
    ['stateCompression.codec', 'lz4'],
    ['stateCompression.thresholdBytes', -1],
    ['stateCompression.level', 9],
    ['stateCompression.dictionaries', new Uint8Array(9)],
    ['stateCompression.dictionaries', ['text']],
    ['stateCompression.dictionaries', [new Uint8Array(9)]],
    ['metadataStorage', 'yaml'],
    ['keyPrefix', ''],
    ['keyPrefix', 'x'.repeat(1025)],
    ['keyPrefix', 5],
    ['keyPrefix', null],
    ['url', 5],
    ['url', null],
    ['url', []],
    ['url', [5]],
    ['url', ['redis://127.0.0.1:1', 'redis://127.0.0.1:2']],
    ['locks', []],
    ['locks.urls', 'redis://127.0.0.1:1'],
    ['locks.urls', ['redis://127.0.0.1:1', 'redis://127.0.0.1:2']],
    ['locks.driftFactor', '0.01'],
    ['locks.driftFactor', -0.1],
    ['locks.driftFactor', 0.6],
    ['locks.driftFactor', Number.NaN],
    ['locks.retryCount', 1001],
    ['locks.retryDelayMs', 60_001],
    ['locks.retryJitterMs', 1.5],
    ['locks.retries', 3],
    ['url', new URL('redis://127.0.0.1')],
    ['tls', 'a certificate'],
    ['tls', null],
    ['tls.ca', 5],
    ['tls.ca', Buffer.from('pem')],
    ['tls.rejectUnauthorized', 'no'],
    ['limits', 5],
    ['limits', []],
    ['logger', null],
    ['logger', 'console'],
    ['logger', { error: 'yes' }],
    ['ttl', 5],
    ['TTLMS', 5],
    ['limits.maxQ', 5],
    ['tls.cA', 'pem'],
    ['__proto__x', 5],
    ['constructor', 5],
  ])('%s (case %#)', async (path, value) => {
    const error = await rejection(() => connect(at(path, value)));
    expect(error.code).toBe('INVALID_ARGUMENT');
    expect(error.message).toContain(path);
  });

  test.each([null, 5, true, 5n, Symbol('x'), [], () => {}, ''])(
    'an invalid target (case %#)',
    async (target) => {
      const error = await rejection(() => connect(target));
      expect(error.code).toBe('INVALID_ARGUMENT');
    },
  );

  test('a getter that throws', async () => {
    for (const field of ['url', 'logger', 'ttlMs']) {
      const options = Object.defineProperty({}, field, {
        enumerable: true,
        get() {
          throw new Error('not to be read');
        },
      });
      const error = await rejection(() => connect(options));
      expect([error.code, error.message]).toEqual([
        'INVALID_ARGUMENT',
        expect.stringContaining(field),
      ]);
    }
  });

  test('messages never contain the value of an option, which may be a secret', async () => {
    for (const path of ['url', 'ttlMs', 'tls', 'limits', 'limits.maxQueue', 'tls.ca']) {
      for (const value of [['hush'], 'hush', { hush: 'hush' }]) {
        // Accepted here: only a connection with TLS reads it (../connect/ways.test.ts).
        if (path === 'tls.ca' && value === 'hush') continue;
        const error = await rejection(() => connect(at(path, value)));
        // The message contains the name of the unknown option, and not its value.
        expect(error.message.replace(/there is no option ".*"/, '')).not.toContain('hush');
      }
    }
  });
});

describe('13: limits are options; above a limit, INVALID_ARGUMENT names field, size and limit', () => {
  test('maxIdBytes, in bytes of UTF-8', async () => {
    const client = await openClient({ url: 'memory://', limits: { maxIdBytes: 10 } });
    await client.join({ roomId: 'äääää', userId: 'u'.repeat(10), connId: 'c' });
    for (const [field, ids] of Object.entries({
      roomId: { roomId: 'ääääää', userId: 'u', connId: 'c' },
      userId: { roomId: 'r', userId: 'u'.repeat(12), connId: 'c' },
      connId: { roomId: 'r', userId: 'u', connId: 'c'.repeat(12) },
    })) {
      const error = await rejection(() => client.join(ids));
      for (const part of [field, '12 bytes', '10 bytes', 'limits.maxIdBytes']) {
        expect(error.message).toContain(part);
      }
    }
    // Also checked when the connection is unknown.
    const error = await rejection(() => client.heartbeat({ connId: 'c'.repeat(12) }));
    expect([error.code, error.message]).toEqual([
      'INVALID_ARGUMENT',
      expect.stringContaining('connId'),
    ]);
  });

  test('maxStateBytes, for a state, a patch, and the patched state', async () => {
    const client: Untyped = await openClient({ url: 'memory://', limits: { maxStateBytes: 20 } });
    const ids = { roomId: 'r', userId: 'u', connId: 'c' };
    await client.join({ ...ids, state: { a: 'x'.repeat(10) } });
    const long = { a: 'x'.repeat(20) };
    for (const [field, call] of Object.entries({
      state: () => client.join({ ...ids, state: long }),
      patchState: () => client.heartbeat({ connId: 'c', patchState: long }),
    })) {
      const error = await rejection(call);
      expect(error.code).toBe('INVALID_ARGUMENT');
      for (const part of [field, '28 bytes', '20 bytes', 'limits.maxStateBytes']) {
        expect(error.message).toContain(part);
      }
    }
    const grown = { connId: 'c', patchState: { b: 'x'.repeat(10) } };
    const error = await rejection(() => client.heartbeat(grown));
    expect(error.code).toBe('INVALID_ARGUMENT');
    for (const part of ['patchState', '35 bytes', '20 bytes']) {
      expect(error.message).toContain(part);
    }
    expect((await client.fetchRoomSnapshot('r'))[0].state).toEqual({ a: 'x'.repeat(10) });
  });

  test('maxBatchSize bounds a batch', async () => {
    const server = await sharedRedis();
    const client = await openClient({ url: server.url, limits: { maxBatchSize: 10 } });
    const conns = Array.from({ length: 100 }, (_, i) => `c${i}`);
    await Promise.all(conns.map((connId) => client.join({ roomId: 'r', userId: 'u', connId })));
    await client.heartbeatMany(conns.map((connId) => ({ connId })));
    expect(client.metrics().heartbeatBatchSize.max).toBeLessThanOrEqual(10);
    expect(client.metrics().heartbeatBatches).toBeGreaterThanOrEqual(10);
    await Promise.all(conns.map((connId) => client.leave(connId)));
  });

  test('commandTimeoutMs: a call to a server that does not answer times out with outcome unknown', async () => {
    await using server = await startRedis();
    const client = await openClient({ url: server.url, limits: { commandTimeoutMs: 300 } });
    await client.join({ roomId: 'r', userId: 'u', connId: 'c' });
    server.pause();
    const began = performance.now();
    const clock = startClock();
    const error = await rejection(() => client.leave('c'));
    expect(performance.now() - began).toBeGreaterThan(280);
    // The default is 2000 ms.
    expect(clock.ms).toBeLessThan(1500);
    expect([error.code, error.outcome]).toEqual(['TIMEOUT', 'unknown']);
    expect(error.message).toContain('300 ms');
    server.resume();
  });
});

test('12: the table of error codes matches that of the core', () => {
  expect([...ERROR_CODES]).toEqual(nativeErrorCodes());
});
