// Spec 7.8: changes that arrive during a commit form the next one. The server is stopped (SIGSTOP)
// while changes arrive, so that no result depends on timing. The tests also cover groups when the
// server does not answer (spec 12), and too many changes (spec 5.4).
import type { ChannelMetadata, ClientOptions } from 'rollcall';
import { describe, expect, onTestFinished, test } from 'vitest';
import { CHANNEL, items } from '../conformance/metadata.js';
import { openClient, type Untyped } from '../support/clients.js';
import { commandCalls } from '../support/command-stats.js';
import { type RedisServer, startRedis } from '../support/redis.js';
import { eventually } from '../support/wait.js';

async function open(options: ClientOptions = {}) {
  const server = await startRedis();
  onTestFinished(() => server[Symbol.asyncDispose]());
  const client = await openClient({ url: server.url, ...options });
  return { server, client };
}

/** Makes changes while the server is stopped; they settle afterwards. */
async function whileStopped<T>(server: RedisServer, change: () => Promise<T>[]) {
  server.pause();
  const changes = change();
  const settled = Promise.allSettled(changes);
  server.resume();
  return settled;
}

function fulfilled(results: PromiseSettledResult<ChannelMetadata>[]): ChannelMetadata[] {
  return results.flatMap((result) => (result.status === 'fulfilled' ? [result.value] : []));
}

function rejected(results: PromiseSettledResult<unknown>[]): Untyped[] {
  return results.flatMap((result) => (result.status === 'rejected' ? [result.reason] : []));
}

