// A process that is stopped past its TTL has lost its lock, and is notified before it can write. (A
// process with a busy JavaScript thread keeps its lock: conformance, 8.5.)
import { expect, onTestFinished, test } from 'vitest';
import { openClient } from '../support/clients.js';
import { startFixture, untilStopped } from '../support/process.js';
import { sharedDb } from '../support/redis.js';

const TTL_MS = 400;

interface Message {
  holding?: number;
  woke?: { pause: number; before: boolean; atWrite: boolean; outcome: string; reason: string };
}

async function startHolder(url: string) {
  const child = startFixture<Message>('locks/fixtures/stopped.mjs', {
    args: [JSON.stringify({ url, ttlMs: TTL_MS })],
  });
  onTestFinished(async () => {
    await child.kill();
  });
  const { holding = 0 } = await child.message((message) => message.holding !== undefined);
  return { child, token: holding };
}

// With the same owner's id, only the fencing token distinguishes the two grants.
test.each(['bob', 'ada'])(
  '8.5: SIGSTOP past the TTL: lost has fired when it continues, and its fenced write is refused; next holder: %s',
  async (ownerId) => {
    const { url } = await sharedDb();
    const client = await openClient(url);
    const { child, token } = await startHolder(url);
    process.kill(child.pid, 'SIGSTOP');
    await untilStopped(child.pid);
    const stopped = performance.now();
    const next = await client.locks.acquire('l', { ownerId, waitMs: 20_000 });
    expect(next.fencingToken).toBeGreaterThan(token);
    // The length of the pause shows the fixture that it was stopped.
    while (performance.now() < stopped + 2 * TTL_MS) await next.extend();
    process.kill(child.pid, 'SIGCONT');

    const { woke } = await child.message((message) => message.woke !== undefined);
    expect(woke).toMatchObject({ atWrite: true, outcome: 'METADATA_LOCK', reason: 'LOCK_LOST' });
    const { metadata } = await client.metadata.get({ channelType: 'doc', channelName: 'd' });
    expect(metadata.by?.value).toBe(String(token));
    expect(next.lost.aborted).toBe(false);
    await next.release();
    expect(await child.exited).toEqual({ code: 0, signal: null });
  },
);
