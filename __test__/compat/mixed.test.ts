// A mixed group of servers: reference nodes and Rollcall nodes on one Redis, all with running
// reapers. Uses real processes; the long form takes a minute. ROLLCALL_MIXED_SECONDS sets the
// duration.
import path from 'node:path';
import { pathToFileURL } from 'node:url';
import { expect, test } from 'vitest';
import { compileReference } from '../reference/compile.mjs';
import { type Fixture, startFixture } from '../support/process.js';
import { createRandom } from '../support/random.js';
import { type RedisServer, startRedis } from '../support/redis.js';
import { size } from '../support/size.js';
import { eventually } from '../support/wait.js';

const SECONDS = Number(process.env.ROLLCALL_MIXED_SECONDS ?? size(20, 60));
const CONNECTIONS = 300;
const TTL_MS = 4000;

type Kind = 'reference' | 'rollcall';

interface Made {
  type: string;
  roomId: string;
  connId: string;
  epoch: number;
  n?: number;
  reason?: string;
}

interface MetadataMade {
  channelName: string;
  operation: string;
  value?: string;
  majorRevision: number;
}

interface Living {
  connId: string;
  userId: string;
  roomId: string;
  epoch: number;
  state: object;
}

interface Report {
  made: Made[];
  received: Made[];
  metadataMade: MetadataMade[];
  metadataReceived: MetadataMade[];
  failures: string[];
  dead: string[];
  alive: Living[];
}

interface Message {
  ready?: true;
  number?: number;
  value?: unknown;
  error?: string;
}

/** A node process, and calls to it. */
class Node {
  readonly #process: Fixture<Message>;
  #calls = 0;

  constructor(
    readonly kind: Kind,
    readonly name: string,
    server: RedisServer,
    connections: number,
  ) {
    const reference = pathToFileURL(path.join(compileReference(), 'service.js')).href;
    const options = { kind, reference, url: server.url, name, connections, ttlMs: TTL_MS };
    const own = createRandom(name.charCodeAt(1)).int(0, 2 ** 31);
    this.#process = startFixture<Message>('compat/fixtures/mixed-node.mjs', {
      args: [JSON.stringify({ ...options, seed: own })],
    });
  }

  async ready(): Promise<this> {
    await this.#process.message(({ ready }) => ready === true);
    return this;
  }

  async request<T>(command: string, args?: unknown): Promise<T> {
    const number = this.#calls++;
    this.#process.send({ number, command, args } as never);
    const answer = await this.#process.message((message) => message.number === number, 20_000);
    if (answer.error !== undefined) throw new Error(`${this.name}: ${answer.error}`);
    return answer.value as T;
  }

  call<T>(method: string, ...args: unknown[]): Promise<T> {
    return this.request('call', [method, ...args]);
  }

  async kill(): Promise<void> {
    await this.#process.kill();
  }
}

/**
 * A `leave` is from Rollcall if it has a reason. The reason is not compared: on a busy machine, a
 * moving connection may expire.
 */
const line = ({ type, roomId, connId, epoch, n, reason }: Made) =>
  [type, roomId, connId, epoch, type === 'leave' ? reason !== undefined : n].join(' ');
const metadataLine = ({ channelName, operation, value, majorRevision }: MetadataMade) =>
  [channelName, operation, value, majorRevision].join(' ');

function counted(lines: string[]): Map<string, number> {
  const counts = new Map<string, number>();
  for (const one of lines) counts.set(one, (counts.get(one) ?? 0) + 1);
  return counts;
}

/** The lines that are not in `received` exactly once. */
function notOnce(expected: string[], received: Map<string, number>): string[] {
  return expected
    .filter((one) => received.get(one) !== 1)
    .map((one) => `${one}: ${received.get(one)} ×`);
}

/** Every id in the keys of rooms and users. */
async function idsInRedis(server: RedisServer): Promise<Set<string>> {
  const redis = await server.client();
  const ids = new Set<string>();
  for (const key of await redis.keys('prs:*')) {
    const parts = key.split(':');
    if (key.startsWith('prs:conn:')) ids.add(parts.slice(2).join(':'));
    else if (key.endsWith(':conns')) for (const id of await redis.smembers(key)) ids.add(id);
    else if (key.endsWith(':last_seen'))
      for (const id of await redis.zrange(key, '0', '-1')) ids.add(id);
    else if (key.endsWith(':conn_meta')) for (const id of await redis.hkeys(key)) ids.add(id);
  }
  redis.disconnect();
  return ids;
}

