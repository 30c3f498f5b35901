// Channel metadata as RedisJSON documents (9.4), in addition to the conformance tests: the
// document, the parts that are written, many writers, and servers without the module.
import type { Redis } from 'ioredis';
import { PresenceClient } from 'rollcall';
import { beforeEach, describe, expect, test } from 'vitest';
import { brief, CHANNEL, items, recordMetadata } from '../conformance/metadata.js';
import { failure, useStore } from '../conformance/stores.js';
import { commandsOf } from '../states/large.js';
import { startRedis } from '../support/redis.js';
import { jsonDb, noRedisJson } from '../support/redisjson.js';

test('9.4 a server without the module: UNSUPPORTED, when the client is opened', async () => {
  await using server = await startRedis();
  const opened = PresenceClient.connect({ url: server.url, metadataStorage: 'json' });
  await expect(opened).rejects.toEqual(failure('UNSUPPORTED', 'RedisJSON'));
});

test('9.4 the in-process store accepts the option', async () => {
  await using client = await PresenceClient.connect({ metadataStorage: 'json', logger: {} });
  await client.metadata.set({ ...CHANNEL, data: items({ a: '\ud800' }) }).catch(() => {});
  expect((await client.metadata.set({ ...CHANNEL, data: items({ a: '1' }) })).totalCount).toBe(1);
});

describe.skipIf(noRedisJson)('RedisJSON', () => {
  const store = useStore('redis', { metadataStorage: 'json' }, jsonDb);
  const KEY = 'prs:{chan:doc:one}:meta';
  let redis: Redis;
  beforeEach(async () => {
    const { server, db } = store.redis();
    redis = await server.client(db);
    return async () => {
      await redis.flushdb();
      redis.disconnect();
    };
  });
  const document = async () => JSON.parse((await redis.call('JSON.GET', KEY)) as string);

  test('9.4 the document is { majorRevision, totalCount, items }, with a permanent id', async () => {
    const client = await store.connect();
    await client.metadata.set({ ...CHANNEL, data: items({ b: '1', a: '2' }) });
    const made = await document();
    const options = { addTimestamp: true, addUserId: true };
    const { timestamp } = await client.metadata.update({
      ...CHANNEL,
      data: items({ a: 'é "quoted"' }),
      options,
      actorUserId: 'me',
    });
    const a = {
      value: 'é "quoted"',
      revision: 2,
      updated: new Date(timestamp).toISOString(),
      authorUid: 'me',
    };
    const { id, ...rest } = await document();
    expect(id).toMatch(/^[0-9a-f]{32}$/);
    expect(id).toBe(made.id);
    expect(JSON.stringify(rest)).toBe(
      JSON.stringify({
        majorRevision: 2,
        totalCount: 2,
        items: { b: { value: '1', revision: 1 }, a },
      }),
    );
    const other = await store.connect();
    expect((await other.metadata.get(CHANNEL)).metadata).toEqual({
      b: { value: '1', revision: 1 },
      a,
    });
  });

  test('9.4 an update writes its items by path, and neither reads nor sends the document', async () => {
    const client = await store.connect();
    const big = Object.fromEntries(Array.from({ length: 500 }, (_, i) => [`key ${i}`, `v${i}`]));
    await client.metadata.set({ ...CHANNEL, data: items(big) });
    for (const key of ['key 250', 'key 7']) {
      const commands = await commandsOf(store, () =>
        client.metadata.update({ ...CHANNEL, data: items({ [key]: 'new' }) }),
      );
      expect(commands).toHaveLength(1);
      expect(commands.flat().join('').length).toBeLessThan(1_000);
      expect((await document()).items[key]).toEqual({ value: 'new', revision: 2 });
    }
    // A key that no path can contain, in a document with others.
    await client.metadata.set({ ...CHANNEL, data: items({ 'a"\\\n$[*]': '1', b: '2' }) });
    await client.metadata.update({ ...CHANNEL, data: items({ 'a"\\\n$[*]': '3' }) });
    expect((await document()).items).toEqual({
      'a"\\\n$[*]': { value: '3', revision: 2 },
      b: { value: '2', revision: 1 },
    });
  });

  test('7.6 8000 updates by 16 writers of 4 nodes: no update is lost', {
    timeout: 60_000,
  }, async () => {
    const nodes = await Promise.all([0, 1, 2, 3].map(() => store.connect()));
    const writers = Array.from({ length: 16 }, (_, i) => ({ node: nodes[i % 4], key: `w${i}` }));
    await nodes[0]?.metadata.set({ ...CHANNEL, data: writers.map(({ key }) => ({ key })) });
    await Promise.all(
      writers.map(async ({ node, key }) => {
        for (let i = 1; i <= 500; i++) {
          await node?.metadata.update({ ...CHANNEL, data: items({ [key]: `${i}` }) });
        }
      }),
    );
    const found = await document();
    expect(found.majorRevision).toBe(8001);
    expect(found.totalCount).toBe(16);
    for (const { key } of writers)
      expect(found.items[key]).toEqual({ value: '500', revision: 501 });
  });

  test('7.5 two nodes with different cached records: the second sees the first one’s change', async () => {
    const [one, two] = [await store.connect(), await store.connect()];
    const recorder = await recordMetadata(one);
    await one.metadata.set({ ...CHANNEL, data: items({ a: '1' }) });
    await two.metadata.update({ ...CHANNEL, data: items({ a: '2' }) });
    const record = await one.metadata.update({ ...CHANNEL, data: items({ a: '3' }) });
    expect(brief(record)).toEqual({ major: 3, total: 1, items: { a: ['3', 3] } });
    await redis.del(KEY);
    const after = one.metadata.update({ ...CHANNEL, data: items({ a: '4' }) });
    await expect(after).rejects.toEqual(failure('METADATA_INVALID', 'does not exist'));
    const changes = (await recorder.settled()).map((event) => [
      event.operation,
      event.majorRevision,
    ]);
    expect(changes).toEqual([
      ['set', 1],
      ['update', 2],
      ['update', 3],
    ]);
  });

  test('9.4 text that RedisJSON cannot store is refused before anything is sent', async () => {
    const client = await store.connect();
    for (const data of [[{ key: '\ud800' }], [{ key: 'a', value: 'x\udfff' }]]) {
      await expect(client.metadata.set({ ...CHANNEL, data })).rejects.toEqual(
        failure('INVALID_ARGUMENT', 'data[0]'),
      );
    }
    expect(await redis.exists(KEY)).toBe(0);
  });

  test('9.4 keys of another type: CORRUPT_DATA, and `set` replaces a document of another form', async () => {
    const client = await store.connect();
    await redis.hset(KEY, 'items', '{}', 'majorRevision', 1);
    await expect(client.metadata.get(CHANNEL)).rejects.toEqual(failure('CORRUPT_DATA', 'doc'));
    await expect(client.metadata.set({ ...CHANNEL, data: items({ a: '1' }) })).rejects.toEqual(
      failure('CORRUPT_DATA', 'doc'),
    );
    for (const other of ['[1]', '{"majorRevision":"x"}', '{"majorRevision":4,"items":[]}']) {
      await redis.del(KEY);
      await redis.call('JSON.SET', KEY, '$', other);
      await expect(client.metadata.get(CHANNEL)).rejects.toEqual(failure('CORRUPT_DATA', 'doc'));
      await client.metadata.set({ ...CHANNEL, data: items({ a: '1' }) });
      expect((await document()).items).toEqual({ a: { value: '1', revision: 1 } });
    }
  });
});
