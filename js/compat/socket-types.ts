// The used parts of a socket library as interfaces; Socket.IO has them all. No code.

/** Emits events; a Socket.IO server or namespace is one. */
export interface RoomEmitter {
  to(room: string): { emit(event: string, payload: never): unknown };
}

// biome-ignore lint/suspicious/noExplicitAny: Socket.IO's own listeners take anything
type Listener = (...args: any[]) => void;

/** The used part of a socket; a Socket.IO socket is one. */
export interface SocketLike {
  readonly id: string;
  /** Gets `presenceRoomId` and `presenceUserId`, for the server's own handlers. */
  // biome-ignore lint/suspicious/noExplicitAny: the server defines the type of Socket.IO's data
  readonly data?: any;
  /** The rooms of the socket: rooms from before a join are not left. */
  readonly rooms?: { has(room: string): boolean };
  /** Its namespace, to look up other sockets. */
  readonly nsp?: object;
  /** Whether it was recovered (connection state recovery). */
  readonly recovered?: boolean;
  join(room: string): unknown;
  leave(room: string): unknown;
  on(event: string, listener: Listener): unknown;
  off(event: string, listener: Listener): unknown;
}

/** The used part of a socket server; a Socket.IO server or namespace is one. */
export interface SocketServerLike extends RoomEmitter {
  on(event: 'connection', listener: Listener): unknown;
  off(event: 'connection', listener: Listener): unknown;
}
