// The recipes of docs/guide/lists-of-members.md in the race that the page describes: a `leave`
// arrives between the read of a snapshot and its answer. Each test also runs a simple recipe in the
// same race. The simple recipe must fail, which proves that the race happened.
import { execFileSync } from 'node:child_process';
import { EventEmitter } from 'node:events';
import path from 'node:path';
import type { PresenceClient, PresenceEvent, PresenceSnapshotEntry } from 'rollcall';
import { PresenceService, registerPresenceHandlers } from 'rollcall';
import { describe, expect, onTestFinished, test } from 'vitest';
import { join, OPTIONS, socketServer } from '../compat/services.js';
import { openClient, type Untyped } from '../support/clients.js';
import { createRandom, type Random } from '../support/random.js';
import { sharedDb, startRedis } from '../support/redis.js';
import { size } from '../support/size.js';
import { deferred, eventually } from '../support/wait.js';
import { recipe } from './recipes.js';

type Members = ReadonlyMap<string, { epoch: number; state: unknown }>;
type Follow = (
  client: Untyped,
  roomId: string,
  changed: (members: Members) => void,
) => Promise<() => Promise<void>>;

const { followRoom } = (await recipe('follow-room')) as { followRoom: Follow };

/** The simple recipe: applies events when they arrive, and the snapshot when it arrives. */
const simple: Follow = async (client, roomId, changed) => {
  const members = new Map<string, { epoch: number; state: unknown }>();
  const end = await client.subscribe(
    (event: PresenceEvent) => {
      if (event.type === 'leave') members.delete(event.connId);
      else members.set(event.connId, event);
      changed(members);
    },
    { roomId },
  );
  const snapshot: PresenceSnapshotEntry[] = await client.fetchRoomSnapshot(roomId);
  for (const entry of snapshot) members.set(entry.connId, entry);
  changed(members);
  return end;
};

/**
 * A client whose first snapshot is delayed until `meanwhile` is done and its events have arrived.
 * `late` delivers one event directly.
 */
function held(client: PresenceClient, meanwhile: () => Promise<string>): Untyped {
  const seen: string[] = [];
  let first = true;
  let handle: (event: Untyped) => void;
  return {
    late: (event: Untyped) => handle(event),
    on: client.on.bind(client),
    subscribe: (handler: (event: PresenceEvent) => void, options: object) => {
      handle = handler;
      return client.subscribe((event) => {
        handler(event);
        seen.push(`${event.type} ${event.connId}`);
      }, options);
    },
    fetchRoomSnapshot: async (roomId: string) => {
      const snapshot = await client.fetchRoomSnapshot(roomId);
      if (first) {
        first = false;
        const awaited = await meanwhile();
        await eventually(() => expect(seen).toContain(awaited));
      }
      return snapshot;
    },
  };
}

const ids = (members: Members | undefined) => [...(members?.keys() ?? [])].sort();

let rooms = 0;
const STORES: [string, () => Promise<string>][] = [
  ['in the process', async () => `memory://lists-${++rooms}`],
  ['on Redis', async () => (await sharedDb()).url],
];

describe.each(STORES)('a list in a server, %s', (_, open) => {
  async function race(follow: Follow, meanwhile: (other: PresenceClient) => Promise<string>) {
    const url = await open();
    const [client, other] = [await openClient(url), await openClient(url)];
    for (const connId of ['ada', 'bob']) {
      await other.join({ roomId: 'r', userId: connId, connId, state: { n: 0 } });
    }
    let members: Members | undefined;
    const following = held(client, () => meanwhile(other));
    const end = await follow(following, 'r', (now) => {
      members = now;
    });
    onTestFinished(end);
    return { members: () => members, other, client, late: following.late };
  }

  const leaves = async (other: PresenceClient) => {
    await other.leave('bob');
    return 'leave bob';
  };

  test('a leave that arrives before the snapshot is not lost', async () => {
    const { members, other } = await race(followRoom, leaves);
    expect(ids(members())).toEqual(['ada']);
    await other.join({ roomId: 'r', userId: 'eve', connId: 'eve' });
    await eventually(() => expect(ids(members())).toEqual(['ada', 'eve']));
  });

  test('the simple recipe loses it', async () => {
    const { members, client } = await race(simple, leaves);
    expect(ids(members())).toEqual(['ada', 'bob']);
    expect((await client.fetchRoomSnapshot('r')).map(({ connId }) => connId)).toEqual(['ada']);
  });

  test('joins, patches and rejoins that arrive before the snapshot are not lost', async () => {
    const { members } = await race(followRoom, async (other) => {
      await other.join({ roomId: 'r', userId: 'bob', connId: 'bob', state: { n: 1 } });
      await other.heartbeat({ connId: 'bob', patchState: { n: 2 } });
      await other.join({ roomId: 'r', userId: 'eve', connId: 'eve' });
      return 'join eve';
    });
    expect(ids(members())).toEqual(['ada', 'bob', 'eve']);
    expect(members()?.get('bob')).toMatchObject({ state: { n: 2 } });
  });

  test('an event of an earlier join has no effect', async () => {
    const { members, late } = await race(followRoom, leaves);
    const epoch = members()?.get('ada')?.epoch ?? 0;
    late({ type: 'leave', connId: 'ada', epoch: epoch - 1 });
    expect(ids(members())).toEqual(['ada']);
    late({ type: 'leave', connId: 'ada', epoch });
    expect(ids(members())).toEqual([]);
  });

  test(`after ${size(300, 3000)} random changes it equals a snapshot`, async () => {
    const url = await open();
    const [client, other] = [await openClient(url), await openClient(url)];
    const random = createRandom(18);
    const steps = size(300, 3000);
    const writing = changes(other, random, steps);
    for (let started = 0; started < 10; started++) {
      let members: Members | undefined;
      const end = await followRoom(client, 'r', (now) => {
        members = now;
      });
      onTestFinished(end);
      if (started === 9) await writing;
      if (started === 9) {
        await eventually(async () => expect(said(members)).toEqual(await stored(client)));
      }
    }
  });
});

