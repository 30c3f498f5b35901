// Socket.IO's connection state recovery: a socket that comes back has the id, the rooms and the `data` of
// the one that broke, on any server that shares its adapter. What presence needs is left in `data`.

import type { SocketLike } from './socket-types.js';

/** Where a socket was, or was about to be, when its connection broke. */
export interface Recovery {
  readonly roomId: string;
  /** Absent if the client did not say, because the server identifies its sockets. */
  readonly userId: string | undefined;
  readonly state: object | undefined;
  /** The epoch that the client knows. */
  readonly since: number | undefined;
  /** Whether Rollcall has put the socket into the room of the socket server. */
  readonly owned: boolean;
}

const FIELD = 'presenceRecovery';

/** Whether a socket may be recovered: only then Socket.IO gives it a second, private id. */
export function isRecoverable(socket: SocketLike): boolean {
  return (socket as { pid?: unknown }).pid !== undefined;
}

/** Has to be called when the socket disconnects, before Socket.IO stores its `data`. */
export function leaveRecovery(socket: SocketLike, recovery: Recovery | undefined): void {
  const { data } = socket;
  if (typeof data === 'object' && data !== null) {
    data[FIELD] = recovery;
  }
}

/** Takes what the socket before this one has left. */
export function takeRecovery(socket: SocketLike): Recovery | undefined {
  const { data } = socket;
  if (socket.recovered !== true || typeof data !== 'object' || data === null) {
    return undefined;
  }
  const recovery = data[FIELD] as Recovery | null | undefined;
  delete data[FIELD];
  return recovery ?? undefined;
}
