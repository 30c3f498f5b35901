// The public types: arguments, results, events, options. No code.

import type { RollcallError } from './errors.js';

/** A JSON object. */
export type JsonObject = { [key: string]: unknown };

/** Any value, for states without a known type. */
export type DefaultState = JsonObject;

/** One live connection in a room. */
export interface PresenceSnapshotEntry<State = DefaultState> {
  connId: string;
  userId: string;
  roomId: string;
  /** `null` if the stored value is not a JSON object (another program wrote it). */
  state: State | null;
  /**
   * The time of the last heartbeat or join: milliseconds since 1970, on Redis's clock. With
   * `liveness: "node"`, the time of the reading: the connection's node held its lease within
   * `nodeLeaseMs` before.
   */
  lastSeenMs: number;
  /** Grows with every join of the connection; calls with an older one are refused. */
  epoch: number;
}

/** All live connections of a user. */
export interface UserPresence<State = DefaultState> {
  userId: string;
  /** The distinct rooms, sorted. */
  rooms: string[];
  connections: PresenceSnapshotEntry<State>[];
}

interface PresenceEventBase {
  roomId: string;
  userId: string;
  connId: string;
  /** The time of the change: milliseconds since 1970, on Redis's clock. */
  ts: number;
  epoch: number;
}

/** A connection has joined a room. */
export interface PresenceJoinEvent<State = DefaultState> extends PresenceEventBase {
  type: 'join';
  state: State | null;
}

/** A connection's state has changed; `state` is the whole new state. */
export interface PresenceUpdateEvent<State = DefaultState> extends PresenceEventBase {
  type: 'update';
  state: State | null;
}

/** A connection has left a room. */
export interface PresenceLeaveEvent extends PresenceEventBase {
  type: 'leave';
  state: null;
  /**
   * `"left"`: `leave` was called; `"timeout"`: no heartbeat arrived within the TTL, or with
   * `liveness: "node"`, the node's lease ended, the node was closed, or `idleTimeoutMs` passed;
   * `"replaced"`: the connection joined another room, or under another user. Absent in events of
   * legacy servers (pure TypeScript).
   */
  reason?: 'left' | 'timeout' | 'replaced';
}

export type PresenceEvent<State = DefaultState> =
  | PresenceJoinEvent<State>
  | PresenceUpdateEvent<State>
  | PresenceLeaveEvent;

/** Receives presence events. Exceptions and rejections are logged and affect no other handler. */
export type PresenceHandler<State = DefaultState> = (event: PresenceEvent<State>) => unknown;

/** Ends a subscription. After it has resolved, the handler is not called any more. */
export type Unsubscribe = () => Promise<void>;

export interface JoinOptions<State = DefaultState> {
  roomId: string;
  userId: string;
  connId: string;
  /** Default `{}`. */
  state?: State | undefined;
  /** Whether to read the room after the join. Default `true`; `false` saves a round trip. */
  snapshot?: boolean | undefined;
}

export interface JoinResult<State = DefaultState> {
  epoch: number;
  /** The room after the join, including this connection; empty with `snapshot: false`. */
  snapshot: PresenceSnapshotEntry<State>[];
}

/** Top-level keys to set; `null` stores `null`, `undefined` removes the key. */
export type StatePatch<State = DefaultState> = {
  [Key in keyof State]?: State[Key] | null | undefined;
};

export interface HeartbeatOptions<State = DefaultState> {
  connId: string;
  /**
   * The epoch of the caller's join. A heartbeat with an older epoch than the stored one is refused
   * (`STALE_EPOCH`). A newer one is adopted, if it is at most one day ahead of the server's time;
   * with `layout: "slotted"`, where only joins assign epochs, the call fails with
   * `CONNECTION_NOT_FOUND`.
   */
  epoch?: number | undefined;
  patchState?: StatePatch<State> | undefined;
}

export interface HeartbeatResult {
  /** Whether the patch changed the state (and an `update` was published). */
  changed: boolean;
  epoch: number;
}

/** One result of `heartbeatMany`: the result of the heartbeat, or its error. */
export type HeartbeatManyResult = HeartbeatResult | Error;

