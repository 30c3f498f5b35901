// PresenceClient: the public class. Checks arguments that only JavaScript can check, passes calls
// to the core through the bridge, and passes events to handlers.

import { Dispatcher, FEEDS } from './dispatcher.js';
import { invalid, RollcallError } from './errors.js';
import { iterate } from './events.js';
import type { Patch } from './heartbeats.js';
import { Locks } from './locks.js';
import { addMembers, type MemberColumns } from './members.js';
import { Metadata } from './metadata.js';
import { Bridge } from './native.js';
import type { OwnershipOptions } from './owned-connections.js';
import { Session } from './session.js';
import type {
  ClientEvents,
  ClientOptions,
  DefaultState,
  EventsOptions,
  HeartbeatManyResult,
  HeartbeatOptions,
  HeartbeatResult,
  JoinOptions,
  JoinResult,
  LeaveCallOptions,
  LeaveResult,
  Logger,
  Metrics,
  PresenceEvent,
  PresenceHandler,
  PresenceSnapshotEntry,
  ReapResult,
  SubscribeOptions,
  Unsubscribe,
  UserPresence,
} from './types.js';
import {
  checkEpoch,
  checkFlag,
  checkHandler,
  checkId,
  checkLogger,
  checkOptions,
  displayValue,
  isArray,
  optionsText,
  ownershipOptions,
  patchTexts,
  readFields,
  readItems,
  refuseUnknown,
  stateText,
  unreadable,
} from './validate.js';

export const JOIN_FIELDS = ['roomId', 'userId', 'connId', 'state', 'snapshot'] as const;
export const HEARTBEAT_FIELDS = ['connId', 'epoch', 'patchState'] as const;
export const LEAVE_FIELDS = ['epoch'] as const;
const EVENTS = ['resync', 'error', 'state'] as const;

const consoleLogger: Logger = {
  info: (...args) => console.info('[rollcall]', ...args),
  warn: (...args) => console.warn('[rollcall]', ...args),
  error: (...args) => console.error('[rollcall]', ...args),
};

// PresenceClient's constructor is not public; `connect` passes this value to identify itself.
const INTERNAL = Symbol('PresenceClient.connect');

/**
 * Presence on Redis, or in the process. Create one with {@link PresenceClient.connect} and share
 * it: a client has one connection for commands and, after the first subscription, one for events.
 *
 * Every method that returns a Promise rejects with a {@link RollcallError}; none throws.
 */
export class PresenceClient<State extends object = DefaultState> {
  readonly #session: Session;
  readonly #dispatcher: Dispatcher<State>;
  /** Named locks: leases with fencing tokens, used alone or to guard metadata. */
  readonly locks: Locks;
  /** Channel metadata: a small versioned record of items for each channel. */
  readonly metadata: Metadata;

  private constructor(internal: symbol, logger: Logger, ownership: OwnershipOptions | undefined) {
    if (internal !== INTERNAL) {
      throw invalid('use PresenceClient.connect(…) in place of new PresenceClient(…)');
    }
    this.#dispatcher = new Dispatcher(logger);
    this.#session = new Session(new Bridge(this.#dispatcher, ownership));
    this.locks = new Locks(this.#session, this.#dispatcher);
    this.metadata = new Metadata(this.#session, this.#dispatcher);
  }

  /**
   * Connects to a store.
   *
   * @param target - a URL (`redis://`, `rediss://`, `redis+unix://`, `redis-sentinel://`,
   * `redis-cluster://`, `memory://<name>`), the URLs of several independent servers (see
   * {@link ClientOptions.url}), or {@link ClientOptions}. Default: an in-process store for this
   * client only.
   * @throws `UNAVAILABLE` if no server answers within `limits.connectTimeoutMs`, `PERMISSION` for a
   * wrong password, `INVALID_ARGUMENT` for invalid options.
   */
  static async connect<State extends object = DefaultState>(
    target?: string | readonly string[] | ClientOptions,
  ): Promise<PresenceClient<State>> {
    const given = isUrl(target) ? { url: target } : target === undefined ? {} : target;
    checkOptions('connect', given);
    let logger: Logger;
    let options: Omit<ClientOptions, 'logger'>;
    try {
      ({ logger = consoleLogger, ...options } = given);
    } catch (error) {
      throw unreadable(given, namesIn(given), error);
    }
    checkLogger(logger);
    const text = optionsText(options);
    return PresenceClient.#open<State>(text, logger, ownershipOptions(options));
  }

  static async #open<State extends object>(
    options: string,
    logger: Logger,
    ownership: OwnershipOptions | undefined,
  ): Promise<PresenceClient<State>> {
    const client = new PresenceClient<State>(INTERNAL, logger, ownership);
    await client.#session.call('connect', options, logger !== consoleLogger);
    client.#session.bridge.owned?.start();
    return client;
  }

  /**
   * Adds a connection to a room. If it is in another room, or under another user, it leaves that
   * place first, in the same atomic step.
   *
   * @returns its epoch, and the room's live connections (unless `snapshot: false`).
   * @throws `INVALID_ARGUMENT`, `UNAVAILABLE`, `TIMEOUT`, `PERMISSION`, `CLOSED`
   */
  async join(options: JoinOptions<State>): Promise<JoinResult<State>> {
    checkOptions('join', options);
    const { roomId, userId, connId, state, snapshot } = readFields('join', options, JOIN_FIELDS);
    checkId('roomId', roomId);
    checkId('userId', userId);
    checkId('connId', connId);
    const text = stateText('state', state);
    const withSnapshot = checkFlag('snapshot', snapshot, true);
    const members: PresenceSnapshotEntry<State>[] = [];
    const send = () =>
      this.#session.callInPieces(
        'join',
        (piece: MemberColumns) => addMembers(members, piece),
        roomId,
        userId,
        connId,
        text,
        withSnapshot,
      ) as Promise<number>;
    const { owned } = this.#session.bridge;
    const epoch = await (owned === undefined ? send() : owned.join(connId, send));
    return { epoch, snapshot: members };
  }

