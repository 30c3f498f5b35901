// Spec 7.1 to 7.4, each operation, on all stores. (Concurrent writers: metadata-writers.test.ts;
// contents of records: metadata-contents.test.ts; events: metadata-events.test.ts; locks:
// metadata-locks.test.ts; tests for Redis only: ../metadata/.)
import type { MetadataItemInput } from 'rollcall';
import { expect, test } from 'vitest';
import type { Untyped } from '../support/clients.js';
import { eventually } from '../support/wait.js';
import { brief, CHANNEL, items, recordMetadata } from './metadata.js';
import { failure, keysBesideNodes, onEveryMetadataStore } from './stores.js';

const ISO = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/;

onEveryMetadataStore('7 the response', (store) => {
  test('7 has timestamp, channelName, channelType, totalCount, majorRevision and metadata', async () => {
    const client = await store.connect();
    const before = Date.now();
    const set = await client.metadata.set({ ...CHANNEL, data: items({ k: 'v' }) });
    const metadata = { k: { value: 'v', revision: 1 } };
    const timestamp = expect.any(Number);
    expect(set).toStrictEqual({ timestamp, ...CHANNEL, totalCount: 1, majorRevision: 1, metadata });
    expect(await client.metadata.get(CHANNEL)).toStrictEqual({
      ...set,
      timestamp: expect.any(Number),
    });
    // The server's clock, which is this machine's clock in the tests.
    expect(Math.abs(set.timestamp - before)).toBeLessThan(60_000);
  });
});

onEveryMetadataStore('7.1 set', (store) => {
  test('7.1 replaces the whole record', async () => {
    const client = await store.connect();
    await client.metadata.set({ ...CHANNEL, data: items({ a: '1', b: '2' }) });
    const set = await client.metadata.set({ ...CHANNEL, data: items({ b: '3', c: '4' }) });
    expect(brief(set)).toEqual({ major: 2, total: 2, items: { b: ['3', 1], c: ['4', 1] } });
    expect(brief(await client.metadata.get(CHANNEL))).toEqual(brief(set));
  });

  test('7.1 an item’s revision is the given one if positive, else 1', async () => {
    const client = await store.connect();
    const revisions = [undefined, -1, 0, 1, 7, 2 ** 53 - 1];
    const data = revisions.map((revision, i) => ({ key: `${i}`, value: '', revision }));
    const { metadata } = await client.metadata.set({
      ...CHANNEL,
      data: data as MetadataItemInput[],
    });
    expect(Object.values(metadata).map(({ revision }) => revision)).toEqual([
      1,
      1,
      1,
      1,
      7,
      2 ** 53 - 1,
    ]);
  });

  test('7.1 a missing value is ""', async () => {
    const client = await store.connect();
    const { metadata } = await client.metadata.set({ ...CHANNEL, data: [{ key: 'k' }] });
    expect(metadata).toEqual({ k: { value: '', revision: 1 } });
  });

  test('7.1 without items the record is empty, but it exists', async () => {
    const client = await store.connect();
    await client.metadata.set({ ...CHANNEL, data: items({ k: 'v' }) });
    for (const [major, data] of [
      [2, []],
      [3, undefined],
    ] as const) {
      const set = await client.metadata.set({ ...CHANNEL, ...(data && { data }) });
      expect(brief(set)).toEqual({ major, total: 0, items: {} });
    }
    await expect(
      client.metadata.update({ ...CHANNEL, data: items({ k: 'v' }) }),
    ).rejects.toMatchObject({
      code: 'METADATA_INVALID',
      message: 'Metadata item "k" does not exist',
    });
  });

  test('7.1 of several items with one key the last value counts, at the position of the first', async () => {
    const client = await store.connect();
    const data = [...items({ a: '1', b: '2' }), { key: 'a', value: '3', revision: 5 }];
    const { metadata, totalCount } = await client.metadata.set({ ...CHANNEL, data });
    expect(totalCount).toBe(2);
    expect(Object.entries(metadata)).toEqual([
      ['a', { value: '3', revision: 5 }],
      ['b', { value: '2', revision: 1 }],
    ]);
  });
});

