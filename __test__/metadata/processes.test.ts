// Many writers on one channel from several server processes (spec 7.5, 7.6; issue 5, "It must show" 2).
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
  heard?: number[];
  failed?: string;
}

const CHANNEL = { channelType: 'doc', channelName: 'hot' };
const PROCESSES = ['a', 'b', 'c', 'd'];
const WRITERS = 4;

/** What all writers say, what a subscriber here and those in the processes heard, and the record. */
async function run(updates: number, expecting: boolean) {
  await using server = await startRedis();
  const client = await PresenceClient.connect({ url: server.url, logger: {} });
  const keys = PROCESSES.flatMap((name) =>
    Array.from({ length: WRITERS }, (_, i) => `${name}-${i}`),
  );
  const data = keys.map((key) => ({ key, value: '0' }));
  await client.metadata.set({ ...CHANNEL, data });
  const ownHeard: number[] = [];
  await client.metadata.subscribe(({ majorRevision }) => void ownHeard.push(majorRevision));
  const nodes: Fixture<Message>[] = PROCESSES.map((name) =>
    startFixture<Message>('metadata/fixtures/writer.mjs', {
      args: [server.url, name, `${WRITERS}`, `${updates}`, expecting ? 'expecting' : ''],
    }),
  );
  const said = async <Part extends keyof Message>(part: Part) => {
    const messages = await Promise.all(
      nodes.map((node) =>
        node.message((message) => part in message || 'failed' in message, 60_000),
      ),
    );
    expect(messages.flatMap(({ failed }) => failed ?? [])).toEqual([]);
    return messages.map((message) => message[part] as NonNullable<Message[Part]>);
  };
  try {
    await said('ready');
    for (const node of nodes) node.send('go');
    const written = (await said('written')).flat();
    const record = await client.metadata.get(CHANNEL);
    for (const node of nodes) node.send({ until: record.majorRevision });
    const heard = await said('heard');
    await eventually(() => ownHeard.at(-1) === record.majorRevision);
    for (const node of nodes) await within(node.exited, 10_000, 'the end');
    return { written, record, heard: [...heard, ownHeard] };
  } finally {
    await client.close();
    for (const node of nodes) await node.kill();
  }
}

test('issue 5, 2: 16 writers × 500 updates from 4 processes: 8000 acknowledged, none lost, every event in order', async () => {
  const { written, record, heard } = await run(500, false);
  const acknowledged = written.reduce((sum, writer) => sum + writer.acknowledged, 0);
  expect(acknowledged).toBe(8000);
  expect(record.majorRevision).toBe(1 + 8000);
  expect(record.totalCount).toBe(16);
  for (const { key, last } of written) {
    expect(last).toBe(`${key} 500`);
    expect(record.metadata[key]).toEqual({ value: last, revision: 501 });
  }
  const revisions = Array.from({ length: 8000 }, (_, i) => i + 2);
  expect(heard.length).toBe(5);
  for (const one of heard) expect(one).toEqual(revisions);
}, 90_000);

test('issue 5, 2: with expected revisions, as many are acknowledged as the revision grew; everybody else got the conflict', async () => {
  const { written, record, heard } = await run(250, true);
  const acknowledged = written.reduce((sum, writer) => sum + writer.acknowledged, 0);
  expect(record.majorRevision).toBe(1 + acknowledged);
  // Somebody always wins; not everybody can.
  expect(acknowledged).toBeGreaterThanOrEqual(250);
  expect(acknowledged).toBeLessThan(16 * 250);
  for (const { key, last, acknowledged: own } of written) {
    expect(record.metadata[key]).toEqual({ value: last, revision: 1 + own });
  }
  const revisions = Array.from({ length: acknowledged }, (_, i) => i + 2);
  for (const one of heard) expect(one).toEqual(revisions);
}, 90_000);
