// Dispatches events from the core to handlers: those of all rooms, channels and locks, those of
// single ones, and those of the client's own events. The bridge holds it, not the client: a
// subscription continues even if the client object is no longer referenced.

import { RollcallError } from './errors.js';
import { Handlers } from './handlers.js';
import type { LockEvent } from './lock-types.js';
import { log } from './log.js';
import type { MetadataEvent } from './metadata-types.js';
import type { Sink } from './native.js';
import type { ClientEvents, Logger, PresenceEvent } from './types.js';

/** The numbers of the core's feeds. */
export const FEEDS = {
  allRooms: 0,
  room: 1,
  allChannels: 2,
  channel: 3,
  allLocks: 4,
  lock: 5,
} as const;

/**
 * A channel's name in the core's feeds. Either id may contain a colon, so the length of the type
 * comes first.
 */
export function channelKey({ channelType, channelName }: ChannelId): string {
  return `${Buffer.byteLength(channelType)}:${channelType}${channelName}`;
}

interface ChannelId {
  channelType: string;
  channelName: string;
}

export class Dispatcher<State> implements Sink {
  readonly #logger: Logger;
  readonly #rooms: Feeds<PresenceEvent<State>>;
  readonly #channels: Feeds<MetadataEvent>;
  readonly #locks: Feeds<LockEvent>;
  readonly #listeners: { [Name in keyof ClientEvents]: Handlers<ClientEvents[Name]> };

  constructor(logger: Logger) {
    this.#logger = logger;
    this.#rooms = new Feeds('Presence event', logger);
    this.#channels = new Feeds('Metadata event', logger);
    this.#locks = new Feeds('Lock event', logger);
    this.#listeners = {
      resync: new Handlers('resync', logger),
      error: new Handlers('error', logger),
      state: new Handlers('state', logger),
    };
  }

  /** Adds a handler of one room, or of all; returns a function that removes it. */
  addPresence(
    roomId: string | undefined,
    handler: (event: PresenceEvent<State>) => unknown,
  ): () => void {
    return this.#rooms.add(roomId, handler);
  }

  /**
   * Adds a handler of one channel (its {@link channelKey}), or of all; returns a function that
   * removes it.
   */
  addMetadata(channel: string | undefined, handler: (event: MetadataEvent) => unknown): () => void {
    return this.#channels.add(channel, handler);
  }

  /** The same for the events of one lock, or of all. */
  addLock(name: string | undefined, handler: (event: LockEvent) => unknown): () => void {
    return this.#locks.add(name, handler);
  }

  addListener<Name extends keyof ClientEvents>(
    name: Name,
    handler: (event: ClientEvents[Name]) => unknown,
  ): () => void {
    return this.#handlersOf(name).add(handler);
  }

  event(feed: number, event: unknown): void {
    const presence = event as PresenceEvent<State>;
    const metadata = event as MetadataEvent;
    const lock = event as LockEvent;
    switch (feed) {
      case FEEDS.allRooms:
        this.#rooms.all.call(presence);
        break;
      case FEEDS.room:
        this.#rooms.of(presence.roomId)?.call(presence);
        break;
      case FEEDS.allChannels:
        this.#channels.all.call(metadata);
        break;
      case FEEDS.channel:
        this.#channels.of(channelKey(metadata))?.call(metadata);
        break;
      case FEEDS.allLocks:
        this.#locks.all.call(lock);
        break;
      case FEEDS.lock:
        this.#locks.of(lock.name)?.call(lock);
        break;
    }
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
    log(this.#logger, level as keyof Logger, message);
  }

  #handlersOf<Name extends keyof ClientEvents>(name: Name): Handlers<ClientEvents[Name]> {
    return this.#listeners[name] as Handlers<ClientEvents[Name]>;
  }
}

/** The handlers of one kind of event: those of all sources, and those of single ones by name. */
class Feeds<Event> {
  readonly all: Handlers<Event>;
  readonly #single = new Map<string, Handlers<Event>>();
  readonly #what: string;
  readonly #logger: Logger;

  constructor(what: string, logger: Logger) {
    this.all = new Handlers(what, logger);
    this.#what = what;
    this.#logger = logger;
  }

  of(name: string): Handlers<Event> | undefined {
    return this.#single.get(name);
  }

  add(name: string | undefined, handler: (event: Event) => unknown): () => void {
    if (name === undefined) {
      return this.all.add(handler);
    }
    const handlers = this.#single.get(name) ?? new Handlers(this.#what, this.#logger);
    this.#single.set(name, handlers);
    const remove = handlers.add(handler);
    return () => {
      remove();
      if (handlers.size === 0 && this.#single.get(name) === handlers) {
        this.#single.delete(name);
      }
    };
  }
}