onEveryMetadataStore('7.2 update', (store) => {
  test('7.2 changes the named items; each gets its next revision', async () => {
    const client = await store.connect();
    await client.metadata.set({ ...CHANNEL, data: items({ a: '1', b: '2', c: '3' }) });
    const updated = await client.metadata.update({ ...CHANNEL, data: items({ c: 'x', a: 'y' }) });
    expect(brief(updated)).toEqual({
      major: 2,
      total: 3,
      items: { a: ['y', 2], b: ['2', 1], c: ['x', 2] },
    });
    expect(Object.keys(updated.metadata)).toEqual(['a', 'b', 'c']);
  });

  test('7.2 needs at least one item', async () => {
    const client = await store.connect();
    await client.metadata.set({ ...CHANNEL, data: items({ a: '1' }) });
    for (const data of [[], undefined]) {
      const update = client.metadata.update({ ...CHANNEL, data } as Untyped);
      await expect(update).rejects.toEqual(failure('METADATA_INVALID', 'At least one'));
    }
    expect((await client.metadata.get(CHANNEL)).majorRevision).toBe(1);
  });

  test('7.2 the record must exist', async () => {
    const client = await store.connect();
    const update = () => client.metadata.update({ ...CHANNEL, data: items({ a: '1' }) });
    for (let i = 0; i < 2; i++) {
      await expect(update()).rejects.toMatchObject({
        code: 'METADATA_INVALID',
        message: 'Channel metadata does not exist',
      });
    }
    expect(brief(await client.metadata.get(CHANNEL))).toEqual({ major: 0, total: 0, items: {} });
  });

  test('7.2 if an item is missing, nothing is changed', async () => {
    const client = await store.connect();
    await client.metadata.set({ ...CHANNEL, data: items({ a: '1' }) });
    const recorder = await recordMetadata(client);
    const update = client.metadata.update({ ...CHANNEL, data: items({ a: '2', 'b "c"': '2' }) });
    await expect(update).rejects.toMatchObject({
      code: 'METADATA_INVALID',
      message: 'Metadata item "b "c"" does not exist',
    });
    expect(brief(await client.metadata.get(CHANNEL))).toEqual({
      major: 1,
      total: 1,
      items: { a: ['1', 1] },
    });
    expect(await recorder.settled()).toEqual([]);
  });

  test('7.2 if an item’s revision does not match, nothing is changed', async () => {
    const client = await store.connect();
    await client.metadata.set({ ...CHANNEL, data: items({ a: '1', b: '1' }) });
    const update = (revision: number | undefined) =>
      client.metadata.update({
        ...CHANNEL,
        data: [{ key: 'b' }, { key: 'a', value: 'x', revision } as MetadataItemInput],
      });
    for (const wrong of [0, 2, 2 ** 53 - 1]) {
      const error = await update(wrong).catch((caught) => caught);
      expect(error).toMatchObject({
        code: 'METADATA_CONFLICT',
        message: 'Revision mismatch for key "a"',
      });
      // 7.5: the record that the caller would otherwise have to read.
      expect(error.current).toStrictEqual({
        ...(await client.metadata.get(CHANNEL)),
        timestamp: expect.any(Number),
      });
    }
    for (const [right, revision] of [
      [1, 2],
      [-1, 3],
      [undefined, 4],
      [4, 5],
    ] as const) {
      expect(brief(await update(right)).items).toEqual({ a: ['x', revision], b: ['1', revision] });
    }
  });

  test('7.2 a value is kept if none is given', async () => {
    const client = await store.connect();
    await client.metadata.set({ ...CHANNEL, data: items({ a: 'kept' }) });
    const updated = await client.metadata.update({ ...CHANNEL, data: [{ key: 'a' }] });
    expect(updated.metadata).toEqual({ a: { value: 'kept', revision: 2 } });
  });

  test('7.2 an item that occurs twice in one update is changed twice', async () => {
    const client = await store.connect();
    await client.metadata.set({ ...CHANNEL, data: items({ a: '1' }) });
    const recorder = await recordMetadata(client);
    const data = [
      { key: 'a', value: '2', revision: 1 },
      { key: 'a', value: '3', revision: 2 },
    ];
    expect(brief(await client.metadata.update({ ...CHANNEL, data }))).toEqual({
      major: 2,
      total: 1,
      items: { a: ['3', 3] },
    });
    // The event contains the item once, after both changes.
    expect((await recorder.settled())[0]?.items).toEqual([{ key: 'a', value: '3', revision: 3 }]);
    // The second change is refused, so the first is undone, too.
    await expect(client.metadata.update({ ...CHANNEL, data })).rejects.toEqual(
      failure('METADATA_CONFLICT'),
    );
    const half = [{ key: 'a', value: '4' }, { key: 'a', value: '5' }, { key: 'nope' }];
    await expect(client.metadata.update({ ...CHANNEL, data: half })).rejects.toEqual(
      failure('METADATA_INVALID'),
    );
    expect(brief(await client.metadata.get(CHANNEL)).items).toEqual({ a: ['3', 3] });
  });
});