  /**
   * Refreshes a connection, and optionally changes its state. The cost for the event loop is very
   * small: heartbeats that arrive while others are in flight are sent in one batch. With `liveness:
   * "node"`, a heartbeat without a patch of this client's own connection is not sent at all.
   *
   * @throws `CONNECTION_NOT_FOUND` (expired or never joined: join again), `STALE_EPOCH`,
   * `INVALID_ARGUMENT`, `OVERLOADED`, `UNAVAILABLE`, `TIMEOUT`, `CLOSED`
   */
  heartbeat(options: HeartbeatOptions<State>): Promise<HeartbeatResult> {
    try {
      checkOptions('heartbeat', options);
      return this.#heartbeat(options);
    } catch (error) {
      return Promise.reject(error);
    }
  }

  /**
   * Sends heartbeats of many connections in one call.
   *
   * @returns one result for each item, in order. The result of a failed item is its error.
   */
  async heartbeatMany(items: readonly HeartbeatOptions<State>[]): Promise<HeartbeatManyResult[]> {
    if (!isArray(items)) {
      throw invalid('heartbeatMany takes an array');
    }
    const all = readItems('heartbeatMany', items);
    this.#session.checkOpen();
    const many = this.#session.bridge.heartbeats.many(all.length);
    for (let place = 0; place < all.length; place++) {
      try {
        const item = all[place];
        if (typeof item !== 'object' || item === null || isArray(item)) {
          checkOptions(`heartbeatMany: item ${place}`, item);
        }
        const { connId, fence, patch } = heartbeatArguments(item as HeartbeatOptions<State>);
        many.add(place, connId, fence, patch);
      } catch (error) {
        many.settle(place, error as Error);
      }
    }
    return many.results();
  }

  /**
   * Removes a connection from its room, unless it has been joined again since: with a lower epoch
   * than the stored one, nothing happens. The epoch is {@link LeaveCallOptions.epoch}, or by
   * default that of this client's own last join of the connection. A client that never joined the
   * connection removes it unconditionally.
   *
   * @returns its previous place, or `null` if it is unknown (it left, or its TTL ended) or has a
   * newer epoch.
   * @throws `INVALID_ARGUMENT`, `UNAVAILABLE`, `TIMEOUT`, `PERMISSION`, `CLOSED`
   */
  async leave(connId: string, options: LeaveCallOptions = {}): Promise<LeaveResult | null> {
    checkId('connId', connId);
    checkOptions('leave', options);
    const fence = checkEpoch(readFields('leave', options, LEAVE_FIELDS).epoch);
    const send = () => this.#session.call('leave', connId, fence) as Promise<LeaveResult | null>;
    const { owned } = this.#session.bridge;
    return owned === undefined ? send() : owned.leave(connId, fence, send);
  }

