// A fleet of real server processes, one of which dies without a word (spec 4.2, 6.1; issue 2, "It
// must show" 2).
import type { PresenceLeaveEvent } from 'rollcall';
import { expect, test } from 'vitest';
import { type Fixture, startFixture } from '../support/process.js';
import { startRedis } from '../support/redis.js';
import { eventually, within } from '../support/wait.js';

interface Message {
  joined?: number;
  leave?: PresenceLeaveEvent;
  resync?: true;
  failed?: string;
}

const CONNECTIONS = 200;
const ROOMS = 10;
const TTL_MS = 2000;
/** The sweep interval is 1 s; the rest is for a busy machine. */
const LATEST_MS = TTL_MS + 1500;

test('issue 2, 2: one of three servers is killed: the others see 200 leaves, in time, once', async () => {
  await using server = await startRedis();
  const admin = await server.client();
  const start = (name: string) =>
    startFixture<Message>('fleet/fixtures/node.mjs', {
      args: [server.url, name, String(CONNECTIONS), String(TTL_MS)],
    });
  await using a = start('a');
  await using b = start('b');
  await using c = start('c');
  await Promise.all([a, b, c].map((node) => node.message(({ joined }) => joined === CONNECTIONS)));

  await c.kill();
  // Nobody refreshes them any more: what Redis holds is the last heartbeat of each.
  const lastSeen = new Map<string, number>();
  for (let room = 0; room < ROOMS; room++) {
    const entries = await admin.zrange(
      `prs:{room:room-${room}}:last_seen`,
      '0',
      '-1',
      'WITHSCORES',
    );
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
      expect(after, connId).toBeLessThanOrEqual(LATEST_MS);
    }
  }
  // Both saw the same, room by room in the same order.
  const inRoom = (node: Fixture<Message>, room: number) =>
    leaves(node).filter(({ roomId }) => roomId === `room-${room}`);
  for (let room = 0; room < ROOMS; room++) expect(inRoom(a, room)).toEqual(inRoom(b, room));

  // Nothing of the dead server's is left, in any key.
  for (const key of await admin.keys('*')) {
    expect(key).not.toMatch(/:c-/);
    const type = await admin.type(key);
    const members =
      type === 'set'
        ? await admin.smembers(key)
        : type === 'zset'
          ? await admin.zrange(key, '0', '-1')
          : type === 'hash' && key.includes('conn_meta')
            ? await admin.hkeys(key)
            : [];
    expect(members.filter((member) => member.startsWith('c-'))).toEqual([]);
  }
  expect((await admin.keys('prs:conn:*')).length).toBe(2 * CONNECTIONS);

  // No second `leave` came while all that was looked at, and the living were left alone.
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
  expect(await server.dbsize()).toBe(0);
});
