// Invalid messages on Rollcall's channels. They are dropped and counted, and valid messages among
// them are received.
import fc from 'fast-check';
import { describe, expect, onTestFinished } from 'vitest';
import { announcedSeed } from '../support/random.js';
import { startRedis } from '../support/redis.js';
import { eventually } from '../support/wait.js';
import { isPresenceEvent } from './event-form.js';
import { count, proven } from './proven.js';
import { connect } from './world.js';

const EVENT = {
  type: 'join',
  roomId: 'r',
  userId: 'u',
  connId: 'c',
  state: { a: 1 },
  ts: 1_700_000_000_000,
  epoch: 1_700_000_000_000,
};
const METADATA = {
  channelName: 'n',
  channelType: 't',
  operation: 'set',
  items: [{ key: 'k', value: 'v', revision: 1 }],
  majorRevision: 1,
  timestamp: 1_700_000_000_000,
};

/** A text with some characters removed, duplicated or replaced. */
function damaged(text: string): fc.Arbitrary<string> {
  const edit = fc.tuple(
    fc.nat(text.length),
    fc.nat(3),
    fc.string({ maxLength: 3, unit: 'binary' }),
  );
  return fc
    .array(edit, { minLength: 1, maxLength: 4 })
    .map((edits) =>
      edits.reduce((now, [at, cut, put]) => now.slice(0, at) + put + now.slice(at + cut), text),
    );
}

/** An object with some values replaced or keys removed. */
function altered(event: object): fc.Arbitrary<string> {
  const key = fc.constantFrom(...Object.keys(event), '__proto__', 'extra');
  const value = fc.oneof(
    fc.jsonValue(),
    fc.constant(undefined),
    fc.double(),
    fc.bigInt().map(String),
  );
  return fc.array(fc.tuple(key, value), { minLength: 1, maxLength: 3 }).map((changes) => {
    const entries = new Map(Object.entries(event));
    for (const [name, to] of changes) entries.set(name, to);
    return `{${[...entries]
      .filter(([, to]) => to !== undefined)
      .map(([name, to]) => `${JSON.stringify(name)}:${JSON.stringify(to)}`)
      .join(',')}}`;
  });
}

const payload = fc.oneof(
  damaged(JSON.stringify(EVENT)).map((text) => Buffer.from(text)),
  altered(EVENT).map((text) => Buffer.from(text)),
  damaged(JSON.stringify(METADATA)).map((text) => Buffer.from(text)),
  altered(METADATA).map((text) => Buffer.from(text)),
  fc.json({ maxDepth: 5 }).map((text) => Buffer.from(text)),
  fc.uint8Array({ maxLength: 200 }).map((bytes) => Buffer.from(bytes)),
  fc.nat(20_000).map((depth) => Buffer.from(`${'['.repeat(depth)}${']'.repeat(depth)}`)),
  fc
    .nat(2_000)
    .map((depth) =>
      Buffer.from(
        JSON.stringify(EVENT).replace('{"a":1}', `${'{"a":'.repeat(depth)}1${'}'.repeat(depth)}`),
      ),
    ),
);

describe('6: forged messages', () => {
  const cases = count(3000, 100_000);
  proven(`${cases} of them`, { without: 'forged', timeoutMs: 300_000 }, async () => {
    await using server = await startRedis();
    const client = await connect({ url: server.url });
    const strange: string[] = [];
    const logger = (text: string) => void strange.push(text);
    const loud = await connect({ url: server.url, logger: { error: logger } });
    let received = 0;
    for (const of of [client, loud]) {
      await of.subscribe((event) => {
        received += 1;
        if (!isPresenceEvent(event, 'r')) strange.push(JSON.stringify(event));
      });
      await of.metadata.subscribe((event) => {
        received += 1;
        if (event.channelName !== 'n' || event.channelType !== 't' || !Array.isArray(event.items)) {
          strange.push(JSON.stringify(event));
        }
      });
      await of.locks.subscribe((event) => void strange.push(JSON.stringify(event)));
    }
    const redis = await server.client();
    onTestFinished(() => redis.disconnect());
    const channels = [
      'prs:{room:r}:events',
      'prs:{chan:t:n}:meta_events',
      'prs:{prs:lock:l}:lock_events',
    ];
    let published = 0;
    // Many at once: messages that arrive together are handed over together, and must not affect
    // each other.
    const sample = fc.sample(payload, { numRuns: cases, seed: announcedSeed() });
    for (let at = 0; at < sample.length; at += 100) {
      const pipeline = redis.pipeline();
      for (const [i, bytes] of sample.slice(at, at + 100).entries()) {
        pipeline.publish(channels[i % channels.length] ?? '', bytes);
      }
      for (const [, receivers] of (await pipeline.exec()) ?? []) published += Number(receivers);
      if ((at / 100) % 10 === 0) {
        const { epoch } = await client.join({ roomId: 'r', userId: 'u', connId: `own${at}` });
        expect(epoch).toBeGreaterThan(0);
        await client.leave(`own${at}`);
        published += 4;
      }
    }
    await eventually(() => {
      const dropped = [client, loud].map((of) => of.metrics().eventsMalformed);
      expect(received + dropped.reduce((sum, n) => sum + n, 0)).toBe(published);
    });
    expect(strange).toEqual([]);
    expect(({} as { a?: unknown }).a).toBeUndefined();
    console.log(`forged: ${published} messages, ${received} that any node could have sent`);
  });

  // Among the events from the core, a number announces the feed of the following events. Without
  // the defence, the second message throws an error that nothing catches.
  proven('numbers, and null after them', { without: 'forged' }, async () => {
    await using server = await startRedis();
    const client = await connect({ url: server.url });
    const received: string[] = [];
    await client.subscribe(({ connId }) => void received.push(connId));
    const redis = await server.client();
    const pipeline = redis.pipeline();
    for (let i = 0; i < 5; i++) {
      pipeline.publish('prs:{room:r}:events', '3');
      pipeline.publish('prs:{room:r}:events', 'null');
    }
    await pipeline.exec();
    await client.join({ roomId: 'r', userId: 'u', connId: 'own' });
    await eventually(() => expect(received).toEqual(['own']));
    expect(client.metrics().eventsMalformed).toBe(10);
    await client.leave('own');
  });

  proven('of 10 MB each', { without: 'forged' }, async () => {
    await using server = await startRedis();
    const client = await connect({ url: server.url });
    const received: string[] = [];
    await client.subscribe(({ connId }) => void received.push(connId));
    await client.metadata.subscribe(({ items }) => void received.push(items[0]?.key ?? ''));
    await client.locks.subscribe(({ name }) => void received.push(name));
    const redis = await server.client();
    const huge = (event: object) =>
      JSON.stringify(event).replace(
        /"a":1|"v"/,
        (found) => `${found.slice(0, -1)}${'1'.repeat(10 << 20)}${found.slice(-1)}`,
      );
    for (let i = 0; i < 10; i++) {
      await redis.publish('prs:{room:r}:events', huge(EVENT));
      await redis.publish('prs:{room:r}:events', '{'.repeat(10 << 20));
      await redis.publish(
        'prs:{prs:lock:l}:lock_events',
        `{"name":"l","type":"${'x'.repeat(10 << 20)}"}`,
      );
    }
    await client.join({ roomId: 'r', userId: 'u', connId: 'own' });
    await eventually(() => expect(received).toEqual(['own']));
    expect(client.metrics().eventsMalformed).toBe(30);
    await client.leave('own');
  });
});