async function changes(other: PresenceClient, random: Random, steps: number): Promise<void> {
  for (let step = 0; step < steps; step++) {
    const connId = `c${random.int(0, 5)}`;
    if (random.chance(0.4)) await other.leave(connId);
    else await other.join({ roomId: 'r', userId: 'u', connId, state: { step } });
  }
}

const said = (members: Members | undefined) =>
  [...(members ?? [])].map(([connId, { epoch, state }]) => ({ connId, epoch, state })).sort(byId);
const stored = async (client: PresenceClient) =>
  (await client.fetchRoomSnapshot('r'))
    .map(({ connId, epoch, state }) => ({ connId, epoch, state }))
    .sort(byId);
const byId = (a: { connId: string }, b: { connId: string }) => (a.connId < b.connId ? -1 : 1);

test('changes in a gap are found after it, even if Redis is down for a while', async () => {
  await using server = await startRedis();
  const client = await openClient({ url: server.url, limits: { commandTimeoutMs: 300 } });
  const other = await openClient(server.url);
  await other.join({ roomId: 'r', userId: 'u', connId: 'ada' });
  let members: Members | undefined;
  onTestFinished(
    await followRoom(client, 'r', (now) => {
      members = now;
    }),
  );
  expect(ids(members)).toEqual(['ada']);
  // Redis returns empty: there is no event for the leave of ada.
  await server.kill();
  await server.start();
  await eventually(() => other.join({ roomId: 'r', userId: 'u', connId: 'bob' }).then(() => true));
  await eventually(() => expect(ids(members)).toEqual(['bob']), { timeoutMs: 15_000 });
});

test('events before a gap are handled before `resync`, even if the thread was busy', async () => {
  await using server = await startRedis();
  const client = await openClient(server.url);
  const order: string[] = [];
  let members: Members | undefined;
  onTestFinished(
    await followRoom(client, 'r', (now) => {
      members = now;
    }),
  );
  client.on('resync', () => void order.push('resync'));
  await client.subscribe(({ type }) => void order.push(type), { roomId: 'r' });
  // Blocks this thread. In the meantime the core receives the join, and detects the gap after it.
  const program = path.join(import.meta.dirname, 'fixtures/gap.mjs');
  execFileSync(process.execPath, [program, server.url]);
  // The leave may be lost in the gap, or received after it.
  const received = () => order.filter((what) => what !== 'leave');
  await eventually(() => expect(received()).toEqual(['join', 'resync']));
  await eventually(() => expect(ids(members)).toEqual([]));
});