test(
  `10: reference and Rollcall nodes together, for ${SECONDS} s`,
  async () => {
    await using server = await startRedis();
    const kinds: Kind[] = ['reference', 'rollcall', 'reference', 'rollcall'];
    const nodes = kinds.map(
      (kind, i) => new Node(kind, `n${i}`, server, CONNECTIONS / kinds.length),
    );
    await Promise.all(nodes.map((node) => node.ready()));
    const of = (kind: Kind) => nodes.filter((node) => node.kind === kind);
    await Promise.all(nodes.map((node) => node.request('start')));
    await new Promise((resolve) => setTimeout(resolve, SECONDS * 1000));
    await Promise.all(nodes.map((node) => node.request('settle')));

    // Both implementations return the same snapshot of every room. It has exactly the living
    // connections, after the reapers have removed the dead ones and the stale entries that the
    // reference leaves in old rooms.
    await eventually(
      async () => {
        const living = (
          await Promise.all(nodes.map((node) => node.request<Living[]>('alive')))
        ).flat();
        const expected: Record<string, object[]> = {};
        for (let i = 0; i < 12; i++) expected[`room-${i}`] = [];
        for (const { roomId, ...entry } of living) {
          const { connId, userId, epoch, state } = entry;
          expected[roomId]?.push({ connId, userId, state, epoch });
        }
        const byId = (a: object, b: object) =>
          (a as Living).connId < (b as Living).connId ? -1 : 1;
        for (const entries of Object.values(expected)) entries.sort(byId);
        for (const node of nodes)
          expect(await node.request('snapshots'), node.name).toEqual(expected);
        // No key of a dead connection is left.
        const ids = new Set(living.map(({ connId }) => connId));
        expect([...(await idsInRedis(server))].filter((id) => !ids.has(id))).toEqual([]);
      },
      { timeoutMs: 30_000, intervalMs: 500 },
    );

    const reports = await Promise.all(nodes.map((node) => node.request<Report>('report')));
    expect(reports.flatMap(({ failures }) => failures)).toEqual([]);
    // The run had enough changes.
    const dead = new Set(reports.flatMap((report) => report.dead));
    expect(dead.size).toBeGreaterThan(CONNECTIONS / 2);

    // Every subscriber of either implementation received each event of Rollcall once.
    const mine = reports.filter((_, i) => nodes[i]?.kind === 'rollcall');
    const expected = mine.flatMap(({ made }) => made.map(line));
    const metadata = mine.flatMap(({ metadataMade }) => metadataMade.map(metadataLine));
    expect(expected.length).toBeGreaterThan(SECONDS * 20);
    expect(metadata.length).toBeGreaterThan(SECONDS);
    const timeouts: string[][] = [];
    for (const [i, { received, metadataReceived }] of reports.entries()) {
      const name = nodes[i]?.name;
      const counts = counted(received.map(line));
      expect(notOnce(expected, counts), name).toEqual([]);
      expect(notOnce(metadata, counted(metadataReceived.map(metadataLine))), name).toEqual([]);
      // The removals of Rollcall's reapers: emitted once, with the same content for all
      // subscribers.
      const removed = received.filter(({ reason }) => reason === 'timeout').map(line);
      expect(new Set(removed).size, name).toBe(removed.length);
      timeouts.push(removed.sort());
    }
    expect(timeouts[0]?.length).toBeGreaterThan(0);
    for (const removed of timeouts) expect(removed).toEqual(timeouts[0]);

    const records = await Promise.all(nodes.map((node) => node.request('records')));
    for (const record of records) expect(record).toEqual(records[0]);

    console.log(
      `mixed nodes: ${reports.flatMap(({ made }) => made).length} changes, ` +
        `${expected.length} of them by Rollcall, ${dead.size} connections gone ` +
        `(${timeouts[0]?.length} removals by Rollcall's reapers), ` +
        `${reports.flatMap(({ metadataMade }) => metadataMade).length} changes of metadata`,
    );

    await theOthersWork(server, of('reference'), of('rollcall'));
    await Promise.all(of('reference').map((node) => node.kill()));
    const fresh = [await new Node('reference', 'n7', server, 0).ready()];
    await theOthersWork(server, of('rollcall'), fresh);
  },
  SECONDS * 1000 + 150_000,
);

/**
 * Kills all nodes of one implementation; the others continue and remove the connections of the
 * killed ones.
 */
async function theOthersWork(server: RedisServer, killed: Node[], others: Node[]): Promise<void> {
  const gone = (await Promise.all(killed.map((node) => node.request<Living[]>('alive')))).flat();
  await Promise.all(killed.map((node) => node.kill()));
  const c = { roomId: 'room-0', userId: 'after', connId: `after-${killed[0]?.kind}` };
  for (const node of others) {
    const snapshot = await node.call<Living[]>('join', { ...c, state: { n: 1 } });
    expect(snapshot.map(({ connId }) => connId)).toContain(c.connId);
    expect(await node.call('heartbeat', { connId: c.connId, patchState: { n: 2 } })).toBe(true);
    expect(await node.call('leave', c.connId)).toEqual({ roomId: c.roomId, userId: c.userId });
    const channel = { channelType: 'doc', channelName: 'after' };
    await node.call('setChannelMetadata', { ...channel, data: [{ key: 'k', value: node.name }] });
    expect(await node.call('getChannelMetadata', channel)).toMatchObject({
      metadata: { k: { value: node.name } },
    });
  }
  const ids = new Set(gone.map(({ connId }) => connId));
  await eventually(
    async () => {
      expect([...(await idsInRedis(server))].filter((id) => ids.has(id))).toEqual([]);
    },
    { timeoutMs: 30_000, intervalMs: 200 },
  );
}
