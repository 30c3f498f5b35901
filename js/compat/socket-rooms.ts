// The rooms of the socket server that Rollcall has added a socket to. A room that the application
// has added it to is never left, and the private room of another socket is never joined.

import { forbidden } from './socket-policy.js';
import type { SocketLike } from './socket-types.js';

/** The used part of a Socket.IO namespace; other socket servers have none. */
interface NamespaceLike {
  readonly sockets?: { has(id: string): boolean };
  in?(room: string): { fetchSockets?(): Promise<readonly FoundSocket[]> };
}

/** A socket of any server. */
interface FoundSocket {
  readonly id: string;
  readonly data?: { readonly presenceRoomId?: unknown };
  leave?(room: string): void;
}

/** The number of these handlers' sockets in each room: such a room is known not to be private. */
export type RoomCounts = Map<string, number>;

export class SocketRooms {
  readonly #socket: SocketLike;
  readonly #counts: RoomCounts;
  /** The rooms that Rollcall has added it to. */
  readonly #own = new Set<string>();

  constructor(socket: SocketLike, counts: RoomCounts) {
    this.#socket = socket;
    this.#counts = counts;
  }

  /**
   * Refuses a room that is the private room of another socket: its members receive messages for
   * that socket only. Sockets of other servers are looked up through the adapter, but only for a
   * name that may be an id, and only if no socket of this server is in the room yet. Ids cannot be
   * guessed, so a room in use cannot become a private one.
   */
  async check(roomId: string): Promise<void> {
    const { id } = this.#socket;
    if (roomId === id) {
      return;
    }
    if (this.#namespace.sockets?.has(roomId)) {
      throw privateRoom();
    }
    if (roomId.length === id.length && !this.#counts.has(roomId)) {
      const found = await this.#socketsIn(roomId);
      if (found.some((socket) => socket.id === roomId)) {
        throw privateRoom();
      }
    }
  }

  /**
   * Removes others from this socket's private room that have joined presence in it while the socket
   * was away: its id was free then, and may be known.
   */
  async reclaimPrivate(): Promise<void> {
    const { id } = this.#socket;
    for (const socket of await this.#socketsIn(id)) {
      if (socket.id !== id && socket.data?.presenceRoomId === id) {
        socket.leave?.(id);
      }
    }
  }

  get #namespace(): NamespaceLike {
    return (this.#socket.nsp ?? {}) as NamespaceLike;
  }

  async #socketsIn(room: string): Promise<readonly FoundSocket[]> {
    return (await this.#namespace.in?.(room).fetchSockets?.()) ?? [];
  }

  /** Whether Rollcall has added the socket to the room. */
  owns(roomId: string): boolean {
    return this.#own.has(roomId);
  }

  /** Joins a room. Returns whether the socket was not in it before. */
  async enter(roomId: string): Promise<boolean> {
    if (this.#own.has(roomId) || this.#socket.rooms?.has(roomId)) {
      return false;
    }
    this.adopt(roomId);
    await this.#socket.join(roomId);
    return true;
  }

  /** Counts a room as Rollcall's, because an earlier session has added the socket to it. */
  adopt(roomId: string): void {
    if (!this.#own.has(roomId)) {
      this.#own.add(roomId);
      this.#counts.set(roomId, (this.#counts.get(roomId) ?? 0) + 1);
    }
  }

  async leave(roomId: string): Promise<void> {
    if (this.#forget(roomId)) {
      await this.#socket.leave(roomId);
    }
  }

  /** Leaves all of Rollcall's rooms except one. */
  async keepOnly(roomId: string | undefined): Promise<void> {
    for (const own of [...this.#own]) {
      if (own !== roomId) {
        await this.leave(own);
      }
    }
  }

  /**
   * The socket has ended, and so have its rooms. A recovered socket has the same id, so no room may
   * be left.
   */
  forgetAll(): void {
    for (const own of [...this.#own]) {
      this.#forget(own);
    }
  }

  #forget(roomId: string): boolean {
    if (!this.#own.delete(roomId)) {
      return false;
    }
    const left = (this.#counts.get(roomId) ?? 1) - 1;
    if (left === 0) {
      this.#counts.delete(roomId);
    } else {
      this.#counts.set(roomId, left);
    }
    return true;
  }
}

function privateRoom() {
  return forbidden('roomId is the id of another socket, whose messages are not for others');
}
