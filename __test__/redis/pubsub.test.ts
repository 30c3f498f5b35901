// Spec 4.3, 4.4 and 4.5 on Redis: the subscriptions of a node, gaps, and messages that are not
// events.
import type { Redis } from 'ioredis';
import { describe, expect, test } from 'vitest';
import { brief, type Client, record, useIoredis, useStore } from '../conformance/stores.js';
import { eventually } from '../support/wait.js';

describe('pub/sub', () => {
  const store = useStore('redis');
  let redis: Redis;
  useIoredis(store, (client) => {
    redis = client;
  });

  const channels = async () => ((await redis.pubsub('CHANNELS')) as string[]).sort();
  const patterns = async () => (await redis.pubsub('NUMPAT')) as unknown as number;

  /** Closes the connections of subscribers; returns their number. */
  async function cut(): Promise<number> {
    return Number(await redis.call('CLIENT', 'KILL', 'TYPE', 'pubsub'));
  }

  test('4.3 a subscription with a room subscribes only to that room’s channel', async () => {
    const client = await store.connect();
    expect([await channels(), await patterns()]).toEqual([[], 0]);
    const stops = [
      await client.subscribe(() => {}, { roomId: 'r1' }),
      await client.subscribe(() => {}, { roomId: 'r1' }),
      await client.subscribe(() => {}, { roomId: 'r2*' }),
    ];
    expect(await channels()).toEqual(['prs:{room:r1}:events', 'prs:{room:r2*}:events']);
    expect(await patterns()).toBe(0);
    await stops[0]?.();
    expect(await channels()).toEqual(['prs:{room:r1}:events', 'prs:{room:r2*}:events']);
    await stops[1]?.();
    await eventually(async () => expect(await channels()).toEqual(['prs:{room:r2*}:events']));
    await stops[2]?.();
    await eventually(async () => expect(await channels()).toEqual([]));
  });

  test('4.3 a subscription without a room is one pattern, for any number of handlers', async () => {
    const client = await store.connect();
    const stops = [await client.subscribe(() => {}), await client.subscribe(() => {})];
    expect([await channels(), await patterns()]).toEqual([[], 1]);
    await stops[0]?.();
    expect(await patterns()).toBe(1);
    await stops[1]?.();
    await eventually(async () => expect(await patterns()).toBe(0));
  });

  test('4.3 events of other rooms do not reach a node that subscribes to one', async () => {
    const [one, other] = [await store.connect(), await store.connect()];
    const recorder = await record(one, { roomId: 'r' });
    for (let i = 0; i < 100; i++) {
      await other.join({ roomId: `r${i}`, userId: 'u', connId: 'c', snapshot: false });
    }
    await other.join({ roomId: 'r', userId: 'u', connId: 'c', snapshot: false });
    expect((await recorder.settled()).map(brief)).toEqual(['join c r u']);
    // The marker of the test is one join and one leave.
    await eventually(() => expect(one.metrics().events).toBe(3));
  });

  describe('4.4 a gap', () => {
    async function counting(client: Client) {
      const resyncs: unknown[] = [];
      client.on('resync', (event) => void resyncs.push(event));
      return resyncs;
    }

    test('4.4 emits resync once, after the subscriptions are restored', async () => {
      const client = await store.connect();
      const resyncs = await counting(client);
      const second = await counting(client);
      const all = await record(client);
      const ofRoom = await record(client, { roomId: 'r' });
      for (let gap = 1; gap <= 3; gap++) {
        expect(await cut()).toBe(1);
        await eventually(() => expect(resyncs.length).toBe(gap));
        // After `resync`, all further events are received.
        const connId = `c${gap}`;
        await client.join({ roomId: 'r', userId: 'u', connId });
        expect((await all.settled()).at(-1)).toMatchObject({ type: 'join', connId });
        expect((await ofRoom.settled()).at(-1)).toMatchObject({ type: 'join', connId });
        expect(resyncs.length).toBe(gap);
      }
      expect(resyncs).toStrictEqual(Array(3).fill({ reason: 'reconnected' }));
      expect(second).toEqual(resyncs);
      expect(client.metrics().resyncs).toBe(3);
      expect(await channels()).toEqual(['prs:{room:r}:events']);
      expect(await patterns()).toBe(1);
    });

    test('4.4 emits nothing without a subscription, or when only the command connection broke', async () => {
      const client = await store.connect();
      const resyncs = await counting(client);
      const recorder = await record(client);
      await redis.call('CLIENT', 'KILL', 'TYPE', 'normal', 'SKIPME', 'yes');
      await eventually(async () => {
        await client.join({ roomId: 'r', userId: 'u', connId: 'c' });
      });
      await recorder.settled();
      expect(resyncs).toEqual([]);
    });

    test('4.4 does not call a removed handler', async () => {
      const client = await store.connect();
      const resyncs: unknown[] = [];
      const remove = client.on('resync', (event) => void resyncs.push(event));
      const still = await counting(client);
      await record(client);
      remove();
      await cut();
      await eventually(() => still.length === 1);
      expect(resyncs).toEqual([]);
    });
  });

  describe('4.5 a message that is not an event of the channel’s room', () => {
    const event = {
      type: 'join',
      roomId: 'r',
      userId: 'u',
      connId: 'c',
      state: {},
      ts: 1_700_000_000_000,
      epoch: 1_700_000_000_000,
    };
    const bad: [string, string | Buffer][] = [
      ['nothing', ''],
      ['text', 'hello'],
      ['a number', '7'],
      ['null', 'null'],
      ['an array', JSON.stringify([event])],
      ['truncated JSON', JSON.stringify(event).slice(0, -1)],
      ['JSON with trailing text', `${JSON.stringify(event)}{}`],
      ['bytes that are not UTF-8', Buffer.from([0x7b, 0xff, 0xfe, 0x7d])],
      ['another room', JSON.stringify({ ...event, roomId: 'r2' })],
      ['no room', JSON.stringify({ ...event, roomId: undefined })],
      ['a room that is a number', JSON.stringify({ ...event, roomId: 7 })],
      ['an unknown type', JSON.stringify({ ...event, type: 'shrug' })],
      ['no type', JSON.stringify({ ...event, type: undefined })],
      ['no connId', JSON.stringify({ ...event, connId: undefined })],
      ['an empty userId', JSON.stringify({ ...event, userId: '' })],
      ['an epoch that is text', JSON.stringify({ ...event, epoch: '7' })],
      ['no ts', JSON.stringify({ ...event, ts: undefined })],
      ['a state that is an array', JSON.stringify({ ...event, state: [] })],
      ['a leave with a state', JSON.stringify({ ...event, type: 'leave' })],
    ];

    test('4.5 is dropped and counted, for subscribers of all rooms and of one', async () => {
      const [all, one] = [await store.connect(), await store.connect()];
      const recorders = [await record(all), await record(one, { roomId: 'r' })];
      for (const [i, [what, payload]] of bad.entries()) {
        await redis.publish('prs:{room:r}:events', payload);
        await eventually(() => {
          for (const client of [all, one]) {
            expect(client.metrics().eventsMalformed, what).toBe(i + 1);
          }
        });
      }
      // A valid event of another node is received, with unknown fields.
      const more = { ...event, extra: [1] };
      await redis.publish('prs:{room:r}:events', JSON.stringify(more));
      for (const recorder of recorders) {
        expect(await recorder.settled()).toStrictEqual([more]);
      }
    });

    test('4.5 an event with a key __proto__ pollutes nothing', async () => {
      const client = await store.connect();
      const recorder = await record(client);
      const state = '{"__proto__":{"polluted":true},"constructor":{"prototype":{"polluted":true}}}';
      const payload = JSON.stringify({ ...event, state: 0 }).replace(
        '"state":0',
        `"state":${state}`,
      );
      await redis.publish('prs:{room:r}:events', payload);
      const [received] = await recorder.settled();
      expect(JSON.stringify(received?.state)).toBe(state);
      expect(({} as { polluted?: unknown }).polluted).toBeUndefined();
    });
  });
});
