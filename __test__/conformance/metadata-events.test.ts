// The metadata part of spec section 4: contents of events, their subscribers, and failing handlers.
import type { MetadataEvent } from 'rollcall';
import { expect, test } from 'vitest';
import type { Untyped } from '../support/clients.js';
import { eventually } from '../support/wait.js';
import { CHANNEL, items, recordMetadata } from './metadata.js';
import { failure, onEveryMetadataStore, record } from './stores.js';

onEveryMetadataStore('4 metadata events', (store) => {
  test('4 contain channel, operation, items, majorRevision, timestamp and the actor', async () => {
    const client = await store.connect();
    const recorder = await recordMetadata(client);
    const options = { addTimestamp: true, addUserId: true };
    const actorUserId = 'ada';
    const set = await client.metadata.set({
      ...CHANNEL,
      data: [{ key: 'a', value: '1' }, { key: 'b', revision: 5 }, { key: 'c' }],
      options,
      actorUserId,
    });
    const updated = await client.metadata.update({ ...CHANNEL, data: items({ b: '2' }) });
    const removed = await client.metadata.remove({
      ...CHANNEL,
      data: [{ key: 'b' }, { key: 'a' }],
      actorUserId,
    });
    expect(await recorder.settled()).toStrictEqual([
      {
        ...CHANNEL,
        operation: 'set',
        items: [
          { key: 'a', value: '1', revision: 1 },
          { key: 'b', value: '', revision: 5 },
          { key: 'c', value: '', revision: 1 },
        ],
        majorRevision: 1,
        timestamp: set.timestamp,
        authorUid: 'ada',
      },
      {
        ...CHANNEL,
        operation: 'update',
        items: [{ key: 'b', value: '2', revision: 6 }],
        majorRevision: 2,
        timestamp: updated.timestamp,
      },
      {
        ...CHANNEL,
        operation: 'remove',
        // The removed values, in the order of the request.
        items: [
          { key: 'b', value: '2', revision: 6 },
          { key: 'a', value: '1', revision: 1 },
        ],
        majorRevision: 3,
        timestamp: removed.timestamp,
        authorUid: 'ada',
      },
    ]);
  });

  test('4.3 events of all channels, or of one', async () => {
    const [client, other] = [await store.connect(), await store.connect()];
    const received: Record<string, MetadataEvent[]> = { all: [], one: [], two: [] };
    const listen = (name: string) => (event: MetadataEvent) => void received[name]?.push(event);
    const two = { ...CHANNEL, channelName: 'two:*' };
    await client.metadata.subscribe(listen('all'));
    const stop = await client.metadata.subscribe(listen('one'), CHANNEL);
    await client.metadata.subscribe(listen('two'), two);
    for (let i = 0; i < 10; i++) {
      await other.metadata.set(CHANNEL);
      await client.metadata.set(two);
      await other.metadata.set({ ...CHANNEL, channelType: 'other' });
    }
    const revisions = (name: string) => received[name]?.map(({ majorRevision }) => majorRevision);
    const upTo10 = Array.from({ length: 10 }, (_, i) => i + 1);
    await eventually(() => {
      expect(revisions('one')).toEqual(upTo10);
      expect(revisions('two')).toEqual(upTo10);
      expect(revisions('all')?.length).toBe(30);
    });
    expect(received.one?.every(({ channelName }) => channelName === 'one')).toBe(true);
    await stop();
    const recorder = await recordMetadata(client);
    await other.metadata.set(CHANNEL);
    await recorder.settled();
    expect(received.one?.length).toBe(10);
  });

  test('4.3 presence and metadata subscriptions do not get each other’s events', async () => {
    const client = await store.connect();
    const presence = await record(client);
    const metadata = await recordMetadata(client);
    await client.join({ roomId: 'one', userId: 'u', connId: 'c' });
    await client.metadata.set({ ...CHANNEL });
    expect((await presence.settled()).map((event) => event.type)).toEqual(['join']);
    expect((await metadata.settled()).map((event) => event.operation)).toEqual(['set']);
  });

  test('4.3 a channel needs both names', async () => {
    const client = await store.connect();
    const subscribe = (options: Untyped) => client.metadata.subscribe(() => {}, options);
    await expect(subscribe({ channelType: 't' })).rejects.toEqual(
      failure('INVALID_ARGUMENT', 'channelName'),
    );
    await expect(subscribe({ channelName: 'n' })).rejects.toEqual(
      failure('INVALID_ARGUMENT', 'channelType'),
    );
  });

  test('4.1 handlers that throw or reject are reported and do not affect other handlers', async () => {
    const lines: unknown[][] = [];
    const client = await store.connect({ logger: { error: (...line) => void lines.push(line) } });
    const [thrown, rejected] = [new Error('thrown'), new Error('rejected')];
    const other = () => {
      throw thrown;
    };
    await client.metadata.subscribe(other, CHANNEL);
    await client.metadata.subscribe(async () => {
      throw rejected;
    }, CHANNEL);
    const recorder = await recordMetadata(client);
    await client.metadata.set(CHANNEL);
    expect((await recorder.settled()).length).toBe(1);
    await eventually(() => {
      expect(lines).toEqual([
        ['Metadata event handler threw', thrown],
        ['Metadata event handler rejected', rejected],
      ]);
    });
  });

  test('4.6 a handler is not called once its unsubscribe has resolved', async () => {
    const [client, other] = [await store.connect(), await store.connect()];
    for (const channel of [CHANNEL, {}]) {
      let ended = false;
      let late = 0;
      let calls = 0;
      const stop = await client.metadata.subscribe(() => {
        calls++;
        if (ended) late++;
      }, channel);
      const stream = Promise.all(
        Array.from({ length: 200 }, () => other.metadata.set({ ...CHANNEL })),
      );
      await eventually(() => calls > 0, { intervalMs: 1 });
      await stop();
      ended = true;
      await stream;
      const recorder = await recordMetadata(client);
      await recorder.settled();
      await recorder.stop();
      expect(late).toBe(0);
    }
  });

  test('3.10 without a change there is no event', async () => {
    const client = await store.connect();
    const recorder = await recordMetadata(client);
    await Promise.allSettled([
      client.metadata.update({ ...CHANNEL, data: items({ a: '1' }) }),
      client.metadata.set({ ...CHANNEL, options: { majorRevision: 5 } }),
      client.metadata.set({ ...CHANNEL, options: { lockName: 'none' }, actorUserId: 'ada' }),
      client.metadata.remove(CHANNEL),
      client.metadata.get(CHANNEL),
    ]);
    expect(await recorder.settled()).toEqual([]);
  });
});
