// PresenceService: the interface of the legacy implementation, on a PresenceClient.

import { HEARTBEAT_FIELDS, JOIN_FIELDS, LEAVE_FIELDS, PresenceClient } from '../client.js';
import { hasCode, RollcallError } from '../errors.js';
import { logWarning } from '../log.js';
import type { ChannelMetadata, MetadataHandler, UpdateMetadata } from '../metadata-types.js';
import type {
  ClientOptions,
  DefaultState,
  HeartbeatOptions,
  HeartbeatResult,
  JoinOptions,
  LeaveCallOptions,
  LeaveResult,
  Logger,
  PresenceHandler,
  PresenceSnapshotEntry,
  Unsubscribe,
} from '../types.js';
import {
  checkCount,
  checkHandler,
  checkLogger,
  checkOptionKinds,
  checkOptions,
  copyOf,
  readKnown,
} from '../validate.js';
import { type Bridge, bridge, type SocketBridgeOptions } from './bridge.js';
import {
  type ChannelMetadataParams,
  changeOf,
  epochOf,
  eventOf,
  isRead,
  known,
  recordOf,
} from './coerce.js';
import {
  type ConnectionWatcher,
  type HeartbeatReport,
  REPORT,
  WATCH,
  WatchedConnections,
} from './connections.js';
import { isMock, MOCK_NOTICE } from './mock.js';
import { given } from './redis-options.js';
import { untilDone } from './retry.js';
import { connectionSettings, type RedisSource } from './settings.js';
import type { RoomEmitter } from './socket-types.js';

/** Options of the client that the legacy implementation does not have. */
export type ServiceClientOptions = Omit<
  ClientOptions,
  | 'url'
  | 'tls'
  | 'sentinel'
  | 'ttlMs'
  | 'liveness'
  | 'nodeLeaseMs'
  | 'nodeWatchdogMs'
  | 'sweepIntervalMs'
  | 'logger'
>;

export interface PresenceServiceOptions {
  /**
   * How long a connection lives without a heartbeat. Not used with `liveness: "node"`. Milliseconds,
   * default 30 000.
   */
  ttlMs?: number | undefined;
  /**
   * With `"node"`, connections need no heartbeats: they live until they leave, or until this server
   * ends or is cut off from Redis. See {@link ClientOptions.liveness}. Default `"heartbeat"`.
   */
  liveness?: ClientOptions['liveness'] | undefined;
  /** See {@link ClientOptions.nodeLeaseMs}. Milliseconds, default 10 000. */
  nodeLeaseMs?: number | undefined;
  /** See {@link ClientOptions.nodeWatchdogMs}. Milliseconds, default 30 000. */
  nodeWatchdogMs?: number | undefined;
  /**
   * Maximum delay between the end of a connection's TTL and its removal. Milliseconds, default
   * 3000.
   */
  reaperIntervalMs?: number | undefined;
  /**
   * Checked and not used: a connection is removed when its TTL ends, so the reaper does not have to
   * look back.
   */
  reaperLookbackMs?: number | undefined;
  /** Default: `console` for info, warnings and errors. */
  logger?: Logger | undefined;
  /** Further options of the underlying client. */
  client?: ServiceClientOptions | undefined;
}

/**
 * Presence with the interface of the legacy implementation (pure TypeScript). Connects to the same
 * server with the same settings as the given Redis client, with separate connections.
 *
 * The first call connects; a call that cannot reach Redis rejects, and the next one retries. Every
 * method that returns a Promise rejects with a {@link RollcallError}.
 */
export class PresenceService<State extends object = DefaultState> {
  readonly #options: ClientOptions;
  readonly #logger: Logger;
  readonly #connections = new WatchedConnections();
  #opening: Promise<PresenceClient<State>> | undefined;
  /** The opened client, so that heartbeats do not wait for a Promise that has already settled. */
  #open: PresenceClient<State> | undefined;
  /** Fires at the next stop: earlier work must not continue after it. */
  #stop = new AbortController();
  #reaping = false;
  #ended = false;

  /**
   * @param redis - an ioredis client, a node-redis client (neither is used for commands, nor needs
   * to
   * be connected), or a URL.
   * @throws `INVALID_ARGUMENT` for invalid options, `UNSUPPORTED` for settings of the client that
   * Rollcall does not support.
   */
  constructor(redis: RedisSource, options: PresenceServiceOptions = {}) {
    checkOptions('PresenceService', options);
    const {
      ttlMs = 30_000,
      liveness,
      nodeLeaseMs,
      nodeWatchdogMs,
      reaperIntervalMs = 3_000,
      reaperLookbackMs,
      logger,
      client = {},
    } = readKnown(options, SERVICE_FIELDS) as PresenceServiceOptions;
    checkCount('ttlMs', ttlMs);
    const ownership = given({ liveness, nodeLeaseMs, nodeWatchdogMs });
    checkOptionKinds(ownership);
    checkCount('reaperIntervalMs', reaperIntervalMs);
    if (reaperLookbackMs !== undefined) {
      checkCount('reaperLookbackMs', reaperLookbackMs);
    }
    checkOptions('client', client);
    if (logger !== undefined) {
      checkLogger(logger);
    }
    this.#logger = logger ?? console;
    if (isMock(redis)) {
      logWarning(this.#logger, MOCK_NOTICE);
    }
    this.#options = {
      ...copyOf('client', client),
      ...connectionSettings(redis),
      ...ownership,
      ttlMs,
      sweepIntervalMs: Math.max(2, reaperIntervalMs),
      ...(logger === undefined ? {} : { logger }),
    };
  }

