// Two well-behaved clients of a Socket.IO server that see each other. Every server with presence
// must support them, with Rollcall's socket protocol or with its own `join` and `heartbeat` events.
import { io as connectSocket, type Socket } from 'socket.io-client';
import { expect } from 'vitest';
import type { Untyped } from '../support/clients.js';
import { eventually } from '../support/wait.js';

/** @param ours whether the server has Rollcall's handlers */
export async function twoSeeEachOther(url: string, ours: boolean, roomId = 'docs'): Promise<void> {
  const [join, heartbeat] = ours ? ['presence:join', 'presence:heartbeat'] : ['join', 'heartbeat'];
  const ada = connect(url, 'ada');
  const bob = connect(url, 'bob');
  try {
    const seen: { type: string; userId: string }[] = [];
    ada.on('presence:event', (event) => seen.push(event));
    const here = (snapshot: Untyped, ...users: string[]) =>
      expect(snapshot.map(({ userId }: Untyped) => userId).sort()).toEqual(users);
    await eventually(
      async () => here((await joined(ada, join, { roomId, userId: 'ada' })).snapshot, 'ada'),
      { timeoutMs: 15_000, intervalMs: 150 },
    );
    const second = await joined(bob, join, { roomId, userId: 'bob', state: { typing: false } });
    here(second.snapshot, 'ada', 'bob');
    const acknowledged = await bob.emitWithAck(heartbeat, {
      epoch: ours ? second.self.epoch : second.epoch,
      patchState: { typing: true },
    });
    expect(acknowledged.changed).toBe(true);
    bob.close();
    await eventually(() => {
      const ofBob = seen.filter((event) => event.userId === 'bob');
      expect(ofBob.map((event) => event.type)).toEqual(['join', 'update', 'leave']);
    });
  } finally {
    ada.close();
    bob.close();
  }
}

/** The connections of a user in a room, from the snapshot of a new member. */
export async function connectionsOf(
  url: string,
  roomId: string,
  userId: string,
): Promise<string[]> {
  const socket = connect(url, 'eve');
  try {
    const { snapshot } = await joined(socket, 'presence:join', { roomId, userId: 'eve' });
    const entries = snapshot.filter((entry: Untyped) => entry.userId === userId);
    return entries.map(({ connId }: Untyped) => connId);
  } finally {
    socket.close();
  }
}

export function connect(url: string, user: string): Socket {
  return connectSocket(url, {
    transports: ['websocket'],
    forceNew: true,
    reconnectionDelay: 50,
    auth: { user },
  });
}

export async function joined(socket: Socket, event: string, payload: Untyped): Promise<Untyped> {
  const answer = await socket.timeout(10_000).emitWithAck(event, payload);
  if (answer.ok === false) throw new Error(`${answer.code}: ${answer.error}`);
  return answer;
}
