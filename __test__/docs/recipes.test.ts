// The recipes of the documentation, except those of lists.test.ts.
import { EventEmitter } from 'node:events';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import { initPresence } from 'rollcall';
import { describe, expect, onTestFinished, test, vi } from 'vitest';
import { WebSocket } from 'ws';
import { heartbeat, join, socketServer } from '../compat/services.js';
import { openClient, type Untyped } from '../support/clients.js';
import { createRandom } from '../support/random.js';
import { sharedDb } from '../support/redis.js';
import { size } from '../support/size.js';
import { eventually } from '../support/wait.js';
import { recipe } from './recipes.js';

const members = (...entries: string[]) =>
  new Map(
    entries.map((entry) => {
      const [userId, connId] = entry.split(' ');
      return [connId, { userId, connId, state: {} }];
    }),
  );

describe('several tabs', () => {
  test('users are listed once, with their connections', async () => {
    const { usersOf } = await recipe('users');
    const users = usersOf(members('ada 1', 'bob 2', 'ada 3'));
    expect([...users.keys()]).toEqual(['ada', 'bob']);
    expect(users.get('ada').map(({ connId }: Untyped) => connId)).toEqual(['1', '3']);
  });

  test('a user appears with the first connection and disappears with the last', async () => {
    const { userChanges } = await recipe('user-changes');
    const said: string[] = [];
    const change = userChanges(
      (id: string) => said.push(`+${id}`),
      (id: string) => said.push(`-${id}`),
    );
    change(members('ada 1'));
    change(members('ada 1', 'ada 2', 'bob 3'));
    change(members('ada 2', 'bob 3'));
    change(members('bob 3'));
    expect(said).toEqual(['+ada', '+bob', '-ada']);
  });

  test('a user who reconnects in time is not shown as absent', async () => {
    vi.useFakeTimers();
    onTestFinished(() => void vi.useRealTimers());
    const { patientList } = await recipe('patient-list');
    let displayed: string[] = [];
    const change = patientList((ids: string[]) => {
      displayed = ids;
    }, 1000);
    change(members('ada 1', 'bob 2'));
    change(members('bob 2'));
    vi.advanceTimersByTime(999);
    expect(displayed).toEqual(['ada', 'bob']);
    change(members('ada 3', 'bob 2'));
    vi.advanceTimersByTime(5000);
    expect(displayed).toEqual(['ada', 'bob']);
    change(members('bob 2'));
    change(members('bob 2', 'eve 4'));
    vi.advanceTimersByTime(1000);
    expect(displayed).toEqual(['bob', 'eve']);
  });
});

describe('cursors and typing', () => {
  function fakeSocket() {
    const patches: Untyped[] = [];
    const emit = (event: string, { patchState }: Untyped) => {
      expect(event).toBe('presence:heartbeat');
      patches.push(patchState);
    };
    return { socket: { emit, volatile: { emit } }, patches };
  }

  test('typing starts with the first key and ends a short time after the last', async () => {
    vi.useFakeTimers();
    onTestFinished(() => void vi.useRealTimers());
    const { typingIndicator } = await recipe('typing');
    const { socket, patches } = fakeSocket();
    const key = typingIndicator(socket, 100);
    for (let i = 0; i < 10; i++) {
      key();
      vi.advanceTimersByTime(50);
    }
    expect(patches).toEqual([{ typing: true }]);
    vi.advanceTimersByTime(100);
    key();
    expect(patches).toEqual([{ typing: true }, { typing: false }, { typing: true }]);
  });

  test('the rate of patches is limited, and the last patch has the latest values', async () => {
    vi.useFakeTimers();
    onTestFinished(() => void vi.useRealTimers());
    const { throttledState } = await recipe('throttle');
    const { socket, patches } = fakeSocket();
    const set = throttledState(socket, 50);
    for (let x = 0; x <= 100; x++) {
      set(x === 3 ? { x, color: 'red' } : { x });
      vi.advanceTimersByTime(1);
    }
    vi.advanceTimersByTime(1000);
    expect(patches).toEqual([{ x: 0 }, { x: 49, color: 'red' }, { x: 99 }, { x: 100 }]);
    set({ x: 0 });
    expect(patches).toHaveLength(5);
  });

  test('a room gets its events in frames, and after a gap a resync', async () => {
    const { frames } = await recipe('frames');
    const { io, connect } = await socketServer();
    const { url } = await sharedDb();
    const adapter = frames(io, 100);
    const presence = await initPresence({ io, redis: url, logger: {}, bridge: { adapter } });
    onTestFinished(() => presence.dispose());
    const [ada, bob] = [await connect(), await connect()];
    const got: Untyped[][] = [];
    ada.on('presence:events', (events) => got.push(events));
    await join(ada, 'r', { userId: 'ada' });
    await eventually(() => expect(got).toHaveLength(1));
    await join(bob, 'r', { userId: 'bob', state: { n: 0 } });
    // Several at once, so that they share frames; the first one alone.
    await heartbeat(bob, { patchState: { n: 1 } });
    await Promise.all(
      [...Array(19).keys()].map((i) => heartbeat(bob, { patchState: { n: i + 2 } })),
    );
    bob.close();
    await eventually(() => expect(got.flat().at(-1).type).toBe('leave'));
    const ofBob = got.flat().filter(({ userId }) => userId === 'bob');
    expect(ofBob[0].type).toBe('join');
    expect(ofBob.at(-2).state).toEqual({ n: 20 });
    // Far fewer than the 22 changes, in an order with the same result.
    expect(ofBob.length).toBeLessThan(15);
    expect(ofBob.slice(1, -1).every(({ type }) => type === 'update')).toBe(true);

    const resync = new Promise<Untyped>((resolve) => ada.once('presence:resync', resolve));
    await (await (await sharedServer()).client()).call('CLIENT', 'KILL', 'TYPE', 'pubsub');
    expect((await resync).snapshot.map(({ userId }: Untyped) => userId)).toEqual(['ada']);
  });
  const sharedServer = async () => (await sharedDb()).server;
});