  /**
   * The underlying client, connected: for features that the legacy implementation does not have
   * (resync, users, locks, metrics).
   */
  client(): Promise<PresenceClient<State>> {
    if (this.#ended) {
      return Promise.reject(new RollcallError('CLOSED', 'presence was disposed'));
    }
    if (this.#opening === undefined) {
      const { signal } = this.#stop;
      const opening = PresenceClient.connect<State>(this.#options).then(
        (client) => {
          if (!signal.aborted) {
            this.#open = client;
          }
          return client;
        },
        (error) => {
          if (!signal.aborted) {
            this.#opening = undefined;
          }
          throw error;
        },
      );
      this.#opening = opening;
    }
    return this.#opening;
  }

  /**
   * Adds a connection to a room; if it is in another one, it leaves that room first.
   *
   * @returns the room's live connections, including this one.
   */
  async join(
    options: Omit<JoinOptions<State>, 'snapshot'>,
  ): Promise<PresenceSnapshotEntry<State>[]> {
    const joined = await this.#with((client) => {
      const fields = joinOf(options);
      const joining = client.join(fields);
      // The client refuses values that could not be read.
      if (fields !== options && typeof fields.connId === 'string') {
        const { connId, roomId, userId, state } = fields;
        const epoch = joining.then((result) => result.epoch);
        this.#connections.joining(connId, { roomId, userId, state }, epoch);
      }
      return joining;
    });
    return joined.snapshot;
  }

  /**
   * Refreshes a connection, and optionally changes its state.
   *
   * @returns whether the state has changed; also `false` for an unknown connection (it expired:
   * join again) and for an epoch that is older than the stored one.
   */
  heartbeat(options: HeartbeatOptions<State>): Promise<boolean> {
    const sent = this.#with((client) => client.heartbeat(heartbeatOf(options)));
    const report = reportOf(options);
    if (report === undefined) {
      return sent.then(changed, refused);
    }
    return sent.then(
      (result) => {
        report.result = result;
        return result.changed;
      },
      (error) => {
        const answer = refused(error);
        report.error = error;
        return answer;
      },
    );
  }

  /** The number of waiting heartbeats. */
  heartbeatsWaiting(): number {
    return this.#open?.metrics().heartbeatQueue ?? 0;
  }

  /**
   * Removes a connection from its room. With an epoch, a connection with a newer one stays;
   * without, a connection that another server has joined since this service did stays.
   *
   * @returns `null` if it is unknown, or has been joined since.
   */
  async leave(connId: string, options?: LeaveCallOptions): Promise<LeaveResult | null> {
    const left = await this.#with((client) =>
      options === undefined
        ? client.leave(connId)
        : client.leave(connId, known(options, LEAVE_FIELDS)),
    );
    if (left !== null) {
      this.#connections.left(connId);
    }
    return left;
  }

  /**
   * Notifies a watcher of all later calls for a connection.
   *
   * @internal
   */
  [WATCH](connId: string, watcher: ConnectionWatcher): () => void {
    return this.#connections.watch(connId, watcher);
  }

  /** The live connections of a room, in no particular order. */
  fetchRoomSnapshot(roomId: string): Promise<PresenceSnapshotEntry<State>[]> {
    return this.#with((client) => client.fetchRoomSnapshot(roomId));
  }

  /** Calls `handler` for each presence event of all rooms. */
  subscribe(handler: PresenceHandler<State>): Promise<Unsubscribe> {
    return this.#with((client) => client.subscribe(handler));
  }

  /** Calls `handler` for each metadata event of all channels. */
  async subscribeMetadata(handler: MetadataHandler): Promise<Unsubscribe> {
    const onEvent: MetadataHandler = handler;
    checkHandler('handler', handler);
    return this.#with((client) => client.metadata.subscribe((event) => onEvent(eventOf(event))));
  }

  /**
   * Replaces a channel's record.
   *
   * @throws {@link MetadataConflictError}, {@link MetadataLockError}
   */
  setChannelMetadata(params: ChannelMetadataParams): Promise<ChannelMetadata> {
    return this.#with((client) => client.metadata.set(changeOf(params))).then(recordOf);
  }

  /**
   * Changes existing items.
   *
   * @throws {@link MetadataConflictError}, {@link MetadataLockError}, {@link
   * MetadataValidationError}
   */
  updateChannelMetadata(params: ChannelMetadataParams): Promise<ChannelMetadata> {
    return this.#with((client) => client.metadata.update(changeOf(params) as UpdateMetadata)).then(
      recordOf,
    );
  }

  /**
   * Removes the named items, or all.
   *
   * @throws {@link MetadataConflictError}, {@link MetadataLockError}
   */
  removeChannelMetadata(params: ChannelMetadataParams): Promise<ChannelMetadata> {
    return this.#with((client) => client.metadata.remove(changeOf(params))).then(recordOf);
  }

  /** A channel's record; for an unknown channel, one without items and with major revision 0. */
  getChannelMetadata(params: ChannelMetadataParams): Promise<ChannelMetadata> {
    return this.#with((client) => client.metadata.get(known(params, GET_FIELDS))).then(recordOf);
  }

  /**
   * Emits every presence event to the sockets of its room, and every metadata event to those of the
   * room with the channel's name: `adapter.to(room).emit(event, payload)`. If the adapter is a
   * Socket.IO server, it emits only to the sockets of this process, because every process has a
   * bridge. When events may have been missed, every room with sockets here gets `presence:resync`
   * with a snapshot.
   */
  createSocketBridge(adapter: RoomEmitter, options: SocketBridgeOptions = {}): Promise<Bridge> {
    return bridge(this, adapter, options, this.#logger, this.#stop.signal);
  }

  /**
   * Lets this node remove dead connections, each with one `leave`, for any number of nodes. Retries
   * while Redis is down, and logs failures.
   */
  startReaper(): void {
    if (this.#reaping) {
      return;
    }
    this.#reaping = true;
    const { signal } = this.#stop;
    untilDone(
      'Starting the presence reaper',
      async () => (await this.client()).startReaper(),
      signal,
      this.#logger,
    ).catch(() => {
      // The failure is logged; a later call may retry.
      if (!signal.aborted) {
        this.#reaping = false;
      }
    });
  }

  /**
   * Ends the reaper and all subscriptions, and closes the connections. Joined connections stay
   * until they leave or their TTL ends; with `liveness: "node"` they leave now. A later call
   * reconnects, as a call with the server's own ioredis client would still be answered.
   */
  async stop(): Promise<void> {
    this.#stop.abort();
    this.#stop = new AbortController();
    this.#reaping = false;
    const opening = this.#opening;
    this.#opening = undefined;
    this.#open = undefined;
    const client = await opening?.catch(() => undefined);
    await client?.close();
  }

  /**
   * Stops permanently: later calls reject with `CLOSED`.
   *
   * @internal
   */
  end(): Promise<void> {
    this.#ended = true;
    return this.stop();
  }

  /** Synchronously if there is a client, so that later changes of the arguments are not sent. */
  #with<T>(call: (client: PresenceClient<State>) => Promise<T>): Promise<T> {
    if (this.#open === undefined) {
      return this.client().then(call);
    }
    try {
      return call(this.#open);
    } catch (error) {
      return Promise.reject(error);
    }
  }
}

