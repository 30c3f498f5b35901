// Socket.IO's connection state recovery: a socket that reconnects has the id, the rooms and the
// `data` of the disconnected one, on any server that shares its adapter. The data for presence are
// stored in `data`.

import type { SocketLike } from './socket-types.js';

/** The current or pending place of a socket when its connection broke. */
export interface Recovery {
  readonly roomId: string;
  /** Absent if the client did not send it, because the server identifies its sockets. */
  readonly userId: string | undefined;
  readonly state: object | undefined;
  /** The epoch that the client knows. */
  readonly since: number | undefined;
  /** Whether Rollcall has added the socket to the room of the socket server. */
  readonly owned: boolean;
}

const FIELD = 'presenceRecovery';

/** Whether a socket can be recovered: only then Socket.IO gives it a second, private id. */
export function isRecoverable(socket: SocketLike): boolean {
  return (socket as { pid?: unknown }).pid !== undefined;
}

/** Must be called when the socket disconnects, before Socket.IO stores its `data`. */
export function leaveRecovery(socket: SocketLike, recovery: Recovery | undefined): void {
  const { data } = socket;
  if (typeof data === 'object' && data !== null) {
    data[FIELD] = recovery;
  }
}

/** Takes the recovery data that the previous socket has stored. */
export function takeRecovery(socket: SocketLike): Recovery | undefined {
  const { data } = socket;
  if (socket.recovered !== true || typeof data !== 'object' || data === null) {
    return undefined;
  }
  const recovery = data[FIELD] as Recovery | null | undefined;
  delete data[FIELD];
  return recovery ?? undefined;
}
