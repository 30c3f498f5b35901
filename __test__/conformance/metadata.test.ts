// Spec 7.1 to 7.6, and the metadata side of 2.2, 3.5 and 13, on both stores. (Events:
// metadata-events.test.ts; locks, groups and many writers: ../metadata/.)
import type { MetadataItem, MetadataItemInput } from 'rollcall';
import { expect, test } from 'vitest';
import type { Untyped } from '../support/clients.js';
import { eventually } from '../support/wait.js';
import { brief, CHANNEL, items, recordMetadata } from './metadata.js';
import { awkwardValues } from './states.js';
import { failure, onEveryMetadataStore } from './stores.js';

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
    // The server's clock, which here is this machine's.
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

  test('7.1 without items the record is empty, and is not unknown', async () => {
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

  test('7.1 of several items with one key the last counts, where the first stood', async () => {
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

  test('7.2 each item must exist, or nothing is changed', async () => {
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

  test('7.2 an item with a revision must match, or nothing is changed', async () => {
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
      // 7.5: what the caller would have to read now.
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

  test('7.2 one item twice in one update is changed twice', async () => {
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
    expect((await recorder.settled())[0]?.items).toEqual([
      { key: 'a', value: '2', revision: 2 },
      { key: 'a', value: '3', revision: 3 },
    ]);
    // Refused at the second: the first is taken back too.
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

  test('7.2 `updated` and `authorUid` are kept unless asked anew', async () => {
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

  test('7 a text that looks like a time, or like a place for one, is left alone', async () => {
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

  test('7.3 removes all if none are named', async () => {
    const client = await store.connect();
    for (const rest of [{}, { data: [] }]) {
      const { majorRevision } = await client.metadata.set({ ...CHANNEL, data: items({ a: '1' }) });
      const removed = await client.metadata.remove({ ...CHANNEL, ...rest });
      expect(brief(removed)).toEqual({ major: majorRevision + 1, total: 0, items: {} });
    }
  });

  test('7.3 nothing to remove: the current record, no event, no new revision', async () => {
    const client = await store.connect();
    const recorder = await recordMetadata(client);
    const none = [{ key: 'none' }];
    // Of a channel that is unknown too.
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

  test('7.3 an emptied record keeps its revision, so that none ever comes twice', async () => {
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
      expect(await server.dbsize(db)).toBe(0);
    }
  });

  test('7.4 sees what others have changed', async () => {
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

onEveryMetadataStore('7.5 major revisions', (store) => {
  test('7.5 each change adds 1', async () => {
    const client = await store.connect();
    const change = [
      () => client.metadata.set({ ...CHANNEL, data: items({ a: '1', b: '2' }) }),
      () => client.metadata.update({ ...CHANNEL, data: items({ a: '3' }) }),
      () => client.metadata.remove({ ...CHANNEL, data: [{ key: 'a' }] }),
      () => client.metadata.set(CHANNEL),
    ];
    for (let i = 0; i < 12; i++) {
      expect((await change[i % 4]?.())?.majorRevision).toBe(i + 1);
    }
  });

  test('7.5 a wrong expected one is a conflict, and the error carries the record as it is', async () => {
    const [client, other] = [await store.connect(), await store.connect()];
    await client.metadata.set({ ...CHANNEL, data: items({ a: '1' }) });
    // What this node remembers is old.
    await other.metadata.update({ ...CHANNEL, data: items({ a: '2' }) });
    const recorder = await recordMetadata(client);
    const changes = [
      (options: { majorRevision: number }) =>
        client.metadata.set({ ...CHANNEL, data: items({ a: 'x' }), options }),
      (options: { majorRevision: number }) =>
        client.metadata.update({ ...CHANNEL, data: items({ a: 'x' }), options }),
      (options: { majorRevision: number }) => client.metadata.remove({ ...CHANNEL, options }),
      // Also where there would be nothing to do, or more than this is wrong.
      (options: { majorRevision: number }) =>
        client.metadata.remove({ ...CHANNEL, data: [{ key: 'none' }], options }),
      (options: { majorRevision: number }) =>
        client.metadata.update({ ...CHANNEL, data: [{ key: 'none' }], options }),
    ];
    for (const change of changes) {
      for (const majorRevision of [0, 1, 3]) {
        const error = await change({ majorRevision }).catch((caught) => caught);
        expect(error).toMatchObject({
          code: 'METADATA_CONFLICT',
          message: `Expected major revision ${majorRevision}, but got 2`,
        });
        expect(error.current).toStrictEqual({
          timestamp: expect.any(Number),
          ...CHANNEL,
          totalCount: 1,
          majorRevision: 2,
          metadata: { a: { value: '2', revision: 2 } },
        });
      }
    }
    expect(await recorder.settled()).toEqual([]);
    expect(brief(await client.metadata.get(CHANNEL)).items).toEqual({ a: ['2', 2] });
  });

  test('7.5 the right one, a negative one and none are none', async () => {
    const client = await store.connect();
    let major = 0;
    for (const majorRevision of [0, 1, -1, -7, undefined, 5]) {
      const options = majorRevision === undefined ? {} : { majorRevision };
      const set = await client.metadata.set({ ...CHANNEL, data: items({ a: '1' }), options });
      expect(set.majorRevision).toBe(++major);
    }
  });
});

onEveryMetadataStore('7.6 no lost update', (store) => {
  test('7.6 every acknowledged change is in the record, and none sees a conflict', async () => {
    const clients = await Promise.all([1, 2, 3, 4].map(() => store.connect()));
    const writers = clients.flatMap((client, c) =>
      [0, 1, 2].map((w) => ({ client, key: `${c}-${w}` })),
    );
    const data = writers.map(({ key }) => ({ key, value: '0' }));
    await clients[0]?.metadata.set({ ...CHANNEL, data });
    const recorder = await recordMetadata(clients[0] as Untyped);
    const COUNT = 40;
    await Promise.all(
      writers.map(async ({ client, key }) => {
        for (let i = 1; i <= COUNT; i++) {
          const { metadata } = await client.metadata.update({
            ...CHANNEL,
            data: items({ [key]: `${i}` }),
          });
          expect(metadata[key]).toEqual({ value: `${i}`, revision: i + 1 });
        }
      }),
    );
    const record = await (clients[1] as Untyped).metadata.get(CHANNEL);
    expect(record.majorRevision).toBe(1 + writers.length * COUNT);
    for (const item of Object.values<MetadataItem>(record.metadata)) {
      expect(item).toEqual({ value: `${COUNT}`, revision: COUNT + 1 });
    }
    expect((await recorder.settled()).map(({ majorRevision }) => majorRevision)).toEqual(
      Array.from({ length: writers.length * COUNT }, (_, i) => i + 2),
    );
  });

  test('7.6 with expected revisions, as many are acknowledged as the revision grew', async () => {
    const clients = await Promise.all([1, 2, 3, 4].map(() => store.connect()));
    await clients[0]?.metadata.set({ ...CHANNEL, data: items({ a: '0' }) });
    let acknowledged = 0;
    await Promise.all(
      clients.flatMap((client) =>
        Array.from({ length: 3 }, async () => {
          let { majorRevision } = await client.metadata.get(CHANNEL);
          for (let i = 0; i < 20; i++) {
            const options = { majorRevision };
            try {
              const set = await client.metadata.update({
                ...CHANNEL,
                data: items({ a: 'x' }),
                options,
              });
              expect(set.majorRevision).toBe(majorRevision + 1);
              majorRevision = set.majorRevision;
              acknowledged++;
            } catch (error) {
              expect(error).toEqual(failure('METADATA_CONFLICT'));
              const current = (error as Untyped).current.majorRevision;
              expect(current).toBeGreaterThan(majorRevision);
              majorRevision = current;
            }
          }
        }),
      ),
    );
    const { majorRevision } = await (clients[0] as Untyped).metadata.get(CHANNEL);
    expect(majorRevision).toBe(1 + acknowledged);
  });
});

onEveryMetadataStore('7.8 groups', (store) => {
  test('7.8 changes of one turn are carried out in order, each with its own revision, event and outcome', async () => {
    const client = await store.connect();
    await client.metadata.set({ ...CHANNEL, data: items({ a: '0', b: '0' }) });
    const recorder = await recordMetadata(client);
    const results = await Promise.allSettled([
      client.metadata.update({ ...CHANNEL, data: items({ a: '1' }) }),
      client.metadata.update({ ...CHANNEL, data: items({ none: '1' }) }),
      client.metadata.update({
        ...CHANNEL,
        data: items({ b: '2' }),
        options: { addTimestamp: true },
      }),
      client.metadata.update({
        ...CHANNEL,
        data: items({ b: '3' }),
        options: { majorRevision: 1 },
      }),
      client.metadata.update({ ...CHANNEL, data: [{ key: 'b' }], options: { majorRevision: 3 } }),
      client.metadata.remove({ ...CHANNEL, data: [{ key: 'a' }] }),
      client.metadata.update({ ...CHANNEL, data: items({ a: '4' }) }),
      client.metadata.remove({ ...CHANNEL, data: [{ key: 'a' }] }),
    ]);
    const outcomes = results.map((result) =>
      result.status === 'fulfilled' ? result.value.majorRevision : result.reason.message,
    );
    expect(outcomes).toEqual([
      2,
      'Metadata item "none" does not exist',
      3,
      'Expected major revision 1, but got 3',
      4,
      5,
      'Metadata item "a" does not exist',
      5,
    ]);
    // Each sees the record after its own change.
    expect((results[0] as Untyped).value.metadata.b).toEqual({ value: '0', revision: 1 });
    expect((results[2] as Untyped).value.metadata.b).toMatchObject({ value: '2', revision: 2 });
    const current = (results[3] as Untyped).reason.current;
    const updated = new Date(current.timestamp).toISOString();
    expect(current).toMatchObject({
      majorRevision: 3,
      metadata: { b: { value: '2', revision: 2 } },
    });
    expect((results[4] as Untyped).value.metadata.b.updated).toMatch(ISO);
    expect(updated).toMatch(ISO);
    const events = await recorder.settled();
    expect(events.map((event) => [event.operation, event.majorRevision])).toEqual([
      ['update', 2],
      ['update', 3],
      ['update', 4],
      ['remove', 5],
    ]);
  });

  test('7.8 one channel does not wait for another', async () => {
    const client = await store.connect();
    const channels = Array.from({ length: 50 }, (_, i) => ({ ...CHANNEL, channelName: `${i}` }));
    await Promise.all(
      Array.from({ length: 500 }, (_, i) =>
        client.metadata.set({ ...(channels[i % 50] ?? CHANNEL), data: items({ a: `${i}` }) }),
      ),
    );
    for (const [i, channel] of channels.entries()) {
      const record = brief(await client.metadata.get(channel));
      expect(record).toEqual({ major: 10, total: 1, items: { a: [`${450 + i}`, 1] } });
    }
  });
});

onEveryMetadataStore('3.5 keys and values', (store) => {
  test('3.5 every string round-trips, as value and as key', async () => {
    const [client, other] = [await store.connect(), await store.connect()];
    // RedisJSON refuses half a surrogate pair: ../metadata-json/.
    const holds = (text: string) =>
      store.defaults.metadataStorage !== 'json' || text.isWellFormed();
    const texts = awkwardValues.flatMap(([, value]) =>
      typeof value === 'string' && holds(value) ? [value] : [],
    );
    const keys = texts.filter((text) => text.isWellFormed());
    const data = [
      ...texts.map((value, i) => ({ key: `value-${i}`, value })),
      ...keys.map((key) => ({ key, value: key })),
    ];
    await client.metadata.set({ ...CHANNEL, data });
    await other.metadata.update({ ...CHANNEL, data });
    for (const each of [client, other]) {
      const { metadata, totalCount } = await each.metadata.get(CHANNEL);
      expect(totalCount).toBe(new Set(data.map(({ key }) => key)).size);
      for (const { key, value } of data) expect(metadata[key]?.value).toBe(value);
    }
    const removed = await client.metadata.remove({
      ...CHANNEL,
      data: keys.map((key) => ({ key })),
    });
    expect(removed.totalCount).toBe(texts.length);
  });

  test('3.5 keys named __proto__ and constructor are keys, and pollute nothing', async () => {
    const client = await store.connect();
    const recorder = await recordMetadata(client);
    const keys = ['__proto__', 'constructor', 'toString', 'hasOwnProperty', ''];
    const data = keys.map((key) => ({ key, value: `of ${key}` }));
    const options = { addTimestamp: true };
    for (const change of ['set', 'update'] as const) {
      await client.metadata[change]({ ...CHANNEL, data, options });
      const { metadata } = await client.metadata.get(CHANNEL);
      expect(Object.keys(metadata)).toEqual(keys);
      for (const key of keys) {
        expect(Object.getOwnPropertyDescriptor(metadata, key)?.value.value).toBe(`of ${key}`);
      }
      expect(Object.getPrototypeOf(metadata)).toBe(Object.prototype);
    }
    expect(({} as Untyped).value).toBeUndefined();
    const removed = await client.metadata.remove({ ...CHANNEL, data: [{ key: '__proto__' }] });
    expect(Object.keys(removed.metadata)).toEqual(keys.slice(1));
    expect((await recorder.settled()).at(-1)?.items).toEqual([
      { key: '__proto__', value: 'of __proto__', revision: 2 },
    ]);
  });

  test('3.5 the order of keys is that in which they came', async () => {
    const client = await store.connect();
    const keys = ['zebra', 'apple', 'ä', 'Mango'];
    await client.metadata.set({ ...CHANNEL, data: keys.map((key) => ({ key })) });
    const changed = await client.metadata.update({
      ...CHANNEL,
      data: [{ key: 'ä' }, { key: 'zebra' }],
    });
    expect(Object.keys(changed.metadata)).toEqual(keys);
  });
});

onEveryMetadataStore('2.2 channels', (store) => {
  test('2.2 whatever the names hold, two channels never share a record', async () => {
    const client = await store.connect();
    const names = [
      'a',
      'b:c',
      ':',
      '}',
      '}:meta',
      '{x}',
      'a b',
      'a\0b',
      '*',
      '?[a]',
      '\u{1f600}',
      'ä',
      '__proto__',
    ];
    const types = names.filter((name) => !name.includes(':'));
    const channels = types.flatMap((channelType) =>
      names.map((channelName) => ({ channelType, channelName })),
    );
    await Promise.all(
      channels.map((channel) =>
        client.metadata.set({ ...channel, data: items({ k: JSON.stringify(channel) }) }),
      ),
    );
    const other = await store.connect();
    for (const channel of channels) {
      expect(await other.metadata.get(channel)).toMatchObject({
        ...channel,
        majorRevision: 1,
        metadata: { k: { value: JSON.stringify(channel) } },
      });
    }
  });

  test('2.2 a colon in channelType is refused before anything is sent', async () => {
    const client = await store.connect();
    const channel = { channelType: 'a:b', channelName: 'c' };
    for (const call of [
      () => client.metadata.set(channel),
      () => client.metadata.update({ ...channel, data: items({ a: '1' }) }),
      () => client.metadata.remove(channel),
      () => client.metadata.get(channel),
      () => client.metadata.subscribe(() => {}, channel),
    ]) {
      await expect(call()).rejects.toEqual(failure('INVALID_ARGUMENT', 'channelType'));
    }
  });
});

onEveryMetadataStore('13 limits', (store) => {
  test('13 an item’s key and value, and the record, are limited in bytes', async () => {
    const limits = {
      maxMetadataKeyBytes: 10,
      maxMetadataValueBytes: 20,
      maxMetadataRecordBytes: 200,
    };
    const client = await store.connect({ limits });
    const refused = async (data: MetadataItemInput[], parts: string[]) => {
      for (const change of ['set', 'update'] as const) {
        const error = await client.metadata[change]({ ...CHANNEL, data }).catch((caught) => caught);
        expect(error).toMatchObject({ code: 'INVALID_ARGUMENT' });
        for (const part of parts) expect(error.message).toContain(part);
      }
    };
    const fits = { key: 'äääää', value: 'ä'.repeat(10) };
    await client.metadata.set({ ...CHANNEL, data: [fits] });
    await refused(
      [fits, { key: 'ääääää' }],
      ['data[1].key', '12 bytes', '10 bytes', 'limits.maxMetadataKeyBytes'],
    );
    await refused(
      [fits, { key: 'b', value: 'ä'.repeat(11) }],
      ['data[1].value', '22 bytes', '20 bytes', 'limits.maxMetadataValueBytes'],
    );
    const many = Array.from({ length: 9 }, (_, i) => ({ key: `${i}`, value: '' }));
    const error = await client.metadata.set({ ...CHANNEL, data: many }).catch((caught) => caught);
    // {"0":{"value":"","revision":1},…}
    const size = String(9 * 30 - 1 + 2);
    for (const part of ['record', `${size} bytes`, '200 bytes', 'limits.maxMetadataRecordBytes']) {
      expect(error.message).toContain(part);
    }
    expect(error.code).toBe('INVALID_ARGUMENT');
    // An update that makes the record too long is refused too, and changes nothing; the time that the
    // commit puts in counts.
    const six = many.slice(0, 6);
    await client.metadata.set({ ...CHANNEL, data: six });
    for (const change of [
      { data: six.map(({ key }) => ({ key, value: 'x'.repeat(10) })) },
      { data: [{ key: '1' }], options: { addTimestamp: true } },
    ]) {
      await expect(client.metadata.update({ ...CHANNEL, ...change })).rejects.toEqual(
        failure('INVALID_ARGUMENT', 'limits.maxMetadataRecordBytes'),
      );
    }
    expect(brief(await client.metadata.get(CHANNEL))).toMatchObject({ major: 2, total: 6 });
    // A node with other limits may have made it longer: then it may shrink.
    const other = await store.connect();
    await other.metadata.set({
      ...CHANNEL,
      data: many.map(({ key }) => ({ key, value: 'xxxxxxxxxx' })),
    });
    expect(
      (await client.metadata.update({ ...CHANNEL, data: [{ key: '3', value: '' }] })).majorRevision,
    ).toBe(4);
    await expect(
      client.metadata.update({ ...CHANNEL, data: [{ key: '3', value: 'longer' }] }),
    ).rejects.toEqual(failure('INVALID_ARGUMENT', 'limits.maxMetadataRecordBytes'));
    expect((await client.metadata.remove({ ...CHANNEL, data: [{ key: '3' }] })).majorRevision).toBe(
      5,
    );
  });

  test('13 by default: key 4 KiB, value 1 MiB, record 8 MiB', async () => {
    const client = await store.connect();
    const key = 'k'.repeat(4096);
    const value = 'v'.repeat(2 ** 20);
    await client.metadata.set({ ...CHANNEL, data: [{ key, value }] });
    const { metadata } = await client.metadata.update({
      ...CHANNEL,
      data: [{ key, value: `w${value.slice(1)}` }],
    });
    expect(metadata[key]?.value?.length).toBe(2 ** 20);
    for (const [data, field] of [
      [[{ key: `${key}k` }], 'data[0].key'],
      [[{ key: 'k', value: `${value}v` }], 'data[0].value'],
      [Array.from({ length: 9 }, (_, i) => ({ key: `${i}`, value: value.slice(100) })), '8388608'],
    ] as const) {
      await expect(client.metadata.set({ ...CHANNEL, data })).rejects.toEqual(
        failure('INVALID_ARGUMENT', field),
      );
    }
  });
});

onEveryMetadataStore('11.3 close', (store) => {
  test('11.3 settles every change, and refuses later ones', async () => {
    const client = await store.connect();
    const changes = Array.from({ length: 200 }, (_, i) =>
      client.metadata.set({ ...CHANNEL, data: items({ a: `${i}` }) }),
    );
    await client.close();
    const settled = await Promise.all(changes);
    expect(settled.map(({ majorRevision }) => majorRevision)).toEqual(settled.map((_, i) => i + 1));
    for (const call of [
      () => client.metadata.set(CHANNEL),
      () => client.metadata.get(CHANNEL),
      () => client.metadata.subscribe(() => {}),
    ]) {
      await expect(call()).rejects.toEqual(failure('CLOSED'));
    }
  });
});