describe('7.8 groups', () => {
  test('7.8 changes that arrive while a commit is in flight form the next one', async () => {
    const { server, client } = await open();
    await client.metadata.set({ ...CHANNEL, data: items({ a: '0' }) });
    const events: number[] = [];
    await client.metadata.subscribe(
      ({ majorRevision }: Untyped) => void events.push(majorRevision),
    );
    const before = client.metrics();
    const results = await whileStopped<ChannelMetadata>(server, () =>
      Array.from({ length: 100 }, (_, i) =>
        client.metadata.update({ ...CHANNEL, data: items({ a: `${i}` }) }),
      ),
    );
    const revisions = Array.from({ length: 100 }, (_, i) => i + 2);
    expect(fulfilled(results).map(({ majorRevision }) => majorRevision)).toEqual(revisions);
    expect(fulfilled(results).map(({ metadata }) => metadata.a?.value)).toEqual(
      revisions.map((revision) => `${revision - 2}`),
    );
    await eventually(() => expect(events).toEqual(revisions));
    const after = client.metrics();
    // The first ones were sent at once, all others together.
    expect(after.metadataCommits - before.metadataCommits).toBeLessThanOrEqual(2);
    expect(after.metadataChanges - before.metadataChanges).toBe(100);
    expect(after.metadataRetries).toBe(before.metadataRetries);
  });

  test('7.8 an uncontended change is one script call', async () => {
    const { server, client } = await open();
    await client.metadata.set({ ...CHANNEL, data: items({ a: '0' }) });
    const admin = await server.client();
    const calls = async () => {
      const counts = await commandCalls(admin);
      const of = (name: string) => counts[name] ?? 0;
      // Commands of scripts count too: one HMGET and one HSET each.
      return { evalsha: of('evalsha'), eval: of('eval'), hmget: of('hmget'), hset: of('hset') };
    };
    const before = await calls();
    const options = { addTimestamp: true };
    for (let i = 0; i < 20; i++) {
      await client.metadata.update({ ...CHANNEL, data: items({ a: `${i}` }), options });
    }
    expect(await calls()).toEqual({
      evalsha: before.evalsha + 20,
      eval: before.eval,
      hmget: before.hmget + 20,
      hset: before.hset + 20,
    });
    admin.disconnect();
  });

  test('7.8 a failing change of a group fails alone', async () => {
    const { server, client } = await open();
    const admin = await server.client();
    await admin.set('prs:lock:x', 'ada', 'PX', 60_000);
    await client.metadata.set({ ...CHANNEL, data: items({ a: '0' }) });
    const update = (value: string, rest = {}) =>
      client.metadata.update({ ...CHANNEL, data: items({ a: value }), ...rest });
    const results = await whileStopped<ChannelMetadata>(server, () => [
      update('1'),
      update('2', { options: { lockName: 'x' }, actorUserId: 'bob' }),
      update('3', { options: { lockName: 'x' }, actorUserId: 'ada' }),
      update('4', { options: { lockName: 'y' }, actorUserId: 'ada' }),
      update('5', { options: { majorRevision: 1 } }),
      client.metadata.update({ ...CHANNEL, data: items({ none: '' }) }),
      update('6', { options: { majorRevision: 3 } }),
    ]);
    const outcomes = results.map((result) =>
      result.status === 'fulfilled' ? result.value.majorRevision : result.reason.message,
    );
    expect(outcomes).toEqual([
      2,
      'Lock "x" is held by a different user',
      3,
      'Lock "y" is not held by any user',
      'Expected major revision 1, but got 3',
      'Metadata item "none" does not exist',
      4,
    ]);
    expect((await client.metadata.get(CHANNEL)).metadata.a).toEqual({ value: '6', revision: 4 });
    admin.disconnect();
  });

  test('7.8 groups of two nodes on one channel: each sees the other’s, and no update is lost', async () => {
    const { server, client } = await open();
    const other = await openClient({ url: server.url });
    await client.metadata.set({ ...CHANNEL, data: items({ a: '0', b: '0' }) });
    await other.metadata.get(CHANNEL);
    const results = await whileStopped<ChannelMetadata>(server, () =>
      Array.from({ length: 50 }, (_, i) => [
        client.metadata.update({ ...CHANNEL, data: items({ a: `${i}` }) }),
        other.metadata.update({ ...CHANNEL, data: items({ b: `${i}` }) }),
      ]).flat(),
    );
    expect(rejected(results)).toEqual([]);
    const revisions = fulfilled(results).map(({ majorRevision }) => majorRevision);
    expect([...revisions].sort((x, y) => x - y)).toEqual(revisions.map((_, i) => i + 2));
    expect((await client.metadata.get(CHANNEL)).metadata).toEqual({
      a: { value: '49', revision: 51 },
      b: { value: '49', revision: 51 },
    });
    const retries = client.metrics().metadataRetries + other.metrics().metadataRetries;
    expect(retries).toBeGreaterThan(0);
  });

  test('13 maxBatchSize bounds a group', async () => {
    const { server, client } = await open({ limits: { maxBatchSize: 10 } });
    await client.metadata.set({ ...CHANNEL, data: items({ a: '0' }) });
    const results = await whileStopped<ChannelMetadata>(server, () =>
      Array.from({ length: 95 }, (_, i) =>
        client.metadata.update({ ...CHANNEL, data: items({ a: `${i}` }) }),
      ),
    );
    expect(fulfilled(results).map(({ majorRevision }) => majorRevision)).toEqual(
      Array.from({ length: 95 }, (_, i) => i + 2),
    );
    expect(client.metrics().metadataGroupSize.max).toBeLessThanOrEqual(10);
  });
});

describe('5.4 the queue is bounded', () => {
  test('13 maxQueue: above it OVERLOADED, at once, and accepted changes are applied', async () => {
    const { server, client } = await open({ limits: { maxQueue: 10 } });
    await client.metadata.set({ ...CHANNEL, data: items({ a: '0' }) });
    const results = await whileStopped<ChannelMetadata>(server, () =>
      Array.from({ length: 100 }, (_, i) =>
        client.metadata.update({ ...CHANNEL, data: items({ a: `${i}` }) }),
      ),
    );
    const done = fulfilled(results);
    // Ten wait, and up to ten are in flight.
    expect(done.length).toBeGreaterThanOrEqual(10);
    expect(done.length).toBeLessThanOrEqual(20);
    expect(done.map(({ majorRevision }) => majorRevision)).toEqual(done.map((_, i) => i + 2));
    for (const error of rejected(results)) {
      expect(error).toMatchObject({ code: 'OVERLOADED' });
      expect(error.outcome).toBeUndefined();
      for (const part of ['10', 'limits.maxQueue']) expect(error.message).toContain(part);
    }
    expect(client.metrics()).toMatchObject({ overloaded: 100 - done.length, metadataQueue: 0 });
    expect((await client.metadata.get(CHANNEL)).majorRevision).toBe(1 + done.length);
  });

  test('13 … and in bytes: eight records', async () => {
    const limits = { maxMetadataRecordBytes: 10_000, maxMetadataValueBytes: 9_000 };
    const { server, client } = await open({ limits });
    const results = await whileStopped<ChannelMetadata>(server, () =>
      Array.from({ length: 100 }, () =>
        client.metadata.set({ ...CHANNEL, data: items({ a: 'x'.repeat(8_000) }) }),
      ),
    );
    expect(fulfilled(results).length).toBeGreaterThanOrEqual(9);
    for (const error of rejected(results)) {
      expect(error.code).toBe('OVERLOADED');
      expect(error.message).toContain('80000 bytes');
    }
    expect(rejected(results).length).toBeGreaterThanOrEqual(80);
  });
});