describe('a list in a browser', () => {
  /** Joins a socket whose answer is delayed until another connection has left; returns its list. */
  async function race(follow: Untyped): Promise<{ members: () => Members; bob: Untyped }> {
    const { io, connect } = await socketServer();
    const read = deferred();
    const answer = deferred();
    class Held extends PresenceService {
      override async join(options: Untyped) {
        const snapshot = await super.join(options);
        if (options.userId === 'ada') {
          read.resolve();
          await answer.promise;
        }
        return snapshot;
      }
    }
    const service = new Held((await sharedDb()).url, { ...OPTIONS, logger: {} });
    onTestFinished(() => service.stop());
    registerPresenceHandlers(
      { io, logger: {}, identify: (socket) => socket.handshake.query.user ?? socket.data.user },
      service,
    );
    let sockets = 0;
    io.use((socket, next) => {
      socket.data.user = ['bob', 'ada'][sockets++];
      next();
    });
    await service.createSocketBridge(io);
    const bob = await connect();
    await join(bob, 'r', { userId: 'bob' });
    const ada = await connect();
    let members: Members = new Map();
    const left = new Promise<void>((resolve) => {
      ada.on('presence:event', ({ type }) => type === 'leave' && resolve());
    });
    const joining = follow(ada, 'r', { n: 1 }, (now: Members) => {
      members = now;
    })();
    await read.promise;
    await bob.emitWithAck('presence:leave');
    await left;
    answer.resolve();
    await joining;
    return { members: () => members, bob };
  }
  const users = (members: Members) =>
    [...members.values()].map((entry) => (entry as Untyped).userId).sort();

  test('a leave that arrives before the answer to the join is not lost', async () => {
    const { followRoom } = await recipe('follow-socket');
    const { members, bob } = await race(followRoom);
    expect(users(members())).toEqual(['ada']);
    await join(bob, 'r', { userId: 'bob' });
    await eventually(() => expect(users(members())).toEqual(['ada', 'bob']));
  });

  test('a client that adds its listener after the answer loses the leave', async () => {
    const { members } = await race(
      (socket: Untyped, roomId: string, state: object, changed: (members: Members) => void) =>
        async () => {
          const { snapshot } = await socket.emitWithAck('presence:join', { roomId, state });
          const members = new Map(snapshot.map((entry: Untyped) => [entry.connId, entry]));
          socket.on('presence:event', ({ type, connId }: Untyped) => {
            if (type === 'leave') members.delete(connId);
            changed(members as Members);
          });
          changed(members as Members);
        },
    );
    expect(users(members())).toEqual(['ada', 'bob']);
  });

  test('a resync replaces the list, even if it arrives before the answer', async () => {
    const { followRoom } = await recipe('follow-socket');
    const listeners = new Map<string, (payload: Untyped) => void>();
    const answer = deferred<Untyped>();
    const socket = {
      on: (name: string, listener: (payload: Untyped) => void) => listeners.set(name, listener),
      emitWithAck: () => answer.promise,
    };
    let members: Members = new Map();
    const joining = followRoom(socket, 'r', {}, (now: Members) => {
      members = now;
    })();
    const entry = (connId: string, epoch = 1) => ({ connId, roomId: 'r', epoch });
    listeners.get('presence:event')?.({ type: 'join', ...entry('gone') });
    listeners.get('presence:resync')?.({ roomId: 'r', snapshot: [entry('a')] });
    listeners.get('presence:event')?.({ type: 'join', ...entry('b') });
    answer.resolve({ ok: true, snapshot: [entry('gone'), entry('a')] });
    await joining;
    expect(ids(members)).toEqual(['a', 'b']);
    listeners.get('presence:event')?.({ type: 'leave', ...entry('a', 0) });
    listeners.get('presence:event')?.({ type: 'leave', ...entry('b', 2), roomId: 'another' });
    expect(ids(members)).toEqual(['a', 'b']);
    listeners.get('presence:resync')?.({ roomId: 'r', snapshot: [entry('c')] });
    expect(ids(members)).toEqual(['c']);
  });

  test('two concurrent joins keep the events of both; events from before a disconnection are dropped', async () => {
    const { followRoom } = await recipe('follow-socket');
    const socket = new EventEmitter() as Untyped;
    const answers: ((answer: Untyped) => void)[] = [];
    socket.emitWithAck = () => new Promise((resolve) => answers.push(resolve));
    let members: Members = new Map();
    const join = followRoom(socket, 'r', {}, (now: Members) => {
      members = now;
    });
    const entry = (connId: string) => ({ connId, roomId: 'r', epoch: 1 });
    const snapshot = [entry('a'), entry('b')];
    const joins = [join()];
    socket.emit('presence:event', { type: 'leave', ...entry('b') });
    joins.push(join());
    for (const answer of answers) answer({ ok: true, snapshot });
    await Promise.all(joins);
    expect(ids(members)).toEqual(['a']);

    const lost = join();
    socket.emit('presence:event', { type: 'join', ...entry('gone') });
    socket.emit('disconnect');
    const joined = join();
    for (const answer of answers.slice(3)) answer({ ok: true, snapshot: [entry('c')] });
    await joined;
    expect(ids(members)).toEqual(['c']);
    answers[2]?.({ ok: false });
    await expect(lost).rejects.toThrow();
  });
});