  /** The epoch of a connection; `null` if it is unknown. */
  async getEpoch(connId: string): Promise<number | null> {
    checkId('connId', connId);
    return (await this.#session.call('epoch', connId)) as number | null;
  }

  /** The live connections of a room, in no particular order. */
  async fetchRoomSnapshot(roomId: string): Promise<PresenceSnapshotEntry<State>[]> {
    checkId('roomId', roomId);
    const members: PresenceSnapshotEntry<State>[] = [];
    const take = (piece: MemberColumns) => addMembers(members, piece);
    await this.#session.callInPieces('roomSnapshot', take, roomId);
    return members;
  }

  /** The live connections of a user, in all rooms. */
  async getUserPresence(userId: string): Promise<UserPresence<State>> {
    checkId('userId', userId);
    const connections: PresenceSnapshotEntry<State>[] = [];
    const take = (piece: MemberColumns) => addMembers(connections, piece);
    const rooms = await this.#session.callInPieces('userPresence', take, userId);
    return { userId, rooms: rooms as string[], connections };
  }

  /**
   * Calls `handler` for each presence event of all rooms, or of one. Resolves when Redis has
   * confirmed the subscription: no later event is missed. The events of a room arrive in the order
   * in which Redis applied the changes.
   *
   * @returns a function that ends the subscription. An open subscription keeps the process alive.
   */
  async subscribe(
    handler: PresenceHandler<State>,
    options: SubscribeOptions = {},
  ): Promise<Unsubscribe> {
    checkHandler('handler', handler);
    checkOptions('subscribe', options);
    const { roomId } = readFields('subscribe', options, ['roomId']);
    if (roomId !== undefined) {
      checkId('roomId', roomId);
    }
    const remove = this.#dispatcher.addPresence(roomId, handler);
    const feed = roomId === undefined ? FEEDS.allRooms : FEEDS.room;
    return this.#session.subscribe(feed, roomId ?? '', remove);
  }

  /**
   * The presence events as an async iterable. The subscription starts with the first `next()` and
   * ends with the loop, with `signal`, or with {@link close}.
   *
   * @throws `OVERLOADED` if more than `maxBuffered` events wait in the buffer.
   */
  events(options: EventsOptions = {}): AsyncGenerator<PresenceEvent<State>, void, undefined> {
    return iterate<PresenceEvent<State>>(
      (handler, roomId) => this.subscribe(handler, roomId === undefined ? {} : { roomId }),
      (ended) => this.#session.onClose(ended),
      options,
    );
  }

  /**
   * Adds a handler for an event of the client:
   *
   * - `resync`: events may have been missed (once for each gap): read snapshots again. Calls work: it
   *   is emitted after `state`;
   * - `state`: the connection to Redis was lost or restored;
   * - `error`: a failure that belongs to no call.
   *
   * @returns a function that removes the handler.
   */
  on<Name extends keyof ClientEvents>(
    name: Name,
    handler: (event: ClientEvents[Name]) => unknown,
  ): () => void {
    if (!EVENTS.includes(name)) {
      const given = typeof name === 'string' ? JSON.stringify(name) : displayValue(name);
      throw invalid(`there is no event ${given}; there are ${EVENTS.join(', ')}`);
    }
    checkHandler('handler', handler);
    return this.#dispatcher.addListener(name, handler);
  }

  /**
   * Lets this node remove dead connections, each within `sweepIntervalMs` of its TTL and with
   * exactly one `leave`, for any number of nodes. Does not keep the process alive.
   */
  async startReaper(): Promise<void> {
    await this.#session.call('startReaper');
  }

  /**
   * Runs one full pass of the reaper. A part that cannot be processed (a master of a cluster is
   * down, a room's keys have other types) is logged and left for the next pass.
   *
   * @throws `UNAVAILABLE`, `TIMEOUT` if nothing could be processed.
   */
  async reapOnce(): Promise<ReapResult> {
    return (await this.#session.call('reapOnce')) as ReapResult;
  }

  /** Counters, gauges and latencies of this client. */
  metrics(): Metrics {
    const { bridge } = this.#session;
    const metrics = bridge.metrics() as Metrics;
    metrics.heartbeats += bridge.owned?.answered ?? 0;
    return metrics;
  }

  /**
   * Sends waiting calls, settles every Promise, and closes the connections. Connections that this
   * client has joined stay until they leave or their TTL ends; with `liveness: "node"` they leave
   * now, with reason `"timeout"`. Locks that it holds are released, and calls that wait for a lock
   * reject. Later calls reject with `CLOSED`; a second close waits for the first.
   */
  close(): Promise<void> {
    return this.#session.close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  #heartbeat(options: HeartbeatOptions<State>): Promise<HeartbeatResult> {
    const { connId, fence, patch } = heartbeatArguments(options);
    this.#session.checkOpen();
    return this.#session.bridge.heartbeats.one(connId, fence, patch);
  }
}

function isUrl(target: unknown): target is string | readonly string[] {
  return typeof target === 'string' || isArray(target);
}

function namesIn(options: object): string[] {
  try {
    return Object.keys(options);
  } catch {
    return [];
  }
}

/** Checks the options of a heartbeat and converts them for the core. */
function heartbeatArguments(options: HeartbeatOptions<object>): {
  connId: string;
  fence: number;
  patch: Patch | undefined;
} {
  let connId: unknown, epoch: unknown, patchState: unknown;
  try {
    ({ connId, epoch, patchState } = options);
    // `for … in` creates no array, which would be most of a heartbeat's cost here.
    for (const name in options) {
      if (name !== 'connId' && name !== 'epoch' && name !== 'patchState') {
        refuseUnknown('heartbeat', options, name, HEARTBEAT_FIELDS);
      }
    }
  } catch (error) {
    throw error instanceof RollcallError ? error : unreadable(options, HEARTBEAT_FIELDS, error);
  }
  checkId('connId', connId);
  const fence = checkEpoch(epoch);
  const patch = patchState === undefined ? undefined : patchTexts('patchState', patchState);
  return { connId, fence, patch };
}
