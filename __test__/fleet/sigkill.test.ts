// Several real server processes, one of which is killed (spec 4.2, 6.1), on each layout and on a
// cluster.
import type { Redis } from 'ioredis';
import type { PresenceLeaveEvent } from 'rollcall';
import { expect, test } from 'vitest';
import { type Fixture, startFixture } from '../support/process.js';
import { eventually, slowness, within } from '../support/wait.js';
import { PLACES } from './places.js';

interface Message {
  joined?: number;
  leave?: PresenceLeaveEvent;
  resync?: true;
  failed?: string;
}

const CONNECTIONS = 200;
const ROOMS = 10;
const TTL_MS = 2000;
/** The sweep interval is 1 s; the rest is tolerance for a busy machine. */
const LATEST_MS = TTL_MS + 1500;

test.each(PLACES)(
  '6.1: one of three servers is killed: the others receive 200 leaves, in time, once [$title]',
  {
    timeout: 40_000,
  },
  async ({ layout, open }) => {
    await using place = await open();
    const { url, admins } = place;
    const start = (name: string) =>
      startFixture<Message>('fleet/fixtures/node.mjs', {
        args: [url, name, String(CONNECTIONS), String(TTL_MS), layout],
      });
    await using a = start('a');
    await using b = start('b');
    await using c = start('c');
    await Promise.all(
      [a, b, c].map((node) => node.message(({ joined }) => joined === CONNECTIONS)),
    );

    await c.kill();
    // Nothing refreshes them any more: Redis has the last heartbeat of each.
    const lastSeen = new Map<string, number>();
    const lastSeenOfRooms = await everyKey(admins, 'prs:{room:*}:last_seen', (admin, key) =>
      admin.zrange(key, '0', '-1', 'WITHSCORES'),
    );
    expect(lastSeenOfRooms).toHaveLength(ROOMS);
    for (const entries of lastSeenOfRooms) {
      for (let at = 0; at < entries.length; at += 2) {
        const connId = entries[at] ?? '';
        if (connId.startsWith('c-')) lastSeen.set(connId, Number(entries[at + 1]));
      }
    }
    expect(lastSeen.size).toBe(CONNECTIONS);

    const leaves = (node: Fixture<Message>) => node.messages.flatMap(({ leave }) => leave ?? []);
    await eventually(
      () => {
        for (const node of [a, b]) expect(leaves(node).length).toBeGreaterThanOrEqual(CONNECTIONS);
      },
      { timeoutMs: LATEST_MS + 5000 },
    );
    for (const node of [a, b]) {
      const seen = leaves(node);
      expect(new Set(seen.map(({ connId }) => connId))).toEqual(new Set(lastSeen.keys()));
      for (const { connId, reason, state, ts } of seen) {
        expect([reason, state], connId).toEqual(['timeout', null]);
        const after = ts - (lastSeen.get(connId) ?? 0);
        expect(after, connId).toBeGreaterThanOrEqual(TTL_MS);
        expect(after, connId).toBeLessThanOrEqual(LATEST_MS * slowness());
      }
    }
    // Both received the same events, room by room in the same order.
    const inRoom = (node: Fixture<Message>, room: number) =>
      leaves(node).filter(({ roomId }) => roomId === `room-${room}`);
    for (let room = 0; room < ROOMS; room++) expect(inRoom(a, room)).toEqual(inRoom(b, room));

    // No key contains connections of the dead server.
    await eventually(async () => {
      const found = await everyKey(admins, '*', async (admin, key) => [
        key,
        ...(await membersOf(admin, key)),
      ]);
      expect(found.flat().filter((name) => /(^|:)c-/.test(name))).toEqual([]);
    });
    const hashes = layout === 'v1' ? 'prs:conn:*' : 'prs:{room:*}:conn:*';
    const connections = await everyKey(admins, hashes, async (_, key) => key);
    expect(connections).toHaveLength(2 * CONNECTIONS);

    // No second `leave` arrived during the checks, and live connections stayed.
    a.send('end');
    b.send('end');
    for (const node of [a, b]) {
      expect(await within(node.exited, 10_000, 'the end'), node.stderr).toEqual({
        code: 0,
        signal: null,
      });
      const timedOut = leaves(node).filter(({ reason }) => reason === 'timeout');
      expect(timedOut).toHaveLength(CONNECTIONS);
      expect(node.messages.filter(({ failed, resync }) => failed || resync)).toEqual([]);
    }
    await eventually(async () => {
      expect(await everyKey(admins, '*', async (_, key) => key)).toEqual([]);
    });
  },
);

/** The results of `look` for each matching key, on every server. */
async function everyKey<T>(
  admins: Redis[],
  pattern: string,
  read: (admin: Redis, key: string) => Promise<T>,
): Promise<T[]> {
  const found = admins.map(async (admin) => {
    const keys = await admin.keys(pattern);
    return Promise.all(keys.map((key) => read(admin, key)));
  });
  return (await Promise.all(found)).flat();
}

/** The members of a key that may be names of connections. */
async function membersOf(admin: Redis, key: string): Promise<string[]> {
  switch (await admin.type(key)) {
    case 'set':
      return admin.smembers(key);
    case 'zset':
      return admin.zrange(key, '0', '-1');
    case 'hash':
      return admin.hkeys(key);
    default:
      return [];
  }
}
