// Spec 7.5, 7.6 and 7.8, on all stores: revisions, and concurrent writers. (Many writers in several
// processes: ../metadata/processes.test.ts.)
import type { MetadataItem } from 'rollcall';
import { expect, test } from 'vitest';
import type { Untyped } from '../support/clients.js';
import { brief, CHANNEL, items, recordMetadata } from './metadata.js';
import { failure, onEveryMetadataStore } from './stores.js';

const ISO = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/;

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

  test('7.5 a wrong expected revision is a conflict, and the error carries the current record', async () => {
    const [client, other] = [await store.connect(), await store.connect()];
    await client.metadata.set({ ...CHANNEL, data: items({ a: '1' }) });
    // The record that this node has cached is old.
    await other.metadata.update({ ...CHANNEL, data: items({ a: '2' }) });
    const recorder = await recordMetadata(client);
    const changes = [
      (options: { majorRevision: number }) =>
        client.metadata.set({ ...CHANNEL, data: items({ a: 'x' }), options }),
      (options: { majorRevision: number }) =>
        client.metadata.update({ ...CHANNEL, data: items({ a: 'x' }), options }),
      (options: { majorRevision: number }) => client.metadata.remove({ ...CHANNEL, options }),
      // Also when there is nothing to change, or when the call has other errors.
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

  test('7.5 the right revision, a negative one and none are no conflict', async () => {
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
  test('7.6 every acknowledged change is in the record, and there is no conflict', async () => {
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

  test('7.6 with expected revisions, the revision grows by the number of acknowledged changes', async () => {
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
  test('7.8 changes of one turn are applied in order, each with its own revision, event and outcome', async () => {
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
    // Each result has the record after its own change.
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
