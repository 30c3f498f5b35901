// The rooms of the socket server into which Rollcall has put a socket. A room that the application has
// put it into is never left, and the private room of another socket is never entered.

import { forbidden } from './socket-policy.js';
import type { SocketLike } from './sockets.js';

/** What is used of a Socket.IO namespace; a socket of something else has none. */
interface NamespaceLike {
  readonly sockets?: { has(id: string): boolean };
  in?(room: string): { fetchSockets?(): Promise<readonly { readonly id: string }[]> };
}

/** How many sockets of these handlers are in each room: such a room is known to be nobody's own. */
export type RoomCounts = Map<string, number>;

export class SocketRooms {
  readonly #socket: SocketLike;
  readonly #counts: RoomCounts;
  /** Those that Rollcall has put it into. */
  readonly #own = new Set<string>();

  constructor(socket: SocketLike, counts: RoomCounts) {
    this.#socket = socket;
    this.#counts = counts;
  }

  /**
   * Refuses a room that is the private one of another socket: whoever is in it hears what is sent to that
   * socket alone. Sockets of other servers are asked for through the adapter, but only for a name that may
   * be an id, and only if no socket of this server is in such a room yet: ids cannot be guessed, so that a
   * room in use does not become one.
   */
  async check(roomId: string): Promise<void> {
    const { id, nsp } = this.#socket;
    if (roomId === id) {
      return;
    }
    const namespace = (nsp ?? {}) as NamespaceLike;
    if (namespace.sockets?.has(roomId)) {
      throw privateRoom();
    }
    if (roomId.length === id.length && !this.#counts.has(roomId)) {
      const found = await namespace.in?.(roomId).fetchSockets?.();
      if (found?.some((socket) => socket.id === roomId)) {
        throw privateRoom();
      }
    }
  }

  /** Whether Rollcall has put the socket into the room. */
  owns(roomId: string): boolean {
    return this.#own.has(roomId);
  }

  /** Enters a room. Returns whether the socket was not in it. */
  async enter(roomId: string): Promise<boolean> {
    if (this.#own.has(roomId) || this.#socket.rooms?.has(roomId)) {
      return false;
    }
    this.adopt(roomId);
    await this.#socket.join(roomId);
    return true;
  }

  /** Counts a room as one of Rollcall's, into which a session before this one has put the socket. */
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

  /** Leaves all rooms of Rollcall's but one. */
  async keepOnly(roomId: string | undefined): Promise<void> {
    for (const own of [...this.#own]) {
      if (own !== roomId) {
        await this.leave(own);
      }
    }
  }

  /** The socket has gone, and with it its rooms. A recovered socket has the same id: nothing may be left. */
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
