// Spec 2.2: ids of any kind work or are refused, and two different ids never share data.
import { expect, test } from 'vitest';
import { brief, byConn, failure, onEveryStore, record } from './stores.js';

const oddIds = [
  '{',
  '}',
  '{}',
  '}{',
  '{a}',
  '}:conns',
  '{room:r}:conns',
  'room:{r}',
  ':',
  '::',
  'a:b',
  ':conns',
  'a:conns',
  'a:rooms',
  'prs:conn:a',
  'active_rooms',
  ' ',
  ' a',
  'a ',
  'a',
  'A',
  '\t',
  '\n',
  '\r\n',
  '\0',
  'a\0',
  'a\0b',
  '\u007f',
  '*',
  '?',
  '[a]',
  '[a-z]*',
  'a*',
  '\\',
  '\\*',
  '^',
  '"',
  '\\"',
  "'",
  '$1',
  '%s',
  '0',
  '-1',
  '00',
  'null',
  'undefined',
  '__proto__',
  'constructor',
  '😀',
  '😃',
  '\u{10ffff}',
  'é',
  'e\u0301',
  'ß',
  'ẞ',
  'שלום',
  '\u202e',
  '\ufeff',
  '\u2028',
  '\uffff',
  'x'.repeat(4096),
  `${'x'.repeat(4095)}y`,
  'é'.repeat(2048),
  '😀'.repeat(1024),
];

