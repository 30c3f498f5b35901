// `for await (const event of client.events(…))` (spec 11.1).
import { describe, expect, test } from 'vitest';
import { openClient, rejection, type Untyped } from '../support/clients.js';
import { sharedDb } from '../support/redis.js';
import { eventually, within } from '../support/wait.js';

/** Two clients of one store: one iterates, the other makes changes. */
async function pair(store: 'redis' | 'memory') {
  const side = store === 'redis' ? await sharedDb() : undefined;
  const url = side?.url ?? `memory://events-${Math.random()}`;
  return { client: await openClient(url), other: await openClient(url), side };
}

const join = (client: Untyped, connId: string, roomId = 'r') =>
  client.join({ roomId, userId: 'u', connId, snapshot: false });

/** Starts an iteration: joins and leaves until the first event arrives. */
async function started(events: AsyncGenerator<Untyped>, other: Untyped, roomId = 'r') {
  const first = events.next();
  let received = false;
  first.then(() => {
    received = true;
  });
  for (let i = 0; !received; i++) {
    await join(other, `begin${i}`, roomId);
    await other.leave(`begin${i}`);
  }
  return async () => {
    // Skips the other events of the start.
    for (;;) {
      const { value, done } = await within(events.next(), 5000, 'the next event');
      if (done || !value.connId.startsWith('begin')) return value;
    }
  };
}

describe.each(['redis', 'memory'] as const)('11.1 on %s: events()', (store) => {
  test('one room, in order; break ends the subscription', async () => {
    const { client, other, side } = await pair(store);
    const received: string[] = [];
    const events = client.events({ roomId: 'r' });
    const next = await started(events, other);
    await join(other, 'elsewhere', 'other room');
    for (let i = 0; i < 50; i++) await join(other, `c${i}`);
    received.push((await next()).connId);
    for await (const event of events) {
      received.push(event.connId);
      if (received.length === 50) break;
    }
    expect(received).toEqual(Array.from({ length: 50 }, (_, i) => `c${i}`));
    expect(await events.next()).toEqual({ done: true, value: undefined });
    if (side) {
      const admin = await side.server.client();
      await eventually(async () =>
        expect(await admin.pubsub('CHANNELS', 'prs:{room:r}:events')).toEqual([]),
      );
    }
    await Promise.all(received.map((connId) => other.leave(connId)));
    await other.leave('elsewhere');
  });

  test('all rooms', async () => {
    const { client, other } = await pair(store);
    const next = await started(client.events(), other);
    await join(other, 'c', 'one');
    await other.leave('c');
    await join(other, 'c', 'two');
    expect([await next(), await next(), await next()]).toMatchObject([
      { type: 'join', roomId: 'one' },
      { type: 'leave', roomId: 'one', reason: 'left' },
      { type: 'join', roomId: 'two' },
    ]);
    await other.leave('c');
  });

  test('an abort signal ends it: while it waits, before it starts, in the loop', async () => {
    const { client, other } = await pair(store);
    const waiting = new AbortController();
    const events = client.events({ signal: waiting.signal });
    await started(events, other);
    const rest: Untyped[] = [];
    const loop = (async () => {
      for await (const event of events) rest.push(event);
    })();
    waiting.abort();
    await within(loop, 2000, 'the end of the loop');

    for await (const _ of client.events({ signal: AbortSignal.abort() })) throw new Error('no');

    const inLoop = new AbortController();
    const others = client.events({ signal: inLoop.signal });
    const next = await started(others, other);
    for (let i = 0; i < 3; i++) await join(other, `c${i}`);
    await next();
    inLoop.abort();
    expect(await others.next()).toMatchObject({ done: true });
    await Promise.all([0, 1, 2].map((i) => other.leave(`c${i}`)));
  });

  test('return() ends it even while next() waits', async () => {
    const { client, other } = await pair(store);
    const events = client.events({ roomId: 'quiet' });
    await started(events, other, 'quiet');
    // Events of the start come first.
    for (;;) {
      const next = events.next();
      const timer = new Promise((resolve) => setTimeout(resolve, 100, 'quiet'));
      if ((await Promise.race([next, timer])) !== 'quiet') continue;
      expect(await within(events.return(), 2000, 'return')).toEqual({
        done: true,
        value: undefined,
      });
      expect(await within(next, 100, 'next')).toEqual({ done: true, value: undefined });
      return;
    }
  });

  test('overflow: when more than maxBuffered events wait, it yields the kept ones and then fails with OVERLOADED', async () => {
    const { client, other } = await pair(store);
    const events = client.events({ roomId: 'r', maxBuffered: 5 });
    const counted = await client.subscribe(() => {});
    await started(events, other);
    const before = client.metrics().events;
    const conns = Array.from({ length: 40 }, (_, i) => `c${i}`);
    for (const connId of conns) await join(other, connId);
    // Each event is received twice: by the iteration and by the subscription to all rooms.
    await eventually(() => client.metrics().events >= before + 40);
    await counted();
    const error = await rejection(async () => {
      for await (const _ of events);
    });
    expect(error.code).toBe('OVERLOADED');
    expect(error.message).toContain('maxBuffered');
    expect(await events.next()).toMatchObject({ done: true });
    await Promise.all(conns.map((connId) => other.leave(connId)));
  });

  test('close() ends it', async () => {
    const { client, other } = await pair(store);
    const events = client.events();
    await started(events, other);
    const loop = (async () => {
      for await (const _ of events);
    })();
    await client.close();
    await within(loop, 2000, 'the end of the loop');
    expect((await rejection(() => client.events().next())).code).toBe('CLOSED');
  });

  test('an error in the loop ends the subscription and is thrown by the loop', async () => {
    const { client, other } = await pair(store);
    const events = client.events({ roomId: 'r' });
    await started(events, other);
    await join(other, 'c');
    const loop = (async () => {
      for await (const _ of events) throw new Error('mine');
    })();
    await expect(loop).rejects.toThrow('mine');
    expect(await events.next()).toMatchObject({ done: true });
    await other.leave('c');
  });
});
