// The rooms of the socket server into which Rollcall has put a socket. A room that the application has
// put it into is never left, and the private room of another socket is never entered.

import { forbidden } from './socket-policy.js';
import type { SocketLike } from './socket-types.js';

/** What is used of a Socket.IO namespace; a socket of something else has none. */
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
   * Throws others out of this socket's private room who have joined presence in it while the socket was
   * away: then its id was nobody's, and can be known.
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
