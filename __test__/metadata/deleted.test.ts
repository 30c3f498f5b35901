// A deleted record starts again with revision 1. The cache of a node never applies to the new
// record, even if it has the same revision by chance.
import { randomUUID } from 'node:crypto';
import type { ClientOptions } from 'rollcall';
import { describe, expect, test } from 'vitest';
import { openClient } from '../support/clients.js';
import { sharedDb } from '../support/redis.js';
import { jsonDb, noRedisJson } from '../support/redisjson.js';
import { eventually } from '../support/wait.js';

const CHANNEL = { channelType: 'doc', channelName: 'one' };
const KEY = 'prs:{chan:doc:one}:meta';
const data = (values: Record<string, string>) =>
  Object.entries(values).map(([key, value]) => ({ key, value }));

interface Place {
  client: ClientOptions;
  /** Deletes the record, like another application. */
  remove?(): Promise<number>;
}

async function onRedis(metadataStorage: 'hash' | 'json'): Promise<Place> {
  const { server, db, url } = await (metadataStorage === 'json' ? jsonDb() : sharedDb());
  const admin = await server.client(db);
  return { client: { url, metadataStorage }, remove: () => admin.del(KEY) };
}

const STORES: Record<string, () => Promise<Place>> = {
  'redis, hash': () => onRedis('hash'),
  'redis, json': () => onRedis('json'),
  memory: async () => ({ client: { url: `memory://deleted-${randomUUID()}` } }),
};

describe.each(Object.entries(STORES))('7.6 on %s', (name, open) => {
  const skipped = name === 'redis, json' && noRedisJson !== '';
  const ways = name === 'memory' ? ['expired'] : ['deleted by others', 'expired'];

  test.skipIf(skipped).each(ways)(
    '27: a record that was %s and created again with the same revision is a different record',
    async (way) => {
      const { client, remove } = await open();
      const [one, two] = [await openClient(client), await openClient(client)];
      const lives = way === 'expired' ? { options: { ttlMs: 100 } } : {};
      await one.metadata.set({ ...CHANNEL, data: data({ a: 'old', b: 'old' }) });
      await one.metadata.update({ ...CHANNEL, data: data({ a: 'older' }), ...lives });
      if (way === 'expired') {
        await eventually(async () =>
          expect((await two.metadata.get(CHANNEL)).majorRevision).toBe(0),
        );
      } else {
        expect(await remove?.()).toBe(1);
      }
      await two.metadata.set({ ...CHANNEL, data: data({ a: 'new', b: 'new' }) });
      await two.metadata.update({ ...CHANNEL, data: data({ a: 'newer' }) });

      // The same revision, 2: a conflict, a change and a removal all return the new record.
      const refused = one.metadata.update({
        ...CHANNEL,
        data: data({ a: 'x' }),
        options: { majorRevision: 7 },
      });
      await expect(refused).rejects.toMatchObject({
        code: 'METADATA_CONFLICT',
        current: { majorRevision: 2, metadata: { a: { value: 'newer' }, b: { value: 'new' } } },
      });
      await two.metadata.remove({ ...CHANNEL, data: [{ key: 'missing' }] });
      const after = await one.metadata.update({ ...CHANNEL, data: data({ b: 'newest' }) });
      const whole = {
        majorRevision: 3,
        metadata: { a: { value: 'newer', revision: 2 }, b: { value: 'newest', revision: 2 } },
      };
      expect(after).toMatchObject(whole);
      expect(await two.metadata.get(CHANNEL)).toMatchObject(whole);
    },
  );

  test.skipIf(skipped)('27: … even if the first call is a change of one item', async () => {
    const { client } = await open();
    const [one, two] = [await openClient(client), await openClient(client)];
    await one.metadata.set({
      ...CHANNEL,
      data: data({ a: 'old', b: 'old' }),
      options: { ttlMs: 50 },
    });
    await eventually(async () => expect((await two.metadata.get(CHANNEL)).majorRevision).toBe(0));
    await two.metadata.set({ ...CHANNEL, data: data({ a: 'new', b: 'new', c: 'new' }) });
    const after = await one.metadata.update({ ...CHANNEL, data: data({ b: 'newest' }) });
    const whole = {
      totalCount: 3,
      majorRevision: 2,
      metadata: { a: { value: 'new' }, b: { value: 'newest', revision: 2 }, c: { value: 'new' } },
    };
    expect(after).toMatchObject(whole);
    expect(await two.metadata.get(CHANNEL)).toMatchObject(whole);
  });

  test.skipIf(skipped)('27: 100 000 items with timestamps can be one change', async () => {
    const client = await openClient({
      ...(await open()).client,
      limits: { maxMetadataRecordBytes: 16 * 1024 * 1024, commandTimeoutMs: 30_000 },
    });
    const many = Array.from({ length: 100_000 }, (_, i) => ({ key: `${i}` }));
    const set = { ...CHANNEL, data: many, options: { addTimestamp: true } };
    const { totalCount, metadata, timestamp } = await client.metadata.set(set);
    expect(totalCount).toBe(100_000);
    expect(metadata['99999']?.updated).toBe(new Date(timestamp).toISOString());
    const updated = await client.metadata.update(set);
    expect(updated.metadata['0']).toEqual({
      value: '',
      revision: 2,
      updated: new Date(updated.timestamp).toISOString(),
    });
    const tooMany = Array.from({ length: 500_001 }, (_, i) => ({ key: `${i}` }));
    await expect(client.metadata.set({ ...CHANNEL, data: tooMany })).rejects.toMatchObject({
      code: 'INVALID_ARGUMENT',
      message: expect.stringContaining('500001 items, more than the limit of 500000'),
    });
  });
});