const SERVICE_FIELDS = [
  'ttlMs',
  'liveness',
  'nodeLeaseMs',
  'nodeWatchdogMs',
  'reaperIntervalMs',
  'reaperLookbackMs',
  'logger',
  'client',
] as const satisfies readonly (keyof PresenceServiceOptions)[];

/** The legacy implementation ignores the actor of a read. */
const GET_FIELDS = ['channelName', 'channelType'] as const;
const LEGACY_JOIN_FIELDS = JOIN_FIELDS.filter((field) => field !== 'snapshot');

function joinOf<State extends object>(
  options: Omit<JoinOptions<State>, 'snapshot'>,
): Omit<JoinOptions<State>, 'snapshot'> {
  const join = known(options, LEGACY_JOIN_FIELDS);
  if (isRead(join, options)) {
    join.state ??= undefined;
  }
  return join;
}

function heartbeatOf<State extends object>(
  options: HeartbeatOptions<State>,
): HeartbeatOptions<State> {
  const heartbeat = known(options, HEARTBEAT_FIELDS);
  if (!isRead(heartbeat, options)) {
    return options;
  }
  heartbeat.patchState ??= undefined;
  if (heartbeat.epoch !== undefined) {
    heartbeat.epoch = epochOf(heartbeat.epoch) as number;
  }
  return heartbeat;
}

function reportOf(options: object): HeartbeatReport | undefined {
  try {
    return (options as { [REPORT]?: HeartbeatReport })[REPORT];
  } catch {
    // A Proxy that throws; the client reports it.
    return undefined;
  }
}

function changed({ changed }: HeartbeatResult): boolean {
  return changed;
}

function refused(error: unknown): boolean {
  if (hasCode(error, 'CONNECTION_NOT_FOUND', 'STALE_EPOCH')) {
    return false;
  }
  throw error;
}
