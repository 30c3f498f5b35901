// Spec 7.9 and 7.10: records that an update creates, and records that expire.
import type { ChannelRef } from 'rollcall';
import { expect, test } from 'vitest';
import type { Untyped } from '../support/clients.js';
import { eventually } from '../support/wait.js';
import { brief, CHANNEL, items, recordMetadata } from './metadata.js';
import { type Client, failure, onEveryMetadataStore } from './stores.js';

const UNKNOWN = { major: 0, total: 0, items: {} };
/** Longer than any test. */
const LONG_MS = 600_000;

async function gone(client: Client, channel: ChannelRef = CHANNEL): Promise<void> {
  await eventually(async () => expect(brief(await client.metadata.get(channel))).toEqual(UNKNOWN), {
    intervalMs: 5,
  });
}

/** Resolves when a record that was written now, with this TTL, has expired. */
async function passed(client: Client, ttlMs: number): Promise<void> {
  const clock = { channelType: 'clock', channelName: 'of the tests' };
  await client.metadata.set({ ...clock, options: { ttlMs } });
  await gone(client, clock);
}

onEveryMetadataStore('7.9 update with upsert', (store) => {
  test('7.9 creates the record and its items with revision 1, as one change with one event', async () => {
    const client = await store.connect();
    const recorder = await recordMetadata(client);
    const done = await client.metadata.update({
      ...CHANNEL,
      data: [{ key: 'a', value: '1' }, { key: 'b' }],
      options: { upsert: true, addUserId: true },
      actorUserId: 'me',
    });
    expect(brief(done)).toEqual({ major: 1, total: 2, items: { a: ['1', 1], b: ['', 1] } });
    expect(done.metadata.a).toEqual({ value: '1', revision: 1, authorUid: 'me' });
    expect(brief(await client.metadata.get(CHANNEL))).toEqual(brief(done));
    expect(await recorder.settled()).toEqual([
      expect.objectContaining({
        operation: 'update',
        majorRevision: 1,
        items: [
          { key: 'a', value: '1', revision: 1 },
          { key: 'b', value: '', revision: 1 },
        ],
      }),
    ]);
    await recorder.stop();
  });

  test('7.9 changes existing items, creates missing ones, and keeps the rest', async () => {
    const client = await store.connect();
    await client.metadata.set({ ...CHANNEL, data: items({ a: '1', rest: 'x' }) });
    const upsert = { options: { upsert: true } };
    await client.metadata.update({ ...CHANNEL, data: items({ new: 'n', a: '2' }), ...upsert });
    const again = { ...CHANNEL, data: items({ new: 'm', '"\\': 'q' }), ...upsert };
    const expected = {
      major: 3,
      total: 4,
      items: { a: ['2', 2], rest: ['x', 1], new: ['m', 2], '"\\': ['q', 1] },
    };
    expect(brief(await client.metadata.update(again))).toEqual(expected);
    expect(brief(await client.metadata.get(CHANNEL))).toEqual(expected);
    const other = await store.connect();
    expect(brief(await other.metadata.get(CHANNEL))).toEqual(expected);
  });

  test('7.9 a missing item has revision 0 for the revision check', async () => {
    const client = await store.connect();
    const options = { upsert: true };
    const data = [{ key: 'a', value: '1', revision: 0 }];
    await client.metadata.update({ ...CHANNEL, data, options: { ...options, majorRevision: 0 } });
    // The item exists now.
    await expect(client.metadata.update({ ...CHANNEL, data, options })).rejects.toEqual(
      failure('METADATA_CONFLICT', 'Revision mismatch for key "a"'),
    );
    const unknown = [
      { key: 'a', value: '2' },
      { key: 'c', value: '', revision: 1 },
    ];
    await expect(client.metadata.update({ ...CHANNEL, data: unknown, options })).rejects.toEqual(
      failure('METADATA_CONFLICT', 'Revision mismatch for key "c"'),
    );
    const record = { major: 1, total: 1, items: { a: ['1', 1] } };
    expect(brief(await client.metadata.get(CHANNEL))).toEqual(record);
  });

  test('7.9 a refused update creates nothing', async () => {
    const client = await store.connect();
    await client.metadata.set({ ...CHANNEL, data: items({ a: '1' }) });
    const data = [
      { key: 'new', value: 'n' },
      { key: 'new', value: 'm' },
      { key: 'a', value: '2' },
      { key: 'a', revision: 1 },
    ];
    const refused = client.metadata.update({ ...CHANNEL, data, options: { upsert: true } });
    await expect(refused).rejects.toEqual(failure('METADATA_CONFLICT', '"a"'));
    const next = await client.metadata.update({ ...CHANNEL, data: items({ a: '3' }) });
    expect(brief(next)).toEqual({ major: 2, total: 1, items: { a: ['3', 2] } });
  });

  test('7.2 an item that occurs twice is changed twice and is in the event once', async () => {
    const client = await store.connect();
    const recorder = await recordMetadata(client);
    const data = [
      { key: 'a', value: '1' },
      { key: 'b', value: 'x' },
      { key: 'a', value: '2', revision: 1 },
    ];
    const done = await client.metadata.update({ ...CHANNEL, data, options: { upsert: true } });
    expect(brief(done)).toEqual({ major: 1, total: 2, items: { a: ['2', 2], b: ['x', 1] } });
    expect((await recorder.settled()).map((event) => event.items)).toEqual([
      [
        { key: 'a', value: '2', revision: 2 },
        { key: 'b', value: 'x', revision: 1 },
      ],
    ]);
    await recorder.stop();
  });

  test('7.9 many writers of one new record lose no update', async () => {
    const clients = [await store.connect(), await store.connect()];
    const options = { upsert: true };
    await Promise.all(
      Array.from({ length: 40 }, (_, i) =>
        (clients[i % 2] as Client).metadata.update({
          ...CHANNEL,
          data: items({ [`k${i}`]: 'v', all: `${i}` }),
          options,
        }),
      ),
    );
    const record = brief(await (clients[0] as Client).metadata.get(CHANNEL));
    expect(record).toMatchObject({ major: 40, total: 41 });
    expect(record.items.all).toEqual([expect.any(String), 40]);
  });

  test('7.9 upsert is a boolean option of update only', async () => {
    const client = (await store.connect()) as Untyped;
    for (const operation of ['set', 'remove']) {
      const call = client.metadata[operation]({ ...CHANNEL, options: { upsert: true } });
      await expect(call).rejects.toEqual(failure('INVALID_ARGUMENT', 'options.upsert'));
      await client.metadata[operation]({ ...CHANNEL, options: { upsert: false } });
    }
    for (const upsert of [1, 'true', null]) {
      const call = client.metadata.update({ ...CHANNEL, data: items({}), options: { upsert } });
      await expect(call).rejects.toEqual(failure('INVALID_ARGUMENT', 'options.upsert'));
    }
  });
});