onEveryMetadataStore('7 addTimestamp and addUserId', (store) => {
  const stamped = { addTimestamp: true, addUserId: true };

  test('7 addTimestamp: the entry gets `updated`, in ISO 8601 on the server’s clock', async () => {
    const client = await store.connect();
    const options = { addTimestamp: true };
    for (const change of [client.metadata.set, client.metadata.update] as const) {
      const { metadata, timestamp } = await change.call(client.metadata, {
        ...CHANNEL,
        data: items({ a: '1', b: '2' }),
        options,
      });
      const updated = new Date(timestamp).toISOString();
      expect(updated).toMatch(ISO);
      for (const item of Object.values(metadata)) {
        expect(item).toEqual({ value: expect.any(String), revision: expect.any(Number), updated });
      }
      expect((await client.metadata.get(CHANNEL)).metadata).toEqual(metadata);
    }
  });

  test('7 addUserId: the entry gets `authorUid`, if there is an actor', async () => {
    const client = await store.connect();
    const data = items({ a: '1' });
    const set = await client.metadata.set({
      ...CHANNEL,
      data,
      options: { addUserId: true },
      actorUserId: 'ada "q" \u{1f600}',
    });
    expect(set.metadata.a).toEqual({ value: '1', revision: 1, authorUid: 'ada "q" \u{1f600}' });
    const options = { addUserId: true };
    const nobody = await client.metadata.set({ ...CHANNEL, data, options });
    expect(nobody.metadata.a).toEqual({ value: '1', revision: 1 });
    const unasked = await client.metadata.set({ ...CHANNEL, data, actorUserId: 'ada' });
    expect(unasked.metadata.a).toEqual({ value: '1', revision: 1 });
  });

  test('7.2 `updated` and `authorUid` are kept unless the update sets them again', async () => {
    const client = await store.connect();
    const data = items({ a: '1' });
    const by = (actorUserId: string) => ({ ...CHANNEL, data, actorUserId });
    const first = await client.metadata.set({ ...by('ada'), options: stamped });
    const kept = await client.metadata.update(by('bob'));
    expect(kept.metadata.a).toEqual({ ...first.metadata.a, revision: 2 });
    await eventually(async () => (await client.metadata.get(CHANNEL)).timestamp > first.timestamp, {
      intervalMs: 1,
    });
    const anew = await client.metadata.update({ ...by('bob'), options: stamped });
    expect(anew.metadata.a).toEqual({
      value: '1',
      revision: 3,
      updated: new Date(anew.timestamp).toISOString(),
      authorUid: 'bob',
    });
    expect(anew.metadata.a?.updated).not.toBe(first.metadata.a?.updated);
  });

  test('7 text that looks like a timestamp, or like its placeholder, is stored unchanged', async () => {
    const client = await store.connect();
    const odd = {
      updated: '"updated":""',
      '\u0001': '\u0000\u0001\u0002',
      '2026-01-31T12:34:56.789Z': '{}',
    };
    const set = { ...CHANNEL, data: items(odd), options: stamped, actorUserId: '"updated":""' };
    for (const changed of [await client.metadata.set(set), await client.metadata.update(set)]) {
      for (const [key, value] of Object.entries(odd)) {
        expect(changed.metadata[key]).toMatchObject({
          value,
          updated: new Date(changed.timestamp).toISOString(),
          authorUid: '"updated":""',
        });
      }
    }
  });
});

