// Spec 4.1, 4.3, 4.6, 3.10 and 11.1: subscriptions, failing handlers, async iteration. (Tests of
// operations check the contents of events; redis/pubsub.test.ts checks single rooms in Redis.)
import { expect, test } from 'vitest';
import { deferred, eventually, within } from '../support/wait.js';
import { type AnyEvent, brief, failure, onEveryStore, record } from './stores.js';

/** A logger that records its calls. */
function recordingLogger() {
  const errors: unknown[][] = [];
  return { errors, error: (...args: unknown[]) => void errors.push(args) };
}

onEveryStore('4.1 failing handlers', (store) => {
  test('4.1 a handler that throws is reported and does not affect other handlers', async () => {
    const logger = recordingLogger();
    const client = await store.connect({ logger });
    const before = await record(client);
    const thrown = new Error('thrown');
    await client.subscribe(() => {
      throw thrown;
    });
    const after = await record(client);
    const ofRoom = await record(client, { roomId: 'r' });
    await client.join({ roomId: 'r', userId: 'u', connId: 'c' });
    await client.leave('c');
    for (const recorder of [before, after, ofRoom]) {
      expect((await recorder.settled()).map(brief)).toEqual(['join c r u', 'leave c r u left']);
    }
    // Once for each event that it received, including markers.
    expect(logger.errors.length).toBeGreaterThanOrEqual(2);
    for (const line of logger.errors) {
      expect(line).toEqual(['Presence event handler threw', thrown]);
      expect(line[1]).toBe(thrown);
    }
  });

  test('4.1 a handler that rejects is reported and does not affect other handlers', async () => {
    const logger = recordingLogger();
    const client = await store.connect({ logger });
    const rejected = new Error('rejected');
    await client.subscribe(async () => {
      throw rejected;
    });
    // biome-ignore lint/suspicious/noThenProperty: a thenable that is not a Promise
    const thenable = { then: (_: unknown, reject: (error: Error) => void) => reject(rejected) };
    await client.subscribe(() => thenable as unknown as Promise<void>, { roomId: 'r' });
    const recorder = await record(client);
    await client.join({ roomId: 'r', userId: 'u', connId: 'c' });
    expect((await recorder.settled()).map(brief)).toEqual(['join c r u']);
    await eventually(() => logger.errors.length >= 2);
    for (const line of logger.errors) {
      expect(line).toEqual(['Presence event handler rejected', rejected]);
      expect(line[1]).toBe(rejected);
    }
  });

  test('4.1 a logger that throws, or lacks the method, has no effect', async () => {
    for (const logger of [
      {},
      {
        error: () => {
          throw new Error('the logger');
        },
      },
    ]) {
      const client = await store.connect({ logger });
      const stop = await client.subscribe(() => {
        throw new Error('the handler');
      });
      const recorder = await record(client);
      await client.join({ roomId: 'r', userId: 'u', connId: 'c' });
      expect((await recorder.settled()).map(brief)).toEqual(['join c r u']);
      await client.leave('c');
      await stop();
    }
  });
});