export interface LeaveCallOptions {
  /**
   * The epoch of the caller's join. A connection with a newer one stays. Default: the epoch of this
   * client's own last join of the connection; none, if it never joined it or its last join has an
   * unknown outcome.
   */
  epoch?: number | undefined;
}

export interface LeaveResult {
  roomId: string;
  userId: string;
}

export interface SubscribeOptions {
  /** Only events of this room; the node then subscribes only to this room in Redis. */
  roomId?: string;
}

export interface EventsOptions extends SubscribeOptions {
  /** Ends the iteration. */
  signal?: AbortSignal;
  /** Maximum number of waiting events; above it the iteration fails. Default 10 000. */
  maxBuffered?: number;
}

export interface ReapResult {
  /** The number of inspected rooms. */
  rooms: number;
  /** The number of removed connections, each with its `leave`. */
  expired: number;
  durationMs: number;
}

/**
 * Why events may have been missed. After a lost connection it is emitted when calls work again:
 * `state` has been `"connected"` before, and handlers have received the events from before the gap.
 * On a cluster, where `state` covers all masters, it does not wait for masters that stay down.
 * After an overflow it is emitted at once, and `state` does not change.
 */
export interface ResyncEvent {
  /**
   * `"reconnected"`: the subscription's connection was lost and restored; `"overflow"`: events
   * arrived faster than the handlers processed them, and were dropped.
   */
  reason: 'reconnected' | 'overflow';
}

/** The state of the connection to Redis. */
export interface StateEvent {
  state: 'connected' | 'disconnected';
}

export interface ClientEvents {
  resync: ResyncEvent;
  error: RollcallError;
  state: StateEvent;
}

/** The target of Rollcall's log, for example `console`. Missing methods are skipped. */
export interface Logger {
  debug?(...args: unknown[]): void;
  info?(...args: unknown[]): void;
  warn?(...args: unknown[]): void;
  error?(...args: unknown[]): void;
}

/** Sizes in bytes of UTF-8, times in milliseconds. Above a limit: `INVALID_ARGUMENT`. */
export interface Limits {
  /** Maximum length of an id. Default 4096. */
  maxIdBytes?: number;
  /** Maximum length of a state as JSON. Default 1 MiB. */
  maxStateBytes?: number;
  /**
   * Maximum nesting of arrays and objects in a state, including the state itself; at most 1000.
   * Deeper states of other nodes are returned as `null`. Default 128.
   */
  maxDepth?: number;
  /** Maximum length of the key of a metadata item. Default 4096. */
  maxMetadataKeyBytes?: number;
  /** Maximum length of the value of a metadata item. Default 1 MiB. */
  maxMetadataValueBytes?: number;
  /** Maximum length of a channel's record: all its items as JSON. Default 8 MiB. */
  maxMetadataRecordBytes?: number;
  /**
   * Maximum number of heartbeats in one batch, and of changes of one channel in one commit. Default
   * 256.
   */
  maxBatchSize?: number;
  /**
   * Maximum number of pending heartbeats, and of pending metadata changes; above it they reject
   * with `OVERLOADED`. Default 100 000.
   */
  maxQueue?: number;
  /** Timeout of a command. Default 2000. */
  commandTimeoutMs?: number;
  /** Timeout of connecting. Default 5000. */
  connectTimeoutMs?: number;
  /**
   * Maximum number of events that wait for handlers; when the queue is full, queued events are
   * dropped and `resync` is emitted. Default 65 536.
   */
  maxEventQueue?: number;
  /** Maximum size of the events that wait for handlers, in bytes. Default 64 MiB. */
  maxEventQueueBytes?: number;
  /**
   * Maximum number of pending calls, without heartbeats; above it they reject with `OVERLOADED`.
   * Default 100 000.
   */
  maxPendingCalls?: number;
  /**
   * Maximum number of bytes in flight for these calls. Half of it is for requests; above it, calls
   * reject with `OVERLOADED`. Half is for answers: calls that read records, rooms or users wait
   * while earlier answers use the space, and reject with `OVERLOADED` after five times
   * `commandTimeoutMs`. Default 128 MiB.
   */
  maxInFlightBytes?: number;
}

