// Who gets what the core hands over: the handlers of all rooms, of single rooms, of the client's
// own events. Held by the bridge, not by the client: a subscription goes on although nobody holds
// the client any more.

import { RollcallError } from './errors.js';
import { Handlers } from './handlers.js';
import type { Sink } from './native.js';
import type { ClientEvents, Logger, PresenceEvent } from './types.js';

/** The numbers of the core's feeds. */
export const FEEDS = { allRooms: 0, room: 1 } as const;

export class Dispatcher<State> implements Sink {
  readonly #logger: Logger;
  readonly #allRooms: Handlers<PresenceEvent<State>>;
  readonly #rooms = new Map<string, Handlers<PresenceEvent<State>>>();
  readonly #listeners: { [Name in keyof ClientEvents]: Handlers<ClientEvents[Name]> };

  constructor(logger: Logger) {
    this.#logger = logger;
    this.#allRooms = new Handlers('Presence event', logger);
    this.#listeners = {
      resync: new Handlers('resync', logger),
      error: new Handlers('error', logger),
      state: new Handlers('state', logger),
    };
  }

  /** Adds a handler of one room, or of all; returns what removes it. */
  addPresence(
    roomId: string | undefined,
    handler: (event: PresenceEvent<State>) => unknown,
  ): () => void {
    if (roomId === undefined) {
      return this.#allRooms.add(handler);
    }
    let handlers = this.#rooms.get(roomId);
    if (handlers === undefined) {
      handlers = new Handlers('Presence event', this.#logger);
      this.#rooms.set(roomId, handlers);
    }
    const ofRoom = handlers;
    const remove = ofRoom.add(handler);
    return () => {
      remove();
      if (ofRoom.size === 0 && this.#rooms.get(roomId) === ofRoom) {
        this.#rooms.delete(roomId);
      }
    };
  }

  addListener<Name extends keyof ClientEvents>(
    name: Name,
    handler: (event: ClientEvents[Name]) => unknown,
  ): () => void {
    return this.#handlersOf(name).add(handler);
  }

  event(feed: number, event: unknown): void {
    const presence = event as PresenceEvent<State>;
    const handlers = feed === FEEDS.allRooms ? this.#allRooms : this.#rooms.get(presence.roomId);
    handlers?.call(presence);
  }

  resync(reason: string): void {
    this.#handlersOf('resync').call({ reason } as ClientEvents['resync']);
  }

  state(state: string, detail: string): void {
    this.#handlersOf('state').call({ state } as ClientEvents['state']);
    if (state === 'disconnected') {
      const message = `The connection to Redis at ${detail} was lost; reconnecting`;
      this.#handlersOf('error').call(new RollcallError('UNAVAILABLE', message));
    }
  }

  log(level: string, message: string): void {
    try {
      this.#logger[level as keyof Logger]?.(message);
    } catch {
      // A logger that throws has nobody left to tell.
    }
  }

  #handlersOf<Name extends keyof ClientEvents>(name: Name): Handlers<ClientEvents[Name]> {
    return this.#listeners[name] as Handlers<ClientEvents[Name]>;
  }
}
