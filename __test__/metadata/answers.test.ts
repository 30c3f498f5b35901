// Answers are bounded in bytes (spec 7.11): many calls that return one large record do not create
// one huge text, do not fill the memory and do not block the event loop.
import type { ChannelMetadata, PresenceClient, RollcallError } from 'rollcall';
import { describe, expect, test } from 'vitest';
import { openClient, type Untyped } from '../support/clients.js';
import { startRedis } from '../support/redis.js';

type Client = PresenceClient<Untyped>;

const CHANNEL = { channelType: 't', channelName: 'n' };
const CALLS = 1000;
const ITEMS = 9;
const ITEM_BYTES = 100_000;
/** A third of the size of all answers together. */
const MAX_GROWTH = (CALLS * ITEMS * ITEM_BYTES) / 3;
const MAX_BLOCKED_MS = 1000;

/** Measures the event loop and the memory until it is stopped. */
function watch(): { stop(): { blockedMs: number; grownBytes: number } } {
  const before = process.memoryUsage.rss();
  let [last, blockedMs, grownBytes] = [performance.now(), 0, 0];
  const sample = () => {
    const now = performance.now();
    blockedMs = Math.max(blockedMs, now - last);
    grownBytes = Math.max(grownBytes, process.memoryUsage.rss() - before);
    last = now;
  };
  const timer = setInterval(sample, 5);
  return {
    stop() {
      sample();
      clearInterval(timer);
      return { blockedMs, grownBytes };
    },
  };
}

async function open(url: string | undefined): Promise<Client> {
  const client = await openClient(url === undefined ? {} : { url });
  const data = Array.from({ length: ITEMS }, (_, i) => ({
    key: `k${i}`,
    value: 'x'.repeat(ITEM_BYTES),
  }));
  await client.metadata.set({ ...CHANNEL, data });
  await client.join({ roomId: 'r', userId: 'u', connId: 'c' });
  return client;
}

/** The result of a call in a few bytes: whole records would add to the measured memory. */
function summary(record: ChannelMetadata | undefined): string {
  const lengths = Object.values(record?.metadata ?? {}).map(({ value }) => value.length);
  return `${record?.majorRevision} ${lengths.length} ${new Set(lengths).size} ${lengths[0]}`;
}
const WHOLE = `1 ${ITEMS} 1 ${ITEM_BYTES}`;

const KINDS: Record<string, (client: Client) => Promise<string>> = {
  'refused updates': (client) =>
    client.metadata
      .update({ ...CHANNEL, data: [{ key: 'k0', value: 'y' }], options: { majorRevision: 77 } })
      .then(
        () => 'it was not refused',
        (error: RollcallError) =>
          error.code === 'METADATA_CONFLICT' ? summary(error.current) : error.code,
      ),
  'removals that change nothing': (client) =>
    client.metadata.remove({ ...CHANNEL, data: [{ key: 'missing' }] }).then(summary),
  reads: (client) => client.metadata.get(CHANNEL).then(summary),
};

describe.each(['redis', 'memory'])('7.11 answers on %s', (store) => {
  test.each(Object.keys(KINDS))(
    `7.11 ${CALLS} %s for a record of 900 KB: each has its own result, and memory and event loop stay bounded`,
    async (kind) => {
      const server = store === 'redis' ? await startRedis() : undefined;
      const client = await open(server?.url);
      const call = KINDS[kind] as (client: Client) => Promise<string>;
      expect(await call(client)).toBe(WHOLE);
      const watched = watch();
      let pending = CALLS;
      const calls = Array.from({ length: CALLS }, () =>
        call(client)
          .catch((error: RollcallError) => error.code)
          .finally(() => pending--),
      );
      let beside = 0;
      while (pending > 0) {
        await client.heartbeat({ connId: 'c' });
        await new Promise(setImmediate);
        beside++;
      }
      const results = new Set(await Promise.all(calls));
      const { blockedMs, grownBytes } = watched.stop();
      expect([...results]).toEqual([WHOLE]);
      expect(grownBytes).toBeLessThan(MAX_GROWTH);
      expect(blockedMs).toBeLessThan(MAX_BLOCKED_MS);
      // Heartbeats settle between the answers, and not only after all of them.
      expect(beside).toBeGreaterThan(10);
      expect(client.metrics()).toMatchObject({ overloaded: 0, answerBytes: 0, pendingCalls: 0 });
    },
  );
});