onEveryMetadataStore('7.10 records that expire', (store) => {
  test('7.10 an expired record behaves like one that never existed', async () => {
    const client = await store.connect();
    await client.metadata.set({ ...CHANNEL, data: items({ a: '1' }) });
    const options = { ttlMs: 50 };
    await client.metadata.update({ ...CHANNEL, data: items({ a: '2' }), options });
    await gone(client);
    await expect(
      client.metadata.update({ ...CHANNEL, data: items({ a: '3' }) }),
    ).rejects.toMatchObject({
      code: 'METADATA_INVALID',
      message: 'Channel metadata does not exist',
    });
    const expecting = { ...CHANNEL, options: { majorRevision: 2 } };
    await expect(client.metadata.set(expecting)).rejects.toMatchObject({
      code: 'METADATA_CONFLICT',
      message: 'Expected major revision 2, but got 0',
      current: { totalCount: 0, majorRevision: 0 },
    });
    expect((await client.metadata.remove(CHANNEL)).majorRevision).toBe(0);
    const set = await client.metadata.set({ ...CHANNEL, data: items({ b: '4' }) });
    expect(brief(set)).toEqual({ major: 1, total: 1, items: { b: ['4', 1] } });
  });

  test('7.10 the last change sets the TTL: a longer one, a shorter one, or none', async () => {
    const client = await store.connect();
    const ttl: Record<string, [first: number | undefined, last: number | undefined]> = {
      longer: [600, LONG_MS],
      shorter: [LONG_MS, 60],
      none: [600, undefined],
      'first one': [undefined, 60],
    };
    for (const [channelName, [first, last]] of Object.entries(ttl)) {
      const channel = { channelType: 'doc', channelName };
      const options = (ttlMs: number | undefined) => (ttlMs === undefined ? {} : { ttlMs });
      await client.metadata.set({ ...channel, data: items({ a: '1' }), options: options(first) });
      const change = { ...channel, data: items({ a: '2' }), options: options(last) };
      await client.metadata.update(change);
    }
    await passed(client, 700);
    const found = await Promise.all(
      Object.keys(ttl).map(async (channelName) => {
        const { majorRevision } = await client.metadata.get({ channelType: 'doc', channelName });
        return [channelName, majorRevision];
      }),
    );
    expect(Object.fromEntries(found)).toEqual({ longer: 2, shorter: 0, none: 2, 'first one': 0 });
  });

  test('7.10 a call without a change keeps the TTL', async () => {
    const client = await store.connect();
    const options = { ttlMs: 60 };
    await client.metadata.set({ ...CHANNEL, data: items({ a: '1' }), options });
    const longer = { ttlMs: LONG_MS };
    await client.metadata.remove({ ...CHANNEL, data: [{ key: 'x' }], options: longer });
    const expecting = { ...longer, majorRevision: 7 };
    await client.metadata.set({ ...CHANNEL, options: expecting }).catch(() => {});
    await gone(client);
  });

  test('7.10 an emptied record expires, too', async () => {
    const client = await store.connect();
    await client.metadata.set({ ...CHANNEL, data: items({ a: '1' }) });
    const emptied = await client.metadata.remove({ ...CHANNEL, options: { ttlMs: 60 } });
    expect(emptied.majorRevision).toBe(2);
    await gone(client);
  });

  test('7.10 metadataTtlMs applies to every change without its own ttlMs', async () => {
    const client = await store.connect({ metadataTtlMs: 60 });
    const kept = { channelType: 'doc', channelName: 'kept' };
    await client.metadata.set({ ...kept, options: { ttlMs: LONG_MS } });
    await client.metadata.set({ ...CHANNEL, options: { ttlMs: LONG_MS } });
    await client.metadata.update({
      ...CHANNEL,
      data: items({ a: '1' }),
      options: { upsert: true },
    });
    await gone(client);
    expect((await client.metadata.get(kept)).majorRevision).toBe(1);
  });

  test('7.10 of changes in one batch the last one sets the TTL', async () => {
    const client = await store.connect();
    const change = (channelName: string, ttlMs: number) =>
      client.metadata.update({
        channelType: 'doc',
        channelName,
        data: items({ a: '1' }),
        options: { upsert: true, ttlMs },
      });
    await Promise.all([
      ...[500, LONG_MS, 500, LONG_MS].map((ttlMs) => change('stays', ttlMs)),
      ...[LONG_MS, 500, LONG_MS, 500].map((ttlMs) => change('goes', ttlMs)),
    ]);
    await gone(client, { channelType: 'doc', channelName: 'goes' });
    const stays = await client.metadata.get({ channelType: 'doc', channelName: 'stays' });
    expect(stays.majorRevision).toBe(4);
  });

  test('7.10 a node with a cached expired record uses the new record', async () => {
    const [first, second] = [await store.connect(), await store.connect()];
    const options = { ttlMs: 50 };
    await first.metadata.set({ ...CHANNEL, data: items({ a: '1' }), options });
    await gone(second);
    // With the same revision as the record that the first client has cached.
    await second.metadata.set({ ...CHANNEL, data: items({ b: '1' }) });
    await expect(
      first.metadata.update({ ...CHANNEL, data: items({ a: '2' }) }),
    ).rejects.toMatchObject({
      code: 'METADATA_INVALID',
      message: 'Metadata item "a" does not exist',
    });
    const done = await first.metadata.update({ ...CHANNEL, data: items({ b: '2' }) });
    expect(brief(done)).toEqual({ major: 2, total: 1, items: { b: ['2', 2] } });
  });

  test('7.10 a TTL is a whole number from 1', async () => {
    const client = (await store.connect()) as Untyped;
    for (const ttlMs of [0, -1, 1.5, Number.NaN, Infinity, 2 ** 53, '60', null, 5n]) {
      for (const operation of ['set', 'update', 'remove']) {
        const change = { ...CHANNEL, data: items({ a: '1' }), options: { ttlMs } };
        await expect(client.metadata[operation](change)).rejects.toEqual(
          failure('INVALID_ARGUMENT', 'options.ttlMs'),
        );
      }
      await expect(store.connect({ metadataTtlMs: ttlMs } as never)).rejects.toEqual(
        failure('INVALID_ARGUMENT', 'metadataTtlMs'),
      );
    }
    await client.metadata.set({ ...CHANNEL, options: { ttlMs: Number.MAX_SAFE_INTEGER } });
    expect((await client.metadata.get(CHANNEL)).majorRevision).toBe(1);
  });
});