/** TLS to the Redis servers; text is in PEM form. */
export interface TlsOptions {
  /**
   * The trusted certificates, instead of those of the system and of `NODE_EXTRA_CA_CERTS`:
   * authorities, or the server's own certificate.
   */
  ca?: string;
  /** Client certificate, for servers that ask for one. */
  cert?: string;
  key?: string;
  /** The name that the server's certificate must have. Default: the host. */
  servername?: string;
  /** `false` accepts any certificate. Default `true`. */
  rejectUnauthorized?: boolean;
}

/** The connections to the sentinels of a `redis-sentinel://` URL. */
export interface SentinelOptions {
  /** Credentials for the sentinels; those in the URL are for the Redis servers. */
  username?: string;
  password?: string;
  /** TLS to the sentinels (`{}`: with the system's certificates). Default: none. */
  tls?: TlsOptions;
}

/**
 * Locks on a majority of several independent servers: the Redlock algorithm. None of the servers may be
 * a replica of another.
 */
export interface QuorumOptions {
  /**
   * The servers, at least three. Default: those of `url`, if it names several. For locks that guard
   * metadata, `url` must be among them.
   */
  urls?: readonly string[];
  /** The maximum difference in the speed of clocks, as a fraction of a TTL. Default 0.01. */
  driftFactor?: number;
  /** The number of retries when no majority grants the lock. Default 3. */
  retryCount?: number;
  /** Pause before a retry. Milliseconds, default 200. */
  retryDelayMs?: number;
  /** Maximum random addition to a pause. Milliseconds, default 200. */
  retryJitterMs?: number;
}

/** The compression of states in Redis. Events and snapshots always carry uncompressed states. */
export interface StateCompression {
  /** States longer than this are compressed. Bytes of JSON, default 1024. */
  thresholdBytes?: number;
  /**
   * `"gzip"` (default): base64 of gzip, which legacy servers (pure TypeScript) with compression can
   * read. `"zstd"`: zstd with a dictionary for states, as bytes; smaller and several times faster,
   * readable only by Rollcall.
   */
  codec?: 'gzip' | 'zstd';
  /**
   * Zstd dictionaries that were trained on states like yours (`zstd --train`), instead of the
   * built-in one: they help with states of a few KB. `"zstd"` writes with the first; all of them
   * can be read. Every client must have a dictionary before the first one writes with it; a client
   * without it reads such a state as `null`. `INVALID_ARGUMENT` for an invalid dictionary.
   */
  dictionaries?: readonly Uint8Array[];
}

