// Spec 11.1 and 11.2: data that clients of one store share, the types, and closing a client with
// presence.
import { type Logger, PresenceClient, type PresenceEvent } from 'rollcall';
import { describe, expect, expectTypeOf, test } from 'vitest';
import { brief, failure, ofNodes, onEveryStore, record, silent } from './stores.js';

onEveryStore('11 clients', (store) => {
  test('11 the types are generic over the state', async () => {
    interface Mine {
      mic: boolean;
      note?: string;
    }
    await using client = await PresenceClient.connect<Mine>({ url: store.url(), logger: silent });
    const { snapshot } = await client.join({
      roomId: 'r',
      userId: 'u',
      connId: 'c',
      state: { mic: true },
    });
    expectTypeOf(snapshot[0]?.state).toEqualTypeOf<Mine | null | undefined>();
    expectTypeOf(client.heartbeat)
      .parameter(0)
      .toHaveProperty('patchState')
      .toEqualTypeOf<
        { mic?: boolean | null | undefined; note?: string | null | undefined } | undefined
      >();
    expectTypeOf(client.subscribe).parameter(0).parameter(0).toEqualTypeOf<PresenceEvent<Mine>>();
    await client.heartbeat({ connId: 'c', patchState: { mic: false } });
    expect((await client.fetchRoomSnapshot('r'))[0]?.state?.mic).toBe(false);
    await client.leave('c');
  });

  test('11 connections outlive the client that joined them, unless it answers for them', async () => {
    const [one, two] = [await store.connect(), await store.connect()];
    await one.join({ roomId: 'r', userId: 'u', connId: 'c' });
    await one.close();
    expect((await two.fetchRoomSnapshot('r')).length).toBe(ofNodes ? 0 : 1);
    expect(await two.leave('c')).toEqual(ofNodes ? null : { roomId: 'r', userId: 'u' });
  });

  test('11.3 after close every call rejects with CLOSED, and no events are emitted', async () => {
    const [one, two] = [await store.connect(), await store.connect()];
    const recorder = await record(one);
    await one.close();
    await one.close();
    const place = { roomId: 'r', userId: 'u', connId: 'c' };
    for (const call of [
      () => one.join(place),
      () => one.heartbeat({ connId: place.connId }),
      () => one.heartbeatMany([{ connId: place.connId }]),
      () => one.leave('c'),
      () => one.fetchRoomSnapshot('r'),
      () => one.getUserPresence('u'),
      () => one.subscribe(() => {}),
      () => one.startReaper(),
      () => one.reapOnce(),
      () => one.events().next(),
    ]) {
      await expect(call()).rejects.toEqual(failure('CLOSED'));
    }
    const still = await record(two);
    await two.join(place);
    expect((await still.settled()).map(brief)).toEqual(['join c r u']);
    expect(recorder.events).toEqual([]);
    await recorder.stop();
  });

  test('11.3 calls before close are completed', async () => {
    const [one, two] = [await store.connect(), await store.connect()];
    await one.join({ roomId: 'r', userId: 'u', connId: 'c' });
    const heartbeats = Array.from({ length: 20 }, (_, n) =>
      one.heartbeat({ connId: 'c', patchState: { n } }),
    );
    const joining = one.join({ roomId: 'r', userId: 'u', connId: 'd' });
    await Promise.all([...heartbeats, joining, one.close()]);
    // A node that closes ends its connections.
    expect((await two.fetchRoomSnapshot('r')).length).toBe(ofNodes ? 0 : 2);
  });
});

describe('11.2 the in-process store', () => {
  const place = { roomId: 'r', userId: 'u', connId: 'c' };

  test('11.2 is shared by clients that open the same name, and by no others', async () => {
    await using one = await PresenceClient.connect({ url: 'memory://clients-a', logger: silent });
    await using two = await PresenceClient.connect({ url: 'memory://clients-a', logger: silent });
    await using other = await PresenceClient.connect({ url: 'memory://clients-b', logger: silent });
    await one.join(place);
    expect((await two.fetchRoomSnapshot('r')).length).toBe(1);
    expect(await other.fetchRoomSnapshot('r')).toEqual([]);
  });

  test('11.2 without a name, each client has its own store', async () => {
    for (const target of [undefined, { logger: silent }, { url: 'memory://', logger: silent }]) {
      await using one = await PresenceClient.connect(target ?? { logger: silent });
      await using two = await PresenceClient.connect(target ?? { logger: silent });
      await one.join(place);
      expect(await two.fetchRoomSnapshot('r')).toEqual([]);
    }
  });

  test('11.2 logs once that the data are not shared beyond the process', async () => {
    const lines: unknown[][] = [];
    const keep = (...args: unknown[]) => void lines.push(args);
    const logger: Logger = { debug: keep, info: keep, warn: keep, error: keep };
    await using client = await PresenceClient.connect({ url: 'memory://clients-log', logger });
    await client.join(place);
    await client.leave('c');
    expect(lines.length).toBe(1);
    // A client with an explicit URL gets no advice.
    expect(String(lines[0]?.[0])).toMatch(/nothing is shared beyond it$/);
  });

  test('11.2 without a URL, logs how to share the data', async () => {
    const lines: string[] = [];
    const logger: Logger = { info: (line: unknown) => void lines.push(String(line)) };
    await using _ = await PresenceClient.connect({ logger });
    expect(lines).toEqual([
      expect.stringMatching(/nothing is shared beyond it\. Give a Redis URL/),
    ]);
  });
});