describe('12 when the server does not answer', () => {
  test('12 the whole group has an unknown outcome, waiting changes were not sent, and nothing is applied twice', async () => {
    const { server, client } = await open({ limits: { commandTimeoutMs: 300 } });
    await client.metadata.set({ ...CHANNEL, data: items({ a: '0' }) });
    server.pause();
    const first = [1, 2, 3].map((i) =>
      client.metadata.update({ ...CHANNEL, data: items({ a: `${i}` }) }),
    );
    const settled = await Promise.allSettled(first);
    // A change directly after it would have waited as long as the commit; this one comes later.
    const second = await Promise.allSettled([
      client.metadata.update({ ...CHANNEL, data: items({ a: 'later' }) }),
    ]);
    expect(fulfilled([...settled, ...second] as Untyped)).toEqual([]);
    const unknown = rejected(settled).filter(({ outcome }) => outcome === 'unknown');
    expect(unknown.length).toBeGreaterThanOrEqual(1);
    for (const error of unknown) expect(['TIMEOUT', 'UNAVAILABLE']).toContain(error.code);
    const sent = [...unknown];
    for (const error of [...rejected(settled), ...rejected(second)]) {
      if (error.outcome === undefined) {
        expect(error).toMatchObject({ code: 'UNAVAILABLE' });
        expect(error.message).toMatch(/[Nn]othing was sent/);
      } else if (!sent.includes(error)) {
        sent.push(error);
      }
    }
    server.resume();
    // The sent changes may be applied now; each at most once.
    await eventually(async () => {
      const { majorRevision, metadata } = await client.metadata.get(CHANNEL);
      expect(majorRevision).toBeLessThanOrEqual(1 + sent.length);
      expect(metadata.a?.revision).toBe(majorRevision);
    });
    // The channel continues to work.
    const { majorRevision } = await client.metadata.get(CHANNEL);
    const after = await client.metadata.update({ ...CHANNEL, data: items({ a: 'after' }) });
    expect(after.majorRevision).toBeGreaterThan(majorRevision);
    expect(after.majorRevision).toBeLessThanOrEqual(2 + sent.length);
  });

  test('12 a connection that breaks during a commit: unknown outcome, no retry; later changes work', async () => {
    const { server, client } = await open();
    await client.metadata.set({ ...CHANNEL, data: items({ a: '0' }) });
    server.pause();
    const change = client.metadata
      .update({ ...CHANNEL, data: items({ a: '1' }) })
      .catch((error: Untyped) => error);
    await server.kill();
    const error = await change;
    expect(error).toMatchObject({ outcome: 'unknown' });
    expect(['UNAVAILABLE', 'TIMEOUT']).toContain(error.code);
    await server.start();
    // The server returned empty: this node's cached record is wrong, which the next change detects.
    const gone = await client.metadata
      .update({ ...CHANNEL, data: items({ a: '2' }) })
      .catch((caught: Untyped) => caught);
    expect(gone).toMatchObject({ code: 'METADATA_INVALID' });
    const set = await client.metadata.set({ ...CHANNEL, data: items({ a: '3' }) });
    expect(set.majorRevision).toBe(1);
  });

  test('12 reads are sent again', async () => {
    const { server, client } = await open();
    await client.metadata.set({ ...CHANNEL, data: items({ a: '0' }) });
    const admin = await server.client();
    await admin.call('CLIENT', 'KILL', 'TYPE', 'normal', 'SKIPME', 'yes');
    expect((await client.metadata.get(CHANNEL)).majorRevision).toBe(1);
    admin.disconnect();
  });
});