onEveryStore('4.3 subscribe', (store) => {
  test('4.3 a subscription without a room gets events of every room, in the order of application', async () => {
    const [client, other] = [await store.connect(), await store.connect()];
    const recorder = await record(client);
    const expected: string[] = [];
    for (let i = 0; i < 60; i++) {
      const joined = { roomId: `r${i % 5}`, userId: 'u', connId: `c${i}` };
      await (i % 2 ? client : other).join({ ...joined, snapshot: false });
      expected.push(`join c${i} r${i % 5} u`);
    }
    expect((await recorder.settled()).map(brief)).toEqual(expected);
  });

  test('4.3 a subscription with a room gets only events of that room', async () => {
    const [client, other] = [await store.connect(), await store.connect()];
    const [ofR1, ofR2, all] = [
      await record(client, { roomId: 'r1' }),
      await record(client, { roomId: 'r2' }),
      await record(client),
    ];
    await other.join({ roomId: 'r1', userId: 'u', connId: 'c' });
    await client.join({ roomId: 'r2', userId: 'u', connId: 'c' });
    await other.join({ roomId: 'r3', userId: 'u', connId: 'c' });
    expect((await ofR1.settled()).map(brief)).toEqual(['join c r1 u', 'leave c r1 u replaced']);
    expect((await ofR2.settled()).map(brief)).toEqual(['join c r2 u', 'leave c r2 u replaced']);
    expect((await all.settled()).length).toBe(5);
  });

  test('4.3 each subscription gets each event once, even with the same function', async () => {
    const client = await store.connect();
    const calls: AnyEvent[] = [];
    const handler = (event: AnyEvent) => void calls.push(event);
    const stops = [
      await client.subscribe(handler, { roomId: 'r' }),
      await client.subscribe(handler, { roomId: 'r' }),
      await client.subscribe(handler),
    ];
    const recorder = await record(client, { roomId: 'r' });
    await client.join({ roomId: 'r', userId: 'u', connId: 'c' });
    await recorder.settled();
    await eventually(() => calls.filter((event) => event.connId === 'c').length === 3);
    // Ending one subscription does not end the other.
    await stops[0]?.();
    await client.leave('c');
    await recorder.settled();
    await eventually(() => calls.filter((event) => event.type === 'leave').length >= 2);
    const leaves = calls.filter((event) => event.type === 'leave' && event.connId === 'c');
    expect(leaves.length).toBe(2);
  });

  test('4.3 a room can be subscribed to again after its last subscription ended', async () => {
    const client = await store.connect();
    for (let i = 0; i < 3; i++) {
      const recorder = await record(client, { roomId: 'r' });
      await client.join({ roomId: 'r', userId: 'u', connId: `c${i}` });
      expect((await recorder.settled()).map(brief)).toEqual([`join c${i} r u`]);
      await recorder.stop();
    }
  });

  test('4.3 after concurrent subscribe and unsubscribe calls, the last call wins', async () => {
    const client = await store.connect();
    const received: AnyEvent[] = [];
    const stops = await Promise.all(
      Array.from({ length: 20 }, () =>
        client.subscribe((event) => void received.push(event), { roomId: 'r' }),
      ),
    );
    const again = Promise.all(stops.slice(1).map((stop) => stop()));
    const recorder = await record(client, { roomId: 'r' });
    await again;
    await client.join({ roomId: 'r', userId: 'u', connId: 'c' });
    expect((await recorder.settled()).map(brief)).toEqual(['join c r u']);
    await stops[0]?.();
    expect(received.filter((event) => event.connId === 'c').length).toBe(1);
  });

  test('4.3 an invalid handler or room is refused', async () => {
    const client = await store.connect();
    const subscribe = client.subscribe.bind(client) as (...args: unknown[]) => Promise<unknown>;
    await expect(subscribe('handler')).rejects.toEqual(failure('INVALID_ARGUMENT', 'handler'));
    await expect(subscribe(() => {}, { roomId: 7 })).rejects.toEqual(
      failure('INVALID_ARGUMENT', 'roomId'),
    );
  });
});

onEveryStore('4.6 after unsubscribe', (store) => {
  test('4.6 a handler is not called once its unsubscribe has resolved', async () => {
    const [client, other] = [await store.connect(), await store.connect()];
    for (const options of [{}, { roomId: 'r' }]) {
      let ended = false;
      let calls = 0;
      let late = 0;
      const stop = await client.subscribe(() => {
        calls++;
        if (ended) late++;
      }, options);
      const watcher = await record(client);
      // The subscription ends during a stream of events.
      const stream = Promise.all(
        Array.from({ length: 300 }, (_, i) =>
          other.join({ roomId: 'r', userId: 'u', connId: `c${i}`, snapshot: false }),
        ),
      );
      await eventually(() => calls > 0, { intervalMs: 1 });
      await stop();
      ended = true;
      await stream;
      expect((await watcher.settled()).length).toBe(300);
      expect(late).toBe(0);
      await watcher.stop();
    }
  });

  test('4.6 unsubscribing twice, and from within a handler, is allowed', async () => {
    const client = await store.connect();
    let calls = 0;
    const done = deferred();
    const stop = await client.subscribe(async () => {
      calls++;
      await stop();
      done.resolve();
    });
    const recorder = await record(client);
    await client.join({ roomId: 'r', userId: 'u', connId: 'c' });
    await within(done.promise, 5_000, 'unsubscribing in the handler');
    await client.leave('c');
    await recorder.settled();
    expect(calls).toBe(1);
    await stop();
    expect(stop()).toBe(stop());
  });
});

