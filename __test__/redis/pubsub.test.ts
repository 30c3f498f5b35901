// Spec 4.3, 4.4 and 4.5 on Redis: what a node subscribes to, gaps, and messages that are no events.
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

  /** Cuts the connections on which clients are subscribed; says how many. */
  async function cut(): Promise<number> {
    return Number(await redis.call('CLIENT', 'KILL', 'TYPE', 'pubsub'));
  }

  test('4.3 with a room only that room’s channel is subscribed to', async () => {
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

  test('4.3 without a room it is one pattern, however many handlers there are', async () => {
    const client = await store.connect();
    const stops = [await client.subscribe(() => {}), await client.subscribe(() => {})];
    expect([await channels(), await patterns()]).toEqual([[], 1]);
    await stops[0]?.();
    expect(await patterns()).toBe(1);
    await stops[1]?.();
    await eventually(async () => expect(await patterns()).toBe(0));
  });

  test('4.3 events of other rooms do not reach a node that follows one', async () => {
    const [one, other] = [await store.connect(), await store.connect()];
    const recorder = await record(one, { roomId: 'r' });
    for (let i = 0; i < 100; i++) {
      await other.join({ roomId: `r${i}`, userId: 'u', connId: 'c', snapshot: false });
    }
    await other.join({ roomId: 'r', userId: 'u', connId: 'c', snapshot: false });
    expect((await recorder.settled()).map(brief)).toEqual(['join c r u']);
    // The marker of the test is a join and a leave.
    await eventually(() => expect(one.metrics().events).toBe(3));
  });

  describe('4.4 a gap', () => {
    async function counting(client: Client) {
      const told: unknown[] = [];
      client.on('resync', (event) => void told.push(event));
      return told;
    }

    test('4.4 is told to resync once, after the subscriptions are back', async () => {
      const client = await store.connect();
      const told = await counting(client);
      const second = await counting(client);
      const all = await record(client);
      const ofRoom = await record(client, { roomId: 'r' });
      for (let gap = 1; gap <= 3; gap++) {
        expect(await cut()).toBe(1);
        await eventually(() => expect(told.length).toBe(gap));
        // Who is told can rely on hearing all that comes from now on.
        const connId = `c${gap}`;
        await client.join({ roomId: 'r', userId: 'u', connId });
        expect((await all.settled()).at(-1)).toMatchObject({ type: 'join', connId });
        expect((await ofRoom.settled()).at(-1)).toMatchObject({ type: 'join', connId });
        expect(told.length).toBe(gap);
      }
      expect(told).toStrictEqual(Array(3).fill({ reason: 'reconnected' }));
      expect(second).toEqual(told);
      expect(client.metrics().resyncs).toBe(3);
      expect(await channels()).toEqual(['prs:{room:r}:events']);
      expect(await patterns()).toBe(1);
    });

    test('4.4 is not told where nothing is subscribed, or the command connection broke', async () => {
      const client = await store.connect();
      const told = await counting(client);
      const recorder = await record(client);
      await redis.call('CLIENT', 'KILL', 'TYPE', 'normal', 'SKIPME', 'yes');
      await eventually(async () => {
        await client.join({ roomId: 'r', userId: 'u', connId: 'c' });
      });
      await recorder.settled();
      expect(told).toEqual([]);
    });

    test('4.4 a handler that was removed is not told', async () => {
      const client = await store.connect();
      const told: unknown[] = [];
      const remove = client.on('resync', (event) => void told.push(event));
      const still = await counting(client);
      await record(client);
      remove();
      await cut();
      await eventually(() => still.length === 1);
      expect(told).toEqual([]);
    });
  });

  describe('4.5 what is no event of the channel’s room', () => {
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
      ['JSON that is cut off', JSON.stringify(event).slice(0, -1)],
      ['JSON and more', `${JSON.stringify(event)}{}`],
      ['bytes that are no UTF-8', Buffer.from([0x7b, 0xff, 0xfe, 0x7d])],
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

    test('4.5 is dropped and counted, for followers of all rooms and of one', async () => {
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
      // A good one of another node comes through, with what it holds beyond the known.
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
      const [heard] = await recorder.settled();
      expect(JSON.stringify(heard?.state)).toBe(state);
      expect(({} as { polluted?: unknown }).polluted).toBeUndefined();
    });
  });
});
