// Many writers on one channel in several server processes (spec 7.5, 7.6).
import { PresenceClient } from 'rollcall';
import { expect, test } from 'vitest';
import { type Fixture, startFixture } from '../support/process.js';
import { startRedis } from '../support/redis.js';
import { eventually, within } from '../support/wait.js';

interface Written {
  key: string;
  acknowledged: number;
  last: string;
}

interface Message {
  ready?: true;
  written?: Written[];
  received?: number[];
  failed?: string;
}

const CHANNEL = { channelType: 'doc', channelName: 'hot' };
const PROCESSES = ['a', 'b', 'c', 'd'];
const WRITERS = 4;

/**
 * The reports of all writers, the events that this subscriber and those in the processes received,
 * and the record.
 */
async function run(updates: number, expecting: boolean) {
  await using server = await startRedis();
  const client = await PresenceClient.connect({ url: server.url, logger: {} });
  const keys = PROCESSES.flatMap((name) =>
    Array.from({ length: WRITERS }, (_, i) => `${name}-${i}`),
  );
  const data = keys.map((key) => ({ key, value: '0' }));
  await client.metadata.set({ ...CHANNEL, data });
  const ownReceived: number[] = [];
  await client.metadata.subscribe(({ majorRevision }) => void ownReceived.push(majorRevision));
  const nodes: Fixture<Message>[] = PROCESSES.map((name) =>
    startFixture<Message>('metadata/fixtures/writer.mjs', {
      args: [server.url, name, `${WRITERS}`, `${updates}`, expecting ? 'expecting' : ''],
    }),
  );
  const reports = async <Part extends keyof Message>(part: Part) => {
    const messages = await Promise.all(
      nodes.map((node) =>
        node.message((message) => part in message || 'failed' in message, 60_000),
      ),
    );
    expect(messages.flatMap(({ failed }) => failed ?? [])).toEqual([]);
    return messages.map((message) => message[part] as NonNullable<Message[Part]>);
  };
  try {
    await reports('ready');
    for (const node of nodes) node.send('go');
    const written = (await reports('written')).flat();
    const record = await client.metadata.get(CHANNEL);
    for (const node of nodes) node.send({ until: record.majorRevision });
    const received = await reports('received');
    await eventually(() => ownReceived.at(-1) === record.majorRevision);
    for (const node of nodes) await within(node.exited, 10_000, 'the end');
    return { written, record, received: [...received, ownReceived] };
  } finally {
    await client.close();
    for (const node of nodes) await node.kill();
  }
}

test('7.6: 16 writers × 500 updates from 4 processes: 8000 acknowledged, none lost, every event in order', async () => {
  const { written, record, received } = await run(500, false);
  const acknowledged = written.reduce((sum, writer) => sum + writer.acknowledged, 0);
  expect(acknowledged).toBe(8000);
  expect(record.majorRevision).toBe(1 + 8000);
  expect(record.totalCount).toBe(16);
  for (const { key, last } of written) {
    expect(last).toBe(`${key} 500`);
    expect(record.metadata[key]).toEqual({ value: last, revision: 501 });
  }
  const revisions = Array.from({ length: 8000 }, (_, i) => i + 2);
  expect(received.length).toBe(5);
  for (const one of received) expect(one).toEqual(revisions);
}, 90_000);

test('7.5: with expected revisions, the revision grows by the number of acknowledged changes; all others get a conflict', async () => {
  const { written, record, received } = await run(250, true);
  const acknowledged = written.reduce((sum, writer) => sum + writer.acknowledged, 0);
  expect(record.majorRevision).toBe(1 + acknowledged);
  // Some writer always succeeds; not all can.
  expect(acknowledged).toBeGreaterThanOrEqual(250);
  expect(acknowledged).toBeLessThan(16 * 250);
  for (const { key, last, acknowledged: own } of written) {
    expect(record.metadata[key]).toEqual({ value: last, revision: 1 + own });
  }
  const revisions = Array.from({ length: acknowledged }, (_, i) => i + 2);
  for (const one of received) expect(one).toEqual(revisions);
}, 90_000);
