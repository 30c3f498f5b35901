// After a gap in the events, sockets get the rooms that they are in as they are now: one message for each
// room that has sockets on this server.

import { log } from '../log.js';
import type { Logger, PresenceEvent, PresenceSnapshotEntry } from '../types.js';
import { untilDone } from './retry.js';
import type { RoomEmitter } from './socket-types.js';

/** Rooms that are read at a time. */
const AT_A_TIME = 8;
/** Events of a room that wait while it is read; with more, it is read again. */
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
  /** Rooms that have yet to be read. */
  readonly #waiting = new Set<string>();
  /** Rooms that are being read, with the events that came meanwhile. */
  readonly #held = new Map<string, PresenceEvent<State>[]>();

  constructor(options: ResyncOptions<State>) {
    this.#options = options;
  }

  /** Sends all rooms that have sockets here. One that is being read already is read again. */
  start(): void {
    for (const roomId of localRooms(this.#options.adapter)) {
      this.#waiting.add(roomId);
    }
    this.#next();
  }

  /**
   * Whether the event has to wait: after the snapshot, and not before it, because a client that replaces
   * what it has by the snapshot would lose it.
   */
  holds(event: PresenceEvent<State>): boolean {
    const held = this.#held.get(event.roomId);
    if (held === undefined) {
      return false;
    }
    if (held.length < MAX_HELD) {
      held.push(event);
    } else {
      // The snapshot of a later read has all of them.
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
      // It is logged. The sockets have at least the events.
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

/** The rooms of a Socket.IO server or namespace that have sockets on this server, but not those of ids. */
function localRooms(emitter: RoomEmitter): string[] {
  const given = emitter as NamespaceLike;
  // A server has its main namespace as `sockets`, a namespace its sockets by id.
  const namespace = given.adapter?.rooms ? given : (given.sockets as NamespaceLike | undefined);
  const sockets = namespace?.sockets as { has?(id: string): boolean } | undefined;
  const rooms = namespace?.adapter?.rooms?.keys() ?? [];
  return [...rooms].filter((room) => !sockets?.has?.(room));
}