export interface ClientOptions {
  /**
   * `redis://`, `rediss://` or `redis+unix://`, with user, password and db as usual;
   * `redis-sentinel://user:password@host:26379,host:26379/<master>/<db>` for the master that these
   * sentinels name, now and after a failover;
   * `redis-cluster://user:password@host:7000,host:7001` for the cluster of which these are servers;
   * `memory://<name>` for an in-process store that clients of this process share under the name.
   * Default: an in-process store of the client's own.
   *
   * Several, of at least three independent servers: everything is on the first, but locks are on a
   * majority of all of them (Redlock; see {@link QuorumOptions}).
   */
  url?: string | readonly string[];
  /**
   * Uses TLS for the connections to the Redis servers, with any URL scheme (`{}`: with the system's
   * certificates). Refused with `redis+unix://` and `memory://`.
   */
  tls?: TlsOptions;
  sentinel?: SentinelOptions;
  /**
   * How long a connection lives without a heartbeat. Not used with `liveness: "node"`. Milliseconds,
   * default 30 000.
   */
  ttlMs?: number;
  /**
   * What keeps the connections of this client alive. `"heartbeat"` (default): their heartbeats.
   * `"node"`: the client itself, for servers that know when a client disconnects. It holds one lease
   * in Redis and answers for all connections that it joins. They need no heartbeats, and an idle
   * connection costs Redis only memory. They live until they leave, or until the lease ends because
   * the process ended or was cut off from Redis; then they leave with reason `"timeout"`. The client
   * must be referenced as long as it has connections. Clients of both kinds can share rooms, also
   * with legacy servers (pure TypeScript).
   */
  liveness?: 'heartbeat' | 'node';
  /**
   * With `liveness: "node"`: the length of the lease, which is renewed three times in this period.
   * After a crash, connections leave when it has passed; an outage of Redis that is longer may end
   * them too. Milliseconds, default 10 000.
   */
  nodeLeaseMs?: number;
  /**
   * With `liveness: "node"`: the lease is not renewed any more when the JavaScript thread has been
   * blocked for this long. Milliseconds, default 30 000.
   */
  nodeWatchdogMs?: number;
  /**
   * With `liveness: "node"`: how long connections stay in Redis if all Rollcall nodes have crashed,
   * so that none of them can remove the connections. They are refreshed three times in this period.
   * Milliseconds, default 3 600 000.
   */
  nodeBackstopMs?: number;
  /**
   * With `liveness: "node"`, where it is refused otherwise: a connection without a heartbeat for
   * this long leaves with reason `"timeout"`, up to a fifth of this time later. For clients that
   * send heartbeats and may disappear without a disconnection that the server notices.
   * Milliseconds, a whole number from 1. Default: no such limit.
   */
  idleTimeoutMs?: number;
  /**
   * Maximum delay between the end of a connection's TTL and its `leave` event. Milliseconds,
   * default 1000.
   */
  sweepIntervalMs?: number;
  /**
   * The trigger of the reaper. `"sweep"` (default): the clock. `"notifications"`: Redis's keyspace
   * notifications, with a sweep every `fallbackSweepMs` for lost notifications. `"both"`:
   * notifications, and a sweep every `sweepIntervalMs`. Existing flags of `notify-keyspace-events`
   * are kept; if `CONFIG` is forbidden, the reaper logs that once, and sweeps.
   */
  expiry?: 'sweep' | 'notifications' | 'both';
  /**
   * Maximum time until the reaper finds connections whose notifications were lost. In ten times
   * this interval it checks once that the indices of every room agree, and compares them with those
   * of users if there is a reason, or every fourth time. Milliseconds, default 30 000.
   */
  fallbackSweepMs?: number;
  /** Number of shards of the due index; the same on every node. Default 10. */
  shardCount?: number;
  /**
   * The layout of data over keys; the same on every node. `"v1"`: the layout of legacy nodes (pure
   * TypeScript). `"slotted"`: all data of a room in one hash slot, see docs/internals/cluster.md.
   * Default: `"slotted"` on a Redis Cluster, where `"v1"` is refused, and `"v1"` otherwise.
   */
  layout?: 'v1' | 'slotted';
  /**
   * The publishing of events on a Redis Cluster; the same on every node. `"sharded"`: only to the
   * servers of the room's slot; `"plain"`: to every server. Default `"auto"`: sharded if all
   * masters support it (Redis 7).
   */
  pubsub?: 'auto' | 'sharded' | 'plain';
  /** Prefix of every key and channel. Default `prs:`. */
  keyPrefix?: string;
  /**
   * Prefix of every channel, if it differs from that of keys: servers that use ioredis with a
   * `keyPrefix` prepend it only to keys. Default: `keyPrefix`.
   */
  channelPrefix?: string;
  /** How long a heartbeat waits for others to share its batch. Milliseconds, default 0. */
  batchWindowMs?: number;
  /** Locks on a majority of several servers. */
  locks?: QuorumOptions;
  /**
   * Where states are stored in Redis. `"inline"` (default): in the connection's hash, where legacy
   * servers read them. `"separate"`: in a separate key, so that patches of a large state transfer
   * and rewrite less; only if every server runs Rollcall. A connection's state stays where its join
   * has stored it; servers with different settings read each other's states.
   */
  stateStorage?: 'inline' | 'separate';
  /** Which states are stored compressed. Default: none. */
  stateCompression?: StateCompression;
  /**
   * How channel metadata are stored in Redis; the same on every node. `"hash"` (default): in a
   * hash, where legacy servers read them. `"json"`: as RedisJSON documents `{ majorRevision,
   * totalCount, items }`, of which an update writes only the changed items; on a server without
   * RedisJSON, `connect` rejects with `UNSUPPORTED`. RedisJSON cannot store a lone surrogate: such
   * keys and values are refused.
   */
  metadataStorage?: 'hash' | 'json';
  /**
   * The TTL of a record of channel metadata after a change without `options.ttlMs`; an expired
   * record behaves like one that never existed. Milliseconds, a whole number from 1. Default: no
   * expiry until the next change. The same on every node: the last change of a record sets its TTL.
   */
  metadataTtlMs?: number;
  /**
   * The channel types that contain a colon, such as `["doc:v2"]`; the same on every node. Default:
   * none, and a `channelType` with a colon is refused, because `("a:b", "c")` and `("a", "b:c")`
   * would have one key. The key of a declared type contains it unchanged; a channel of another type
   * with the same key is refused.
   */
  channelTypesWithColon?: readonly string[];
  limits?: Limits;
  /** Default: `console` for info, warnings and errors. */
  logger?: Logger;
}