onEveryMetadataStore('7.3 remove', (store) => {
  test('7.3 removes the named items', async () => {
    const client = await store.connect();
    await client.metadata.set({ ...CHANNEL, data: items({ a: '1', b: '2', c: '3' }) });
    const removed = await client.metadata.remove({
      ...CHANNEL,
      data: [{ key: 'c' }, { key: 'a' }, { key: 'a' }, { key: 'none' }],
    });
    expect(brief(removed)).toEqual({ major: 2, total: 1, items: { b: ['2', 1] } });
    expect(brief(await client.metadata.get(CHANNEL))).toEqual(brief(removed));
  });

  test('7.3 removes all items if none are given', async () => {
    const client = await store.connect();
    for (const rest of [{}, { data: [] }]) {
      const { majorRevision } = await client.metadata.set({ ...CHANNEL, data: items({ a: '1' }) });
      const removed = await client.metadata.remove({ ...CHANNEL, ...rest });
      expect(brief(removed)).toEqual({ major: majorRevision + 1, total: 0, items: {} });
    }
  });

  test('7.3 if no item exists, it returns the current record, without an event or a new revision', async () => {
    const client = await store.connect();
    const recorder = await recordMetadata(client);
    const none = [{ key: 'none' }];
    // Also for an unknown channel.
    for (const data of [none, undefined]) {
      const removed = await client.metadata.remove({ ...CHANNEL, ...(data && { data }) });
      expect(brief(removed)).toEqual({ major: 0, total: 0, items: {} });
    }
    const set = await client.metadata.set({ ...CHANNEL, data: items({ a: '1' }) });
    const options = { majorRevision: 1, addTimestamp: true };
    for (let i = 0; i < 3; i++) {
      const removed = await client.metadata.remove({ ...CHANNEL, data: none, options });
      expect(brief(removed)).toEqual(brief(set));
    }
    expect((await recorder.settled()).map(({ operation }) => operation)).toEqual(['set']);
  });

  test('7.3 an emptied record keeps its revision, so that no revision is used twice', async () => {
    const [client, other] = [await store.connect(), await store.connect()];
    await client.metadata.set({ ...CHANNEL, data: items({ a: '1' }) });
    await client.metadata.remove(CHANNEL);
    for (const each of [client, other]) {
      const { majorRevision } = await each.metadata.get(CHANNEL);
      expect(majorRevision).toBe(2);
    }
    const set = await other.metadata.set({ ...CHANNEL, data: items({ a: '1' }) });
    expect(brief(set)).toEqual({ major: 3, total: 1, items: { a: ['1', 1] } });
  });
});

onEveryMetadataStore('7.4 get', (store) => {
  test('7.4 never fails on an unknown channel', async () => {
    const client = await store.connect();
    for (let i = 0; i < 2; i++) {
      expect(await client.metadata.get(CHANNEL)).toStrictEqual({
        timestamp: expect.any(Number),
        ...CHANNEL,
        totalCount: 0,
        majorRevision: 0,
        metadata: {},
      });
    }
    if (store.name === 'redis') {
      const { server, db } = store.redis();
      const redis = await server.client(db);
      expect(await keysBesideNodes(redis)).toBe(0);
      redis.disconnect();
    }
  });

  test('7.4 returns the changes of other nodes', async () => {
    const [client, other] = [await store.connect(), await store.connect()];
    for (let i = 1; i <= 20; i++) {
      const writer = i % 2 ? client : other;
      await writer.metadata.set({ ...CHANNEL, data: items({ a: `${i}` }) });
      for (const each of [client, other]) {
        expect(brief(await each.metadata.get(CHANNEL))).toEqual({
          major: i,
          total: 1,
          items: { a: [`${i}`, 1] },
        });
      }
    }
  });
});
