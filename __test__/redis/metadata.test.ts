// Channel metadata in Redis (spec section 2): exact keys, types and fields, legacy nodes that read
// and write the same records, and invalid data.
import type { Redis } from 'ioredis';
import { describe, expect, test } from 'vitest';
import { brief, CHANNEL, items, recordMetadata } from '../conformance/metadata.js';
import { failure, useIoredis, useStore } from '../conformance/stores.js';
import { ReferencePresenceService } from '../reference/service.js';
import type { Untyped } from '../support/clients.js';
import { eventually } from '../support/wait.js';

const KEY = 'prs:{chan:doc:one}:meta';

describe('metadata in Redis', () => {
  const store = useStore('redis');
  let redis: Redis;
  useIoredis(store, (client) => {
    redis = client;
  });

  const write = (itemsText: string, majorRevision: string | number = 3) =>
    redis.hset(KEY, { items: itemsText, totalCount: '1', majorRevision: String(majorRevision) });

  test('2 a record is one hash with items, totalCount and majorRevision, and no other key', async () => {
    const client = await store.connect();
    const set = await client.metadata.set({
      ...CHANNEL,
      data: [
        { key: 'a', value: '1' },
        { key: 'b', value: '2', revision: 7 },
      ],
      options: { addTimestamp: true, addUserId: true },
      actorUserId: 'ada',
    });
    const rest = { updated: new Date(set.timestamp).toISOString(), authorUid: 'ada' };
    expect(await redis.hgetall(KEY)).toEqual({
      items: JSON.stringify({
        a: { value: '1', revision: 1, ...rest },
        b: { value: '2', revision: 7, ...rest },
      }),
      totalCount: '2',
      majorRevision: '1',
    });
    expect(await redis.pttl(KEY)).toBe(-1);
    await client.metadata.update({ ...CHANNEL, data: items({ a: 'x' }) });
    await client.metadata.remove({ ...CHANNEL, data: [{ key: 'b' }] });
    expect(await redis.hgetall(KEY)).toEqual({
      items: JSON.stringify({ a: { value: 'x', revision: 2, ...rest } }),
      totalCount: '1',
      majorRevision: '3',
    });
    expect(await redis.keys('*')).toEqual([KEY]);
  });

  test('7.10 the key has the TTL of the last change, and a legacy node keeps it', async () => {
    const client = await store.connect({ metadataTtlMs: 50_000 });
    const about = async (ttlMs: number) => {
      const left = await redis.pttl(KEY);
      expect(left).toBeLessThanOrEqual(ttlMs);
      expect(left).toBeGreaterThan(ttlMs - 5_000);
    };
    await client.metadata.set({ ...CHANNEL, data: items({ a: '1' }) });
    await about(50_000);
    await redis.pexpire(KEY, 20_000);
    const ttlMs = 90_000;
    await client.metadata.update({ ...CHANNEL, data: items({ a: '2' }), options: { ttlMs } });
    await about(ttlMs);
    const old = new ReferencePresenceService(redis, {
      ttlMs: 60_000,
      reaperIntervalMs: 60_000,
      reaperLookbackMs: 60_000,
    });
    await old.setChannelMetadata({ ...CHANNEL, data: [{ key: 'a', value: '3' }] });
    await about(ttlMs);
    await client.metadata.remove(CHANNEL);
    await about(50_000);
    const other = await store.connect();
    await other.metadata.set(CHANNEL);
    expect(await redis.pttl(KEY)).toBe(-1);
  });

  test('2 an emptied record keeps its hash, for its revision; no other keys are left', async () => {
    const client = await store.connect();
    await client.metadata.set({ ...CHANNEL, data: items({ a: '1' }) });
    await client.metadata.remove(CHANNEL);
    expect(await redis.hgetall(KEY)).toEqual({ items: '{}', totalCount: '0', majorRevision: '2' });
    expect(await redis.keys('*')).toEqual([KEY]);
  });

  test('2 other fields of the hash stay', async () => {
    const client = await store.connect();
    await redis.hset(KEY, 'theirs', 'kept');
    await client.metadata.set({ ...CHANNEL, data: items({ a: '1' }) });
    expect(await redis.hget(KEY, 'theirs')).toBe('kept');
  });

  test('2.1 every key that the script uses is in its KEYS, and the time is that of Redis (3.1)', async () => {
    const client = await store.connect();
    await client.metadata.get(CHANNEL);
    const { server, db } = store.redis();
    const monitor = await (await server.client(db)).monitor();
    const seen: { args: string[]; source: string }[] = [];
    monitor.on('monitor', (_time: string, args: string[], source: string) => {
      seen.push({ args, source });
    });
    const options = { addTimestamp: true, lockName: 'x' };
    await redis.set('prs:lock:x', 'ada', 'PX', 60_000);
    const before = Date.now();
    await client.metadata.set({
      ...CHANNEL,
      data: items({ a: '1' }),
      options,
      actorUserId: 'ada',
      fencingToken: 5,
    });
    await redis.echo('end');
    await eventually(() => seen.some(({ args }) => args[1] === 'end'));
    monitor.disconnect();
    const [call] = seen.filter(({ args }) => /^eval/i.test(args[0] ?? ''));
    const keys = call?.args.slice(3, 3 + Number(call.args[2])) ?? [];
    expect(keys).toEqual([
      KEY,
      'prs:{chan:doc:one}:meta_events',
      'prs:lock:x',
      'prs:{prs:lock:x}:token',
    ]);
    const ran = seen.filter(({ source }) => source === 'lua').map(({ args }) => args);
    expect(ran.map(([name]) => name?.toLowerCase())).toEqual([
      'time',
      'get',
      'get',
      'hmget',
      'hset',
      'persist',
      'publish',
    ]);
    for (const [name, key] of ran) if (!/time/i.test(name ?? '')) expect(keys).toContain(key);
    // No node sends a time.
    for (const arg of call?.args.slice(3 + keys.length) ?? []) {
      for (const digits of arg.match(/\d{10,}/g) ?? []) {
        expect(Math.abs(Number(digits.slice(0, 13)) - before)).toBeGreaterThan(86_400_000);
      }
    }
    await redis.del('prs:lock:x');
  });

  test('7 `updated` equals JavaScript’s ISO form of the timestamp, on every kind of day', async () => {
    const { server, db } = store.redis();
    const client = await store.connect();
    const { timestamp, metadata } = await client.metadata.set({
      ...CHANNEL,
      data: items({ a: '' }),
      options: { addTimestamp: true },
    });
    expect(metadata.a?.updated).toBe(new Date(timestamp).toISOString());
    // The arithmetic of the script, over four centuries.
    const admin = await server.client(db);
    const days = Array.from({ length: 4_000 }, (_, i) => i * 36.53 * 86_400_000 + i * 7_654_321);
    const text = await import('node:fs/promises').then((fs) =>
      fs.readFile(new URL('../../lua/include/iso.lua', import.meta.url), 'utf8'),
    );
    const times = days.map((ms) => Math.floor(ms));
    const found = (await admin.eval(
      `${text}\nlocal out = {}\nfor i = 1, #ARGV do out[i] = iso_time(tonumber(ARGV[i])) end\nreturn out`,
      0,
      ...times,
    )) as string[];
    expect(found).toEqual(times.map((ms) => new Date(ms).toISOString()));
    expect(times.at(-1)).toBeGreaterThan(Date.UTC(2360, 1, 29));
    admin.disconnect();
  });

  describe('together with legacy nodes', () => {
    const reference = () =>
      new ReferencePresenceService(redis, {
        ttlMs: 60_000,
        reaperIntervalMs: 1_000,
        reaperLookbackMs: 120_000,
      });

    test('2 each reads the other’s record, and continues from it', async () => {
      const client = await store.connect();
      const node = reference();
      const options = { addTimestamp: true, addUserId: true };
      const change = { ...CHANNEL, options, actorUserId: 'ada' };
      const theirs = await node.setChannelMetadata({ ...change, data: items({ a: '1', b: '2' }) });
      expect(await client.metadata.get(CHANNEL)).toEqual({
        ...theirs,
        timestamp: expect.any(Number),
      });
      const ours = await client.metadata.update({ ...change, data: items({ a: 'x' }) });
      expect(ours.majorRevision).toBe(2);
      expect(await node.getChannelMetadata(CHANNEL)).toEqual({
        ...ours,
        timestamp: expect.any(Number),
      });
      await node.updateChannelMetadata({ ...CHANNEL, data: items({ b: 'y' }) });
      const removed = await client.metadata.remove({ ...CHANNEL, data: [{ key: 'a' }] });
      expect(brief(removed)).toEqual({ major: 4, total: 1, items: { b: ['y', 2] } });
      await node.removeChannelMetadata(CHANNEL);
      const set = await client.metadata.set({ ...CHANNEL, data: items({ c: '' }) });
      expect(brief(set)).toEqual({ major: 6, total: 1, items: { c: ['', 1] } });
    });

    test('4 each receives the other’s events, in the same form', async () => {
      const client = await store.connect();
      const node = reference();
      const received: Untyped[] = [];
      const stop = await node.subscribeMetadata((event) => received.push(event));
      const recorder = await recordMetadata(client);
      const change = { ...CHANNEL, data: items({ a: '1' }), actorUserId: 'ada' };
      await node.setChannelMetadata(change);
      await client.metadata.set(change);
      const [theirs, ours] = (await recorder.settled()) as Untyped[];
      expect(ours).toEqual({ ...theirs, majorRevision: 2, timestamp: expect.any(Number) });
      expect(Object.keys(ours)).toEqual(Object.keys(theirs));
      await eventually(() => expect(received.slice(0, 2)).toEqual([theirs, ours]));
      await stop();
    });

    test('2 the same revision with other items is detected: the whole text is compared', async () => {
      const client = await store.connect();
      await client.metadata.set({ ...CHANNEL, data: items({ a: '1', b: '1' }) });
      // A legacy node that had read revision 0 overwrites Rollcall's revision 1 with its own
      // revision 1.
      await write(JSON.stringify({ a: { value: 'theirs', revision: 1 } }), 1);
      const updated = await client.metadata.update({ ...CHANNEL, data: items({ a: 'ours' }) });
      expect(brief(updated)).toEqual({ major: 2, total: 1, items: { a: ['ours', 2] } });
    });

    test('7.2 items that they stored in other forms are returned unchanged, and kept', async () => {
      const client = await store.connect();
      const text =
        '{ "n": {"value": 1.0, "revision": 2, "extra": [1, {"deep": null}]}, "list": [1,2],\n' +
        ' "none": null, "10": {"revision": "seven", "value": true}, "\\u0061": {"value": "\\ud800"} }';
      await write(text, '3.0');
      const { metadata, totalCount, majorRevision } = await client.metadata.get(CHANNEL);
      expect([majorRevision, totalCount]).toEqual([3, 5]);
      expect(metadata).toEqual(JSON.parse(text));
      const recorder = await recordMetadata(client);
      await client.metadata.update({ ...CHANNEL, data: [{ key: 'n' }, { key: 'a' }] });
      expect(await redis.hget(KEY, 'items')).toBe(
        '{"n":{"value":1.0,"revision":3,"extra":[1, {"deep": null}]},"list":[1,2],' +
          '"none":null,"10":{"revision": "seven", "value": true},"\\u0061":{"value":"\\ud800","revision":1}}',
      );
      await client.metadata.update({ ...CHANNEL, data: [{ key: 'list' }, { key: '10' }] });
      await client.metadata.remove({ ...CHANNEL, data: [{ key: 'none' }, { key: 'n' }] });
      const after = await client.metadata.get(CHANNEL);
      expect(after.metadata).toEqual({
        list: { value: [1, 2], revision: 1 },
        10: { value: true, revision: 1 },
        a: { value: '\ud800', revision: 1 },
      });
      expect((await recorder.settled()).map((event) => event.items)).toEqual([
        [
          { key: 'n', value: 1, revision: 3 },
          { key: 'a', value: '\ud800', revision: 1 },
        ],
        [
          { key: 'list', value: [1, 2], revision: 1 },
          { key: '10', value: true, revision: 1 },
        ],
        [
          { key: 'none', value: null, revision: 0 },
          { key: 'n', value: 1, revision: 3 },
        ],
      ]);
    });

    test('2 missing fields count as empty: the hash may be incomplete', async () => {
      const client = await store.connect();
      await redis.hset(KEY, 'majorRevision', '5');
      expect(brief(await client.metadata.get(CHANNEL))).toEqual({ major: 5, total: 0, items: {} });
      expect((await client.metadata.set(CHANNEL)).majorRevision).toBe(6);
      await redis.hdel(KEY, 'majorRevision');
      await redis.hset(KEY, 'items', '{"a":{"value":"1","revision":4}}');
      const updated = await client.metadata.update({ ...CHANNEL, data: [{ key: 'a' }] });
      expect(brief(updated)).toEqual({ major: 1, total: 1, items: { a: ['1', 5] } });
    });
  });

  describe('12 CORRUPT_DATA', () => {
    test.each([
      ['no JSON', 'oops', 3],
      ['cut short', '{"a":{"value":"1"', 3],
      ['an array', '[]', 3],
      ['no whole number as revision', '{}', 'seven'],
    ])(
      '12 %s: the error names the channel, affects no other, and set replaces it',
      async (_, text, major) => {
        const client = await store.connect();
        const other = { ...CHANNEL, channelName: 'other' };
        await client.metadata.set({ ...other, data: items({ a: '1' }) });
        await write(text, major);
        const named = failure('CORRUPT_DATA', '"one" of type "doc"');
        const calls = [
          () => client.metadata.get(CHANNEL),
          () => client.metadata.update({ ...CHANNEL, data: items({ a: '2' }) }),
          () => client.metadata.remove(CHANNEL),
          () => client.metadata.set({ ...CHANNEL, options: { majorRevision: 77 } }),
        ];
        for (const call of calls) await expect(call()).rejects.toEqual(named);
        await client.metadata.update({ ...other, data: items({ a: '2' }) });
        // In one group with changes of other channels.
        const [refused, set, updated] = await Promise.allSettled([
          client.metadata.update({ ...CHANNEL, data: items({ a: '2' }) }),
          client.metadata.set({ ...CHANNEL, data: items({ a: '3' }) }),
          client.metadata.update({ ...CHANNEL, data: items({ a: '4' }) }),
        ]);
        expect(refused).toMatchObject({ reason: { code: 'CORRUPT_DATA' } });
        // The revision continues where it can be read.
        const revision = typeof major === 'number' ? major + 1 : 1;
        expect(set).toMatchObject({ value: { majorRevision: revision } });
        expect(updated).toMatchObject({ value: { majorRevision: revision + 1 } });
      },
    );

    test('12 a key of another type: the error names the channel', async () => {
      const client = await store.connect();
      await redis.set(KEY, 'text');
      const named = failure('CORRUPT_DATA', '"one" of type "doc"');
      await expect(client.metadata.get(CHANNEL)).rejects.toEqual(named);
      await expect(client.metadata.set(CHANNEL)).rejects.toEqual(named);
      expect(await redis.get(KEY)).toBe('text');
    });
  });

  describe('4.5 messages that are not events', () => {
    test('4.5 are dropped and counted', async () => {
      const client = await store.connect();
      const recorder = await recordMetadata(client);
      const ofOne: unknown[] = [];
      await client.metadata.subscribe((event) => void ofOne.push(event), CHANNEL);
      const good = {
        ...CHANNEL,
        operation: 'set',
        items: [{ key: 'k', value: 'v', revision: 1 }],
        majorRevision: 1,
        timestamp: 1,
      };
      const bad = [
        'oops',
        '{}',
        '[]',
        ...[
          { channelName: 'two' },
          { channelType: 'two' },
          { operation: 'shrug' },
          { items: {} },
          { items: [1] },
          { items: [{ value: 'v' }] },
          { majorRevision: '1' },
          { timestamp: null },
        ].map((wrong) => JSON.stringify({ ...good, ...wrong })),
      ];
      const publish = (text: string) => redis.publish('prs:{chan:doc:one}:meta_events', text);
      for (const text of bad) await publish(text);
      await publish(JSON.stringify({ ...good, more: 1 }));
      // Not in the layout of the channels: no type, or no name.
      await redis.publish('prs:{chan:doc}:meta_events', JSON.stringify(good));
      expect(await recorder.settled()).toEqual([{ ...good, more: 1 }]);
      expect(ofOne).toEqual([{ ...good, more: 1 }]);
      // Each arrived twice, once for each kind of subscription; the last one only by the pattern.
      expect(client.metrics().eventsMalformed).toBe(2 * bad.length + 1);
    });

    test('4.3 one channel is one SUBSCRIBE, all channels one PSUBSCRIBE', async () => {
      const client = await store.connect();
      const channels = async () => ((await redis.pubsub('CHANNELS')) as string[]).sort();
      const patterns = async () => (await redis.pubsub('NUMPAT')) as unknown as number;
      const stops = [
        await client.metadata.subscribe(() => {}, CHANNEL),
        await client.metadata.subscribe(() => {}, CHANNEL),
      ];
      expect([await channels(), await patterns()]).toEqual([['prs:{chan:doc:one}:meta_events'], 0]);
      const stopAll = await client.metadata.subscribe(() => {});
      expect(await patterns()).toBe(1);
      await stopAll();
      for (const stop of stops) await stop();
      await eventually(async () => expect([await channels(), await patterns()]).toEqual([[], 0]));
    });

    test('4.4 a gap emits resync, and later events are received', async () => {
      const client = await store.connect();
      let resyncs = 0;
      client.on('resync', () => void resyncs++);
      const recorder = await recordMetadata(client);
      const { server, db } = store.redis();
      const admin = await server.client(db);
      await admin.call('CLIENT', 'KILL', 'TYPE', 'pubsub');
      await eventually(() => resyncs === 1);
      await client.metadata.set(CHANNEL);
      expect((await recorder.settled()).length).toBe(1);
      admin.disconnect();
    });
  });
});
