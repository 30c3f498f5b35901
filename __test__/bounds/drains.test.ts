// A drain of the core that does not arrive (what it carries cannot be read) costs no other call its answer,
// ends, and leaves nothing behind that nobody knows of.
import { PresenceClient } from 'rollcall';
import { describe, expect, onTestFinished, test, vi } from 'vitest';
import { keepLog, openClient, rejection, type Untyped } from '../support/clients.js';
import { startRedis } from '../support/redis.js';
import { eventually } from '../support/wait.js';

const parse = JSON.parse;

/** Has texts be unreadable for which `bad` says so, until the test has finished. Counts all that fail. */
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
  test('the message that cannot be read rejects its own call; all others have their answers', async () => {
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
    // And then as before.
    await lock.release();
    const before = broken.failed;
    expect((await client.metadata.get(channel('n1'))).channelName).toBe('n1');
    expect(broken.failed).toBe(before);
    expect(client.metrics()).toMatchObject({ pendingCalls: 0, answerBytes: 0, locksHeld: 0 });
  });

  test('as long as nothing can be read: calls reject, locks and subscriptions go back, and it ends', async () => {
    const server = await startRedis();
    const client = await openClient({ url: server.url });
    const other = await openClient({ url: server.url });
    const admin = await server.client();
    await client.join({ roomId: 'r', userId: 'u', connId: 'c' });
    const heard: unknown[] = [];
    const broken = breakTexts((text) => text.startsWith('[['));
    const calls = [
      () => client.locks.acquire('l', { ownerId: 'a', ttlMs: 60_000 }),
      () => client.subscribe((event) => void heard.push(event), { roomId: 'r' }),
      () => client.join({ roomId: 'r', userId: 'u', connId: 'c2' }),
      () => client.getEpoch('c'),
      () => client.fetchRoomSnapshot('r'),
    ];
    const errors = await Promise.all(calls.map(rejection));
    for (const error of errors) expect(error).toMatchObject(UNDELIVERED);
    // Heartbeats need no text.
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
    expect(heard).toEqual([]);
    expect(client.metrics()).toMatchObject({ pendingCalls: 0, locksHeld: 0, answerBytes: 0 });
    // A join that was not answered is its caller's: it may have been carried out.
    expect(await client.getEpoch('c2')).toBeGreaterThan(0);
    const unsubscribe = await client.subscribe((event) => void heard.push(event), { roomId: 'r' });
    await client.leave('c2');
    await eventually(() => expect(heard).toHaveLength(1));
    await unsubscribe();
  });

  test('a client whose opening cannot be told of is closed', async () => {
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

  test('events that cannot be read are a gap: resync, once, and the next ones come', async () => {
    const client = await openClient({});
    const [heard, gaps]: [string[], string[]] = [[], []];
    client.on('resync', ({ reason }) => void gaps.push(reason));
    const unsubscribe = await client.subscribe((event) => void heard.push(event.connId));
    const broken = breakTexts((text) => text.includes('"poison"'));
    await client.join({ roomId: 'r', userId: 'u', connId: 'poison', snapshot: false });
    await eventually(() => expect(gaps).toEqual(['overflow']));
    expect(broken.failed).toBeGreaterThan(0);
    await client.join({ roomId: 'r', userId: 'u', connId: 'fine', snapshot: false });
    await eventually(() => expect(heard).toEqual(['fine']));
    expect(gaps).toEqual(['overflow']);
    await unsubscribe();
  });
});