onEveryStore('3.10 every change has its event', (store) => {
  test('3.10 the view built from events follows every acknowledged change', async () => {
    const [client, other] = [await store.connect(), await store.connect()];
    const recorder = await record(client);
    await other.join({ roomId: 'r', userId: 'u', connId: 'c', state: { n: 0 } });
    for (let n = 1; n <= 50; n++) await other.heartbeat({ connId: 'c', patchState: { n } });
    await other.leave('c');
    const events = await recorder.settled();
    expect(events.map((event) => event.state?.n)).toEqual([
      ...Array.from({ length: 51 }, (_, n) => n),
      undefined,
    ]);
    const times = events.map((event) => event.ts);
    expect(times).toEqual([...times].sort((a, b) => a - b));
  });

  test('3.10 a refused call has no event', async () => {
    const client = await store.connect();
    const recorder = await record(client);
    const { epoch } = await client.join({ roomId: 'r', userId: 'u', connId: 'c', state: { n: 0 } });
    const refused = [
      client.heartbeat({ connId: 'c', epoch: epoch - 1, patchState: { n: 1 } }),
      client.heartbeat({ connId: 'gone', patchState: { n: 1 } }),
      client.heartbeat({ connId: 'c', patchState: { n: 'x'.repeat(2 ** 20) } }),
      client.join({ roomId: '', userId: 'u', connId: 'c' }),
    ];
    for (const result of await Promise.allSettled(refused)) expect(result.status).toBe('rejected');
    await client.leave('gone');
    expect((await recorder.settled()).map(brief)).toEqual(['join c r u']);
  });
});

onEveryStore('11.1 events() as async iteration', (store) => {
  test('11.1 yields the events of a room until the loop ends', async () => {
    const client = await store.connect();
    const events = client.events({ roomId: 'r' });
    const got: string[] = [];
    const loop = (async () => {
      for await (const event of events) {
        got.push(brief(event));
        if (event.type === 'leave') break;
      }
    })();
    // The subscription starts with the loop: join and leave until the loop has seen the first
    // event.
    await eventually(async () => {
      await client.join({ roomId: 'r', userId: 'u', connId: 'c', snapshot: false });
      return got.length > 0;
    });
    await client.join({ roomId: 'other', userId: 'u', connId: 'd' });
    await client.leave('c');
    await within(loop, 5_000, 'the end of the loop');
    expect(new Set(got.slice(0, -1))).toEqual(new Set(['join c r u']));
    expect(got.at(-1)).toBe('leave c r u left');
  });

  test('11.1 ends with its signal, and with the client', async () => {
    const client = await store.connect();
    const aborter = new AbortController();
    const consume = async (options: { signal?: AbortSignal }) => {
      for await (const _ of client.events(options)) {
        // Only the end matters.
      }
    };
    const loops = [consume({ signal: aborter.signal }), consume({})];
    aborter.abort();
    await within(loops[0] as Promise<void>, 5_000, 'the end by signal');
    await client.close();
    // The loop ends, whether it is closed before or after it has subscribed.
    await within(
      (loops[1] as Promise<void>).catch((error) => expect(error).toEqual(failure('CLOSED'))),
      5_000,
      'the end by close',
    );
    await consume({ signal: AbortSignal.abort() });
  });

  test('11.1 fails when more events wait than its buffer can hold', async () => {
    const client = await store.connect();
    const events = client.events({ roomId: 'r', maxBuffered: 3 });
    let begun = false;
    const first = events.next().then(() => {
      begun = true;
    });
    await eventually(async () => {
      await client.join({ roomId: 'r', userId: 'u', connId: 'c', snapshot: false });
      return begun;
    });
    await first;
    const recorder = await record(client);
    for (let i = 0; i < 10; i++) {
      await client.join({ roomId: 'r', userId: 'u', connId: 'c', snapshot: false });
    }
    await recorder.settled();
    await expect(
      (async () => {
        for await (const _ of events) {
          // The loop takes no events while they arrive.
        }
      })(),
    ).rejects.toEqual(failure('OVERLOADED', 'maxBuffered'));
  });
});
