// The metadata part of spec 2.2, 3.5, 11.3 and 13, on all stores: valid names, keys and values, and
// changes during a close.
import type { MetadataEvent, MetadataItemInput } from 'rollcall';
import { expect, test } from 'vitest';
import type { Untyped } from '../support/clients.js';
import { eventually } from '../support/wait.js';
import { brief, CHANNEL, items, recordMetadata } from './metadata.js';
import { awkwardValues } from './states.js';
import { failure, onEveryMetadataStore } from './stores.js';

onEveryMetadataStore('3.5 keys and values', (store) => {
  test('3.5 every string is returned unchanged, as value and as key', async () => {
    const [client, other] = [await store.connect(), await store.connect()];
    // RedisJSON refuses lone surrogates: ../metadata-json/.
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

  test('3.5 keys named __proto__ and constructor are ordinary keys, and pollute no prototype', async () => {
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

  test('3.5 keys keep their order of insertion', async () => {
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
  test('2.2 two channels never share a record, for any names', async () => {
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

  test('2.2 a declared type may hold colons, and shares its key with no other channel', async () => {
    const client = await store.connect({ channelTypesWithColon: ['a:b', 'a:b:c', 'ü:'] });
    const channels = [
      { channelType: 'a:b', channelName: 'x' },
      { channelType: 'a:b', channelName: 'x:y' },
      { channelType: 'a:b:c', channelName: 'x' },
      { channelType: 'a', channelName: 'x:b' },
      { channelType: 'ü:', channelName: ':' },
    ];
    const received: string[] = [];
    // On a cluster, events of the previous test may still be in transit between the servers.
    const isOurs = ({ channelType, channelName }: MetadataEvent) =>
      channels.some((one) => one.channelType === channelType && one.channelName === channelName);
    const handlerFor = (of: string) => (event: MetadataEvent) => {
      if (isOurs(event)) received.push(`${of} ${event.channelType} ${event.channelName}`);
    };
    await client.metadata.subscribe(handlerFor('all'));
    for (const [i, channel] of channels.entries()) {
      await client.metadata.subscribe(handlerFor(`${i}`), channel);
      await client.metadata.set({ ...channel, data: items({ k: `${i}` }) });
    }
    for (const [i, channel] of channels.entries()) {
      const { metadata, majorRevision } = await client.metadata.get(channel);
      expect([metadata.k?.value, majorRevision]).toEqual([`${i}`, 1]);
    }
    const expected = channels.flatMap(({ channelType, channelName }, i) =>
      ['all', i].map((of) => `${of} ${channelType} ${channelName}`),
    );
    await eventually(() => expect(received.sort()).toEqual(expected.sort()));
    for (const channel of [
      { channelType: 'a', channelName: 'b:x' },
      { channelType: 'a:b', channelName: 'c:x' },
      { channelType: 'b:a', channelName: 'x' },
    ]) {
      for (const call of [client.metadata.set, client.metadata.get]) {
        const refused = call.call(client.metadata, channel);
        await expect(refused).rejects.toEqual(failure('INVALID_ARGUMENT', 'channel'));
      }
      const refused = client.metadata.subscribe(() => {}, channel);
      await expect(refused).rejects.toEqual(failure('INVALID_ARGUMENT', 'channel'));
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
    // An update that makes the record too long is refused, too, and changes nothing. The timestamp
    // that the commit adds counts.
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
    // A node with other limits may have made the record longer: it may shrink.
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
  test('11.3 close settles every change, and later changes are refused', async () => {
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