/** A distribution of measured values. */
export interface Summary {
  count: number;
  mean: number;
  p50: number;
  p90: number;
  p99: number;
  max: number;
}

/** `client.metrics()`: counters since the client connected, current gauges, and distributions. */
export interface Metrics {
  joins: number;
  leaves: number;
  heartbeats: number;
  heartbeatsFailed: number;
  heartbeatBatches: number;
  /** Heartbeats and calls that were refused with `OVERLOADED`. */
  overloaded: number;
  events: number;
  /** Invalid messages on Rollcall's channels. */
  eventsMalformed: number;
  /** Stored states that could not be read, and were returned as `null`. */
  statesUnreadable: number;
  /** Events that were dropped because handlers were too slow. */
  eventsDropped: number;
  resyncs: number;
  disconnects: number;
  sweeps: number;
  sweepsFailed: number;
  roomsSwept: number;
  /** Connections that this node's reaper removed. */
  expired: number;
  /** Index entries that did not agree with the connections, and were repaired. */
  repairs: number;
  /** Times that this node lost its lease (`liveness: "node"`). */
  nodeLeasesLost: number;
  /** Connections that the store had lost, and that this node joined again. */
  connectionsRestored: number;
  /** Rooms that the reaper could not inspect, because another program has written their keys. */
  roomsCorrupt: number;
  /** Received notifications of expired connections. */
  notifications: number;
  /** Changes of metadata that were written. */
  metadataChanges: number;
  /** Metadata commits that were sent, each with the waiting changes of one channel. */
  metadataCommits: number;
  /** Commits that found a different record than the one that they were computed from. */
  metadataRetries: number;
  /** Locks that were granted. */
  locksAcquired: number;
  /** Calls for locks that failed, for any reason. */
  locksUnavailable: number;
  locksReleased: number;
  /** Locks that were lost: not renewed in time, revoked, or overwritten. */
  locksLost: number;
  /** Failed attempts to renew a lock; each is retried. */
  lockRenewalsFailed: number;
  lockEvents: number;
  heartbeatQueue: number;
  knownConnections: number;
  /** Metadata changes that wait or are in flight. */
  metadataQueue: number;
  /** Pending calls, without heartbeats. */
  pendingCalls: number;
  /** Bytes that these calls send. */
  requestBytes: number;
  /** Bytes of records, rooms and users that are being read for calls or wait in the queue. */
  answerBytes: number;
  locksHeld: number;
  /** Calls for locks that wait. */
  locksWaiting: number;
  heartbeatLatencyMs: Summary;
  callLatencyMs: Summary;
  heartbeatBatchSize: Summary;
  /** For passes with removals: the maximum delay after a TTL. */
  sweepLagMs: Summary;
  sweepDurationMs: Summary;
  /** Number of changes in a metadata commit. */
  metadataGroupSize: Summary;
  /** Time from the call for a lock to its grant. */
  lockWaitMs: Summary;
}
