// The core hands results to JavaScript in drains. When one result cannot be decoded, every other
// call still gets its answer, the drain ends, and no lock or subscription leaks.
import { PresenceClient } from 'rollcall';
import { describe, expect, onTestFinished, test, vi } from 'vitest';
import { keepLog, openClient, rejection, type Untyped } from '../support/clients.js';
import { startRedis } from '../support/redis.js';
import { eventually } from '../support/wait.js';

const parse = JSON.parse;

/**
 * Makes texts for which `bad` returns true undecodable until the test has finished. Counts the
 * failures.
 */
function breakTexts(bad: (text: string) => boolean): { failed: number; stop(): void } {
  const state = { failed: 0, stop: () => spy.mockRestore() };
  const spy = vi.spyOn(JSON, 'parse').mockImplementation((text: string, ...rest) => {
    if (typeof text === 'string' && bad(text)) {
      state.failed++;
      throw new SyntaxError('for a test');
    }
    return parse(text, ...rest);
  });
  onTestFinished(() => spy.mockRestore());
  return state;
}

const UNDELIVERED = { code: 'INTERNAL', outcome: 'unknown' };

describe('a drain that fails', () => {
  test('a message that cannot be decoded rejects only its own call', async () => {
    const log = keepLog();
    const client = await openClient({ logger: log });
    const channel = (channelName: string) => ({ channelType: 't', channelName });
    const names = Array.from({ length: 50 }, (_, i) => (i === 20 ? 'poison' : `n${i}`));
    for (const name of names) await client.metadata.set(channel(name));
    await client.join({ roomId: 'r', userId: 'u', connId: 'c' });
    const broken = breakTexts((text) => text.includes('"poison"'));
    const [results, lock, heartbeat] = await Promise.all([
      Promise.allSettled(names.map((name) => client.metadata.get(channel(name)))),
      client.locks.acquire('l', { ownerId: 'o' }),
      client.heartbeat({ connId: 'c' }),
    ]);
    expect(results[20]).toMatchObject({ status: 'rejected', reason: UNDELIVERED });
    const others = results.filter((_, i) => i !== 20).map((result) => (result as Untyped).value);
    expect(others.map(({ channelName }) => channelName)).toEqual(
      names.filter((name) => name !== 'poison'),
    );
    expect(heartbeat.changed).toBe(false);
    expect(lock.lost.aborted).toBe(false);
    expect(broken.failed).toBeGreaterThan(1);
    expect(log.lines.join('\n')).toContain('could not read what its core said');
    // Later calls work as before.
    await lock.release();
    const before = broken.failed;
    expect((await client.metadata.get(channel('n1'))).channelName).toBe('n1');
    expect(broken.failed).toBe(before);
    expect(client.metrics()).toMatchObject({ pendingCalls: 0, answerBytes: 0, locksHeld: 0 });
  });

  test('while no message can be decoded, calls reject, locks and subscriptions are released, and the drain ends', async () => {
    const server = await startRedis();
    const client = await openClient({ url: server.url });
    const other = await openClient({ url: server.url });
    const admin = await server.client();
    await client.join({ roomId: 'r', userId: 'u', connId: 'c' });
    const received: unknown[] = [];
    const broken = breakTexts((text) => text.startsWith('[['));
    const calls = [
      () => client.locks.acquire('l', { ownerId: 'a', ttlMs: 60_000 }),
      () => client.subscribe((event) => void received.push(event), { roomId: 'r' }),
      () => client.join({ roomId: 'r', userId: 'u', connId: 'c2' }),
      () => client.getEpoch('c'),
      () => client.fetchRoomSnapshot('r'),
    ];
    const errors = await Promise.all(calls.map(rejection));
    for (const error of errors) expect(error).toMatchObject(UNDELIVERED);
    // Heartbeats carry no text.
    expect((await client.heartbeat({ connId: 'c' })).changed).toBe(false);
    const { failed } = broken;
    await new Promise((resolve) => setTimeout(resolve, 200));
    expect(broken.failed - failed).toBeLessThan(20);
    broken.stop();
    const began = performance.now();
    const lock = await other.locks.acquire('l', { ownerId: 'b', waitMs: 10_000 });
    expect(performance.now() - began).toBeLessThan(10_000);
    await lock.release();
    await eventually(async () => {
      const [, subscribers] = (await admin.pubsub('NUMSUB', 'prs:{room:r}:events')) as unknown[];
      expect(subscribers).toBe(0);
    });
    expect(received).toEqual([]);
    expect(client.metrics()).toMatchObject({ pendingCalls: 0, locksHeld: 0, answerBytes: 0 });
    // The caller handles a join of unknown outcome: it may have been applied.
    expect(await client.getEpoch('c2')).toBeGreaterThan(0);
    const unsubscribe = await client.subscribe((event) => void received.push(event), {
      roomId: 'r',
    });
    await client.leave('c2');
    await eventually(() => expect(received).toHaveLength(1));
    await unsubscribe();
  });

  test('a client is closed when the result of opening it cannot be delivered', async () => {
    const server = await startRedis();
    const admin = await server.client();
    const connections = async () =>
      String(await admin.client('LIST'))
        .trim()
        .split('\n').length;
    const before = await connections();
    const broken = breakTexts((text) => text.startsWith('[['));
    const target = { url: server.url, logger: {} };
    const error = await rejection(() => PresenceClient.connect(target));
    expect(error).toMatchObject(UNDELIVERED);
    broken.stop();
    await eventually(async () => expect(await connections()).toBe(before));
  });

  test('events that cannot be decoded cause one resync, and later events arrive', async () => {
    const client = await openClient({});
    const [received, gaps]: [string[], string[]] = [[], []];
    client.on('resync', ({ reason }) => void gaps.push(reason));
    const unsubscribe = await client.subscribe((event) => void received.push(event.connId));
    const broken = breakTexts((text) => text.includes('"poison"'));
    await client.join({ roomId: 'r', userId: 'u', connId: 'poison', snapshot: false });
    await eventually(() => expect(gaps).toEqual(['overflow']));
    expect(broken.failed).toBeGreaterThan(0);
    await client.join({ roomId: 'r', userId: 'u', connId: 'fine', snapshot: false });
    await eventually(() => expect(received).toEqual(['fine']));
    expect(gaps).toEqual(['overflow']);
    await unsubscribe();
  });
});
