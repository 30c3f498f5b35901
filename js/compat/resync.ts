// After a gap in the events, sockets get the current members of their rooms: one message for each
// room that has sockets on this server.

import { log } from '../log.js';
import type { Logger, PresenceEvent, PresenceSnapshotEntry } from '../types.js';
import { untilDone } from './retry.js';
import type { RoomEmitter } from './socket-types.js';

/** The maximum number of rooms that are read at a time. */
const AT_A_TIME = 8;
/**
 * The maximum number of events of a room that wait while it is read; above it, the room is read
 * again.
 */
const MAX_HELD = 1000;

export interface ResyncOptions<State> {
  adapter: RoomEmitter;
  fetch: (roomId: string) => Promise<PresenceSnapshotEntry<State>[]>;
  emit: (roomId: string, snapshot: PresenceSnapshotEntry<State>[]) => void;
  /** Emits an event that has waited. */
  release: (event: PresenceEvent<State>) => void;
  logger: Logger;
}

export class RoomResync<State> {
  readonly #options: ResyncOptions<State>;
  readonly #stop = new AbortController();
  /** Rooms that have not been read yet. */
  readonly #waiting = new Set<string>();
  /** Rooms that are being read, with the events that have arrived in the meantime. */
  readonly #held = new Map<string, PresenceEvent<State>[]>();

  constructor(options: ResyncOptions<State>) {
    this.#options = options;
  }

  /** Sends all rooms that have sockets here. A room that is already being read is read again. */
  start(): void {
    for (const roomId of localRooms(this.#options.adapter)) {
      this.#waiting.add(roomId);
    }
    this.#next();
  }

  /**
   * Whether the event has to wait. It must follow the snapshot: a client that replaces its list by
   * the snapshot would lose an earlier event.
   */
  holds(event: PresenceEvent<State>): boolean {
    const held = this.#held.get(event.roomId);
    if (held === undefined) {
      return false;
    }
    if (held.length < MAX_HELD) {
      held.push(event);
    } else {
      // The snapshot of a later read contains all of them.
      held.length = 0;
      this.#waiting.add(event.roomId);
    }
    return true;
  }

  stop(): void {
    this.#stop.abort();
    this.#waiting.clear();
    this.#held.clear();
  }

  #next(): void {
    for (const roomId of this.#waiting) {
      if (this.#held.size >= AT_A_TIME) {
        return;
      }
      if (!this.#held.has(roomId)) {
        this.#waiting.delete(roomId);
        this.#held.set(roomId, []);
        this.#send(roomId).then(() => this.#next());
      }
    }
  }

  /** Never rejects. */
  async #send(roomId: string): Promise<void> {
    const { fetch, emit, release, logger } = this.#options;
    const { signal } = this.#stop;
    try {
      await untilDone(
        'Reading a room after a gap in its events',
        async () => {
          const snapshot = await fetch(roomId);
          if (!signal.aborted) {
            emit(roomId, snapshot);
          }
        },
        signal,
        logger,
      );
    } catch {
      // The failure is logged. The sockets still have the events.
    }
    const held = this.#held.get(roomId) ?? [];
    this.#held.delete(roomId);
    for (const event of signal.aborted ? [] : held) {
      try {
        release(event);
      } catch (error) {
        log(logger, 'error', 'Presence event handler threw', error);
      }
    }
  }
}

interface NamespaceLike {
  readonly adapter?: { readonly rooms?: ReadonlyMap<string, unknown> };
  readonly sockets?: NamespaceLike | { has(id: string): boolean };
}

/**
 * The rooms of a Socket.IO server or namespace with sockets on this server, without private rooms.
 */
function localRooms(emitter: RoomEmitter): string[] {
  const given = emitter as NamespaceLike;
  // A server has its main namespace as `sockets`, a namespace its sockets by id.
  const namespace = given.adapter?.rooms ? given : (given.sockets as NamespaceLike | undefined);
  const sockets = namespace?.sockets as { has?(id: string): boolean } | undefined;
  const rooms = namespace?.adapter?.rooms?.keys() ?? [];
  return [...rooms].filter((room) => !sockets?.has?.(room));
}