test('friends are online while they have a connection', async () => {
  const { onlineOf } = await recipe('online');
  const client = await openClient('memory://recipe-online');
  await client.join({ roomId: 'r', userId: 'ada', connId: '1' });
  await client.join({ roomId: 's', userId: 'ada', connId: '2' });
  expect(await onlineOf(client, ['bob', 'ada'])).toEqual(['ada']);
  await client.leave('1');
  expect(await onlineOf(client, ['bob', 'ada'])).toEqual(['ada']);
  await client.leave('2');
  expect(await onlineOf(client, ['bob', 'ada'])).toEqual([]);
});

test('a connection that has timed out joins again; other failures are not hidden', async () => {
  const { keepAlive } = await recipe('keep-alive');
  const client = await openClient({ url: 'memory://recipe-keep-alive', ttlMs: 30_000 });
  const place = { roomId: 'r', userId: 'ada', connId: 'c', state: { n: 1 } };
  const connection = { ...place, epoch: (await client.join(place)).epoch };
  await keepAlive(client, connection);
  await client.leave('c');
  await keepAlive(client, connection);
  expect(await client.fetchRoomSnapshot('r')).toMatchObject([{ connId: 'c', state: { n: 1 } }]);
  expect(connection.epoch).toBe(await client.getEpoch('c'));
  await client.join(place);
  await expect(keepAlive(client, connection)).rejects.toMatchObject({ code: 'STALE_EPOCH' });
});

describe('plain WebSockets', () => {
  async function serve() {
    const { serve } = await recipe('websockets');
    const client = await openClient((await sharedDb()).url);
    const http = createServer();
    const server = await serve(http, client);
    await new Promise<void>((resolve) => http.listen(0, '127.0.0.1', resolve));
    onTestFinished(() => {
      for (const socket of server.clients) socket.terminate();
      server.close();
      http.close();
    });
    return { client, url: `ws://127.0.0.1:${(http.address() as AddressInfo).port}` };
  }

  /** A client with the protocol of the page. */
  async function open(url: string) {
    const socket = new WebSocket(url);
    socket.on('error', () => {});
    onTestFinished(() => socket.terminate());
    const events: Untyped[] = [];
    const answers = new EventEmitter();
    socket.on('message', (data) => {
      const message = JSON.parse(String(data));
      if (message.event) events.push(message.event);
      else answers.emit(String(message.id), message);
    });
    await new Promise((resolve) => socket.once('open', resolve));
    let id = 0;
    const request = (message: object) => {
      const number = ++id;
      socket.send(JSON.stringify({ id: number, ...message }));
      return new Promise<Untyped>((resolve, reject) => {
        answers.once(String(number), resolve);
        socket.once('close', () => reject(new Error('closed')));
      });
    };
    return { socket, events, request };
  }

  async function twoSeeEachOther(url: string, roomId: string) {
    const [ada, bob] = [await open(url), await open(url)];
    const join = (userId: string) => ({ type: 'join', roomId, userId, state: {} });
    await ada.request(join('ada'));
    const { snapshot } = await bob.request(join('bob'));
    expect(snapshot.map(({ userId }: Untyped) => userId).sort()).toEqual(['ada', 'bob']);
    expect(await bob.request({ type: 'state', patchState: { typing: true } })).toMatchObject({
      ok: true,
    });
    bob.socket.close();
    await eventually(() => {
      const ofBob = ada.events.filter(({ userId }) => userId === 'bob');
      expect(ofBob.map(({ type }) => type)).toEqual(['join', 'update', 'leave']);
    });
  }

  test('two users see each other', async () => {
    const { url } = await serve();
    await twoSeeEachOther(url, 'r');
  });

  test('an invalid request ends its connection, and affects no other', async () => {
    const { client, url } = await serve();
    const random = createRandom(18);
    const bad = [
      'x',
      'null',
      '5',
      '[]',
      '{}',
      '{"type":"join"}',
      '{"type":"join","roomId":{},"userId":7}',
      '{"type":"join","roomId":"r","userId":"u","state":[]}',
      '{"type":"state","patchState":{"a":1}}',
      `{"type":"join","roomId":"r","userId":"u","state":${'{"a":'.repeat(500)}1${'}'.repeat(500)}}`,
      `{"id":${'['.repeat(20_000)}${']'.repeat(20_000)},"type":"state"}`,
      '{"type":"join","roomId":"r","userId":"u"}',
      'x'.repeat(70_000),
    ];
    for (let round = 0; round < size(40, 400); round++) {
      const { socket } = await open(url);
      for (let i = random.int(1, 5); i > 0; i--) socket.send(random.pick(bad));
      if (random.chance(0.5)) await delay(random.int(0, 5));
      if (random.chance(0.5)) socket.terminate();
      else socket.close();
    }
    await twoSeeEachOther(url, 'calm');
    await eventually(async () => expect(await client.fetchRoomSnapshot('r')).toEqual([]));
  });
});
