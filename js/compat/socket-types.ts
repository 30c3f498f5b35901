// What of a socket library is used, as interfaces; Socket.IO has them all. No code.

/** What events are emitted by; a Socket.IO server or namespace is one. */
export interface RoomEmitter {
  to(room: string): { emit(event: string, payload: never): unknown };
}

// biome-ignore lint/suspicious/noExplicitAny: Socket.IO's own listeners take anything
type Listener = (...args: any[]) => void;

/** What of a socket is used; Socket.IO's is one. */
export interface SocketLike {
  readonly id: string;
  /** Is told `presenceRoomId` and `presenceUserId`, for the server's own handlers. */
  // biome-ignore lint/suspicious/noExplicitAny: Socket.IO's is whatever the server makes of it
  readonly data?: any;
  /** The rooms that it is in: one that it was in before is not left. */
  readonly rooms?: { has(room: string): boolean };
  /** Its namespace, to know the other sockets by. */
  readonly nsp?: object;
  /** Whether it is one that broke and came back (connection state recovery). */
  readonly recovered?: boolean;
  join(room: string): unknown;
  leave(room: string): unknown;
  on(event: string, listener: Listener): unknown;
  off(event: string, listener: Listener): unknown;
}

/** What of a socket server is used; a Socket.IO server or namespace is one. */
export interface SocketServerLike extends RoomEmitter {
  on(event: 'connection', listener: Listener): unknown;
  off(event: 'connection', listener: Listener): unknown;
}