onEveryStore('2.2 ids', (store) => {
  test('2.2 rooms with unusual names share no data', async () => {
    const [client, other] = [await store.connect(), await store.connect()];
    for (const [i, roomId] of oddIds.entries()) {
      await client.join({ roomId, userId: 'u', connId: `c${i}`, state: { i } });
    }
    for (const [i, roomId] of oddIds.entries()) {
      expect(await other.fetchRoomSnapshot(roomId), roomId.slice(0, 20)).toMatchObject([
        { connId: `c${i}`, roomId, state: { i } },
      ]);
    }
    expect((await other.getUserPresence('u')).rooms.sort()).toEqual([...oddIds].sort());
    for (const i of oddIds.keys()) await other.leave(`c${i}`);
    expect((await other.getUserPresence('u')).rooms).toEqual([]);
  });

  test('2.2 users with unusual names share no data', async () => {
    const [client, other] = [await store.connect(), await store.connect()];
    for (const [i, userId] of oddIds.entries()) {
      await client.join({ roomId: `r${i % 2}`, userId, connId: `c${i}` });
    }
    for (const [i, userId] of oddIds.entries()) {
      const found = await other.getUserPresence(userId);
      expect(found, userId.slice(0, 20)).toMatchObject({
        userId,
        rooms: [`r${i % 2}`],
        connections: [{ connId: `c${i}`, userId }],
      });
    }
  });

  test('2.2 connections with unusual ids share no data', async () => {
    const [client, other] = [await store.connect(), await store.connect()];
    for (const [i, connId] of oddIds.entries()) {
      await client.join({ roomId: 'r', userId: 'u', connId, state: { i } });
    }
    for (const [i, connId] of oddIds.entries()) {
      const patch = { connId, patchState: { patched: i } };
      expect((await (i % 2 ? client : other).heartbeat(patch)).changed).toBe(true);
    }
    expect(byConn(await other.fetchRoomSnapshot('r'))).toMatchObject(
      byConn(oddIds.map((connId, i) => ({ connId, state: { i, patched: i } }))),
    );
    // Each connection leaves separately.
    const left = new Set(oddIds);
    for (const connId of oddIds) {
      expect(await other.leave(connId)).toEqual({ roomId: 'r', userId: 'u' });
      left.delete(connId);
      const found = (await client.fetchRoomSnapshot('r')).map((entry) => entry.connId);
      expect(found.sort()).toEqual([...left].sort());
    }
  });

  test('2.2 the same unusual text as room, user and connection; events carry it unchanged', async () => {
    const client = await store.connect();
    const all = await record(client);
    for (const id of oddIds) {
      const ofRoom = await record(client, { roomId: id });
      const { epoch } = await client.join({ roomId: id, userId: id, connId: id });
      await client.heartbeat({ connId: id, epoch });
      await client.heartbeat({ connId: id, patchState: { id } });
      await client.leave(id);
      const expected = [
        { type: 'join', roomId: id, userId: id, connId: id },
        { type: 'update', roomId: id, userId: id, connId: id, state: { id } },
        { type: 'leave', roomId: id, userId: id, connId: id, reason: 'left' },
      ];
      expect(await ofRoom.settled(), id.slice(0, 20)).toMatchObject(expected);
      expect((await all.settled()).slice(-3), id.slice(0, 20)).toMatchObject(expected);
      await ofRoom.stop();
    }
    expect((await all.settled()).length).toBe(3 * oddIds.length);
  });

  test('2.2 a subscription to a room with an unusual name gets events of that room only', async () => {
    const client = await store.connect();
    const recorders = await Promise.all(oddIds.map((roomId) => record(client, { roomId })));
    for (const roomId of oddIds) {
      await client.join({ roomId, userId: 'u', connId: 'moves', snapshot: false });
    }
    for (const [i, recorder] of recorders.entries()) {
      const rooms = (await recorder.settled()).map((event) => event.roomId);
      expect(new Set(rooms)).toEqual(new Set([oddIds[i]]));
    }
  });

  const refused: [string, string, string][] = [
    ['half a surrogate pair', '\ud83d', 'surrogate'],
    ['the other half', 'a\ude00', 'surrogate'],
    ['halves in the wrong order', '\ude00\ud83d', 'surrogate'],
    ['an empty id', '', 'empty'],
    ['one byte more than 4 KiB', 'x'.repeat(4097), '4097'],
    ['more than 4 KiB in UTF-8 only', 'é'.repeat(2049), '4098'],
  ];
  for (const [what, id, named] of refused) {
    test(`2.2 ${what} is refused, the message names the field, and nothing is written`, async () => {
      const client = await store.connect();
      const recorder = await record(client);
      const good = { roomId: 'r', userId: 'u', connId: 'c' };
      for (const field of ['roomId', 'userId', 'connId'] as const) {
        const rejects = failure('INVALID_ARGUMENT', field);
        await expect(client.join({ ...good, [field]: id })).rejects.toEqual(rejects);
        await expect(client.join({ ...good, [field]: id })).rejects.toThrow(named);
      }
      await expect(client.heartbeat({ connId: id })).rejects.toEqual(
        failure('INVALID_ARGUMENT', 'connId'),
      );
      await expect(client.leave(id)).rejects.toEqual(failure('INVALID_ARGUMENT', 'connId'));
      await expect(client.fetchRoomSnapshot(id)).rejects.toEqual(
        failure('INVALID_ARGUMENT', 'roomId'),
      );
      await expect(client.getUserPresence(id)).rejects.toEqual(
        failure('INVALID_ARGUMENT', 'userId'),
      );
      await expect(client.subscribe(() => {}, { roomId: id })).rejects.toEqual(
        failure('INVALID_ARGUMENT', 'roomId'),
      );
      expect((await recorder.settled()).map(brief)).toEqual([]);
    });
  }

  test('2.2 a connection id that ends in :state is refused: it is the name of another key', async () => {
    const client = await store.connect();
    await expect(client.join({ roomId: 'r', userId: 'u', connId: 'c:state' })).rejects.toEqual(
      failure('INVALID_ARGUMENT', 'connId'),
    );
    // Elsewhere in an id it is allowed.
    await client.join({ roomId: 'r:state', userId: 'u:state', connId: ':state:' });
    expect(await client.leave(':state:')).toEqual({ roomId: 'r:state', userId: 'u:state' });
  });
});
