// The public types: what calls take and give, events, options. No code.

import type { RollcallError } from './errors.js';

/** A JSON object. */
export type JsonObject = { [key: string]: unknown };

/** Any value, for states of which nothing more is known. */
export type DefaultState = JsonObject;

/** One live connection in a room. */
export interface PresenceSnapshotEntry<State = DefaultState> {
  connId: string;
  userId: string;
  roomId: string;
  /** `null` when what is stored is no JSON object (written by something else). */
  state: State | null;
  /** When the connection was last heard of: milliseconds since 1970, on Redis's clock. */
  lastSeenMs: number;
  /** Grows with every join of the connection; what carries an older one is refused. */
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
  /** When it happened: milliseconds since 1970, on Redis's clock. */
  ts: number;
  epoch: number;
}

/** A connection has joined a room. */
export interface PresenceJoinEvent<State = DefaultState> extends PresenceEventBase {
  type: 'join';
  state: State | null;
}

/** A connection's state has changed; `state` is the whole new one. */
export interface PresenceUpdateEvent<State = DefaultState> extends PresenceEventBase {
  type: 'update';
  state: State | null;
}

/** A connection has left a room. */
export interface PresenceLeaveEvent extends PresenceEventBase {
  type: 'leave';
  state: null;
  /**
   * `"left"`: somebody called `leave`; `"timeout"`: no heartbeat came within the TTL;
   * `"replaced"`: the connection joined another room, or under another user. Absent on events of
   * servers that do not run Rollcall.
   */
  reason?: 'left' | 'timeout' | 'replaced';
}

export type PresenceEvent<State = DefaultState> =
  | PresenceJoinEvent<State>
  | PresenceUpdateEvent<State>
  | PresenceLeaveEvent;

/** Gets presence events. What it throws or rejects with is logged and disturbs nobody else. */
export type PresenceHandler<State = DefaultState> = (event: PresenceEvent<State>) => unknown;

/** Ends a subscription. Once it has resolved, the handler is not called any more. */
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
  /** The room after the join, this connection included; empty with `snapshot: false`. */
  snapshot: PresenceSnapshotEntry<State>[];
}

/** Top-level keys to set; `null` stores `null`, `undefined` removes the key. */
export type StatePatch<State = DefaultState> = {
  [Key in keyof State]?: State[Key] | null | undefined;
};

export interface HeartbeatOptions<State = DefaultState> {
  connId: string;
  /**
   * The epoch of the caller's join. An older one than the stored is refused (`STALE_EPOCH`). A newer one is
   * adopted, if it is at most one day ahead of the server's time; with `layout: "slotted"`, where only joins
   * give epochs, there is no such connection (`CONNECTION_NOT_FOUND`).
   */
  epoch?: number | undefined;
  patchState?: StatePatch<State> | undefined;
}

export interface HeartbeatResult {
  /** Whether the patch changed the state (and an `update` was published). */
  changed: boolean;
  epoch: number;
}

/** One result of `heartbeatMany`: what the heartbeat came to, or the error it failed with. */
export type HeartbeatManyResult = HeartbeatResult | Error;

export interface LeaveCallOptions {
  /**
   * The epoch of the caller's join. A connection with a newer one stays. Default: that of this client's own
   * last join of the connection; none, if it never joined it or does not know how its last join ended.
   */
  epoch?: number | undefined;
}

export interface LeaveResult {
  roomId: string;
  userId: string;
}

export interface SubscribeOptions {
  /** Only events of this room; the node then follows only this room in Redis. */
  roomId?: string;
}

export interface EventsOptions extends SubscribeOptions {
  /** Ends the iteration. */
  signal?: AbortSignal;
  /** Most events that wait to be taken; beyond it the iteration fails. Default 10 000. */
  maxBuffered?: number;
}

export interface ReapResult {
  /** Rooms that were looked at. */
  rooms: number;
  /** Connections that were removed, each with its `leave`. */
  expired: number;
  durationMs: number;
}

/**
 * Why events may have been missed. After a lost connection it comes when calls work again: `state` has said
 * `"connected"` before, and handlers have got the events from before the gap. On a cluster, where `state` is
 * that of all masters, it does not wait for masters that stay away. After an overflow it comes at once, and `state` does not change.
 */
export interface ResyncEvent {
  /**
   * `"reconnected"`: the subscription's connection was lost and is back; `"overflow"`: events came
   * faster than the handlers took them, and were dropped.
   */
  reason: 'reconnected' | 'overflow';
}

/** The connection to Redis. */
export interface StateEvent {
  state: 'connected' | 'disconnected';
}

export interface ClientEvents {
  resync: ResyncEvent;
  error: RollcallError;
  state: StateEvent;
}

/** Where Rollcall logs; `console` fits. Missing methods are skipped. */
export interface Logger {
  debug?(...args: unknown[]): void;
  info?(...args: unknown[]): void;
  warn?(...args: unknown[]): void;
  error?(...args: unknown[]): void;
}

/** Sizes in bytes of UTF-8, times in milliseconds. Beyond a limit: `INVALID_ARGUMENT`. */
export interface Limits {
  /** Longest id. Default 4096. */
  maxIdBytes?: number;
  /** Longest state as JSON. Default 1 MiB. */
  maxStateBytes?: number;
  /**
   * How deep arrays and objects may be nested in a state, the state itself included; at most 1000.
   * States that other nodes nested deeper are shown as `null`. Default 128.
   */
  maxDepth?: number;
  /** Longest key of a metadata item. Default 4096. */
  maxMetadataKeyBytes?: number;
  /** Longest value of a metadata item. Default 1 MiB. */
  maxMetadataValueBytes?: number;
  /** Longest record of a channel: all its items as JSON. Default 8 MiB. */
  maxMetadataRecordBytes?: number;
  /** Most heartbeats in one batch, and most changes of one channel in one commit. Default 256. */
  maxBatchSize?: number;
  /**
   * Most heartbeats that are not settled, and most changes of metadata that are not; beyond it they
   * reject with `OVERLOADED`. Default 100 000.
   */
  maxQueue?: number;
  /** How long a command may take. Default 2000. */
  commandTimeoutMs?: number;
  /** How long connecting may take. Default 5000. */
  connectTimeoutMs?: number;
  /** Most events waiting for handlers; beyond it they are dropped and `resync` is told. Default 65 536. */
  maxEventQueue?: number;
  /** Most bytes of events waiting for handlers. Default 64 MiB. */
  maxEventQueueBytes?: number;
  /**
   * Most calls that are not settled, heartbeats aside; beyond it they reject with `OVERLOADED`.
   * Default 100 000.
   */
  maxPendingCalls?: number;
  /**
   * Most bytes that are in flight for these calls. Half of it is for what they send; beyond it they
   * reject with `OVERLOADED`. Half is for answers: calls that read records, rooms or users wait as long
   * as earlier answers take the room, and reject with `OVERLOADED` after five times `commandTimeoutMs`.
   * Default 128 MiB.
   */
  maxInFlightBytes?: number;
}

/** TLS to the Redis servers; texts are PEM. */
export interface TlsOptions {
  /**
   * The certificates to trust in place of the system's and those of `NODE_EXTRA_CA_CERTS`: authorities,
   * or the server's own.
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

/** How to talk to the sentinels of a `redis-sentinel://` URL. */
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
   * The servers, at least three. Default: those of `url`, where that names several. For locks that
   * guard metadata, `url` must be among them.
   */
  urls?: readonly string[];
  /** By how much clocks may differ in their speed, as part of a TTL. Default 0.01. */
  driftFactor?: number;
  /** How often it is tried again when no majority grants the lock. Default 3. */
  retryCount?: number;
  /** Pause before a try. Milliseconds, default 200. */
  retryDelayMs?: number;
  /** What a pause may be longer by, at random. Milliseconds, default 200. */
  retryJitterMs?: number;
}

/** How states are compressed in Redis. Events and snapshots always carry them as they are. */
export interface StateCompression {
  /** States longer than this are compressed. Bytes of JSON, default 1024. */
  thresholdBytes?: number;
  /**
   * `"gzip"` (default): base64 of gzip, which TypeScript servers with compression read.
   * `"zstd"`: zstd with a dictionary for states, as bytes; smaller and several times faster, read by
   * Rollcall alone.
   */
  codec?: 'gzip' | 'zstd';
  /**
   * Zstd dictionaries that were trained on states like yours (`zstd --train`), instead of the built-in
   * one: they help with states of a few KB. `"zstd"` writes with the first; all of them can be read.
   * Every client has to be given a dictionary before the first one writes with it; one that is missing
   * makes a state `null` there. `INVALID_ARGUMENT` for what is no dictionary.
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
   * Makes the connections to the Redis servers TLS ones, whatever the scheme of the URL (`{}`: with the
   * system's certificates). Refused beside `redis+unix://` and `memory://`.
   */
  tls?: TlsOptions;
  sentinel?: SentinelOptions;
  /** How long a connection lives without a heartbeat. Milliseconds, default 30 000. */
  ttlMs?: number;
  /** Within what time of its TTL a dead connection is removed. Milliseconds, default 1000. */
  sweepIntervalMs?: number;
  /**
   * What makes the reaper look. `"sweep"` (default): the clock. `"notifications"`: Redis's keyspace
   * notifications, with a sweep every `fallbackSweepMs` behind them for what they missed. `"both"`:
   * notifications, and a sweep every `sweepIntervalMs`. Flags of `notify-keyspace-events` that are
   * set are kept; where `CONFIG` is forbidden the reaper says so in the log, once, and sweeps.
   */
  expiry?: 'sweep' | 'notifications' | 'both';
  /**
   * Within what time the reaper finds what notifications missed. It checks that the indices of every
   * room agree once in ten times as long, and with those of users when there is reason to, or every fourth
   * time. Milliseconds, default 30 000.
   */
  fallbackSweepMs?: number;
  /** Shards of the index of due rooms; the same on every node. Default 10. */
  shardCount?: number;
  /**
   * How data are spread over keys; the same on every node. `"v1"`: as TypeScript nodes have them.
   * `"slotted"`: everything of a room in one hash slot, see docs/internals/cluster.md. Default: `"slotted"` on a
   * Redis Cluster, where `"v1"` is refused, and `"v1"` otherwise.
   */
  layout?: 'v1' | 'slotted';
  /**
   * How events are published on a Redis Cluster; the same on every node. `"sharded"`: to the servers of
   * the room's slot only; `"plain"`: to every server. Default `"auto"`: sharded where all masters can
   * do it (Redis 7).
   */
  pubsub?: 'auto' | 'sharded' | 'plain';
  /** Start of every key and channel. Default `prs:`. */
  keyPrefix?: string;
  /**
   * Start of every channel, where it is not that of keys: servers that use ioredis with a
   * `keyPrefix` have it before keys only. Default: `keyPrefix`.
   */
  channelPrefix?: string;
  /** How long a heartbeat waits for others to share its batch. Milliseconds, default 0. */
  batchWindowMs?: number;
  /** Locks on a majority of several servers. */
  locks?: QuorumOptions;
  /**
   * Where states are stored in Redis. `"inline"` (default): in the connection's hash, where
   * TypeScript servers read them. `"separate"`: in a key of their own, so that patches of a large
   * state move and rewrite less; for fleets in which every server runs Rollcall. A connection's
   * state stays where its join has put it; servers with different settings read each other's.
   */
  stateStorage?: 'inline' | 'separate';
  /** Which states are stored compressed. Default: none. */
  stateCompression?: StateCompression;
  /**
   * How channel metadata are stored in Redis; the same on every node. `"hash"` (default): in a hash,
   * where TypeScript servers read them. `"json"`: as RedisJSON documents `{ majorRevision, totalCount,
   * items }` of which an update writes only the items that it changes; on a server without RedisJSON,
   * `connect` rejects with `UNSUPPORTED`. RedisJSON cannot hold half of a surrogate pair: such keys
   * and values are refused.
   */
  metadataStorage?: 'hash' | 'json';
  /**
   * How long a record of channel metadata lives after a change without `options.ttlMs`; then it is as one
   * that never existed. Milliseconds, a whole number from 1. Default: until it is changed again. The same
   * on every node: the last change of a record decides.
   */
  metadataTtlMs?: number;
  /**
   * The channel types that hold a colon, such as `["doc:v2"]`; the same on every node. Default: none, and a
   * `channelType` with a colon is refused, because `("a:b", "c")` and `("a", "b:c")` would have one key. For a
   * declared type the key is that of the type; a channel of another type whose key would be the same is
   * refused.
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

/** `client.metrics()`: counters since the client connected, gauges of now, distributions. */
export interface Metrics {
  joins: number;
  leaves: number;
  heartbeats: number;
  heartbeatsFailed: number;
  heartbeatBatches: number;
  /** Heartbeats and calls that were refused with `OVERLOADED`. */
  overloaded: number;
  events: number;
  /** Messages on our channels that were no events of ours. */
  eventsMalformed: number;
  /** Stored states that could not be read, and were shown as `null`. */
  statesUnreadable: number;
  /** Events that were dropped because handlers did not take them in time. */
  eventsDropped: number;
  resyncs: number;
  disconnects: number;
  sweeps: number;
  sweepsFailed: number;
  roomsSwept: number;
  /** Connections that this node's reaper removed. */
  expired: number;
  /** Entries of indices that did not agree with the connections, and were put right. */
  repairs: number;
  /** Times that the reaper could not look at a room: something else has written under its names. */
  roomsCorrupt: number;
  /** Notifications of expired connections that came in. */
  notifications: number;
  /** Changes of metadata that were written. */
  metadataChanges: number;
  /** Commits of metadata that were sent, each with the changes of one channel that had come. */
  metadataCommits: number;
  /** Commits that found another record than the one that they were computed on. */
  metadataRetries: number;
  /** Locks that were granted. */
  locksAcquired: number;
  /** Calls for locks that failed, for whatever reason. */
  locksUnavailable: number;
  locksReleased: number;
  /** Locks that were lost: not renewed in time, revoked, or taken by others. */
  locksLost: number;
  /** Tries to renew a lock that failed; each is tried again. */
  lockRenewalsFailed: number;
  lockEvents: number;
  heartbeatQueue: number;
  knownConnections: number;
  /** Changes of metadata that wait to be sent or are on their way. */
  metadataQueue: number;
  /** Calls that are not settled, heartbeats aside. */
  pendingCalls: number;
  /** Bytes that these calls send. */
  requestBytes: number;
  /** Bytes of records, rooms and users that are being read for calls or wait to be taken. */
  answerBytes: number;
  locksHeld: number;
  /** Calls for locks that wait. */
  locksWaiting: number;
  heartbeatLatencyMs: Summary;
  callLatencyMs: Summary;
  heartbeatBatchSize: Summary;
  /** For passes that removed something: how long after its TTL the latest was removed. */
  sweepLagMs: Summary;
  sweepDurationMs: Summary;
  /** Changes in a commit of metadata. */
  metadataGroupSize: Summary;
  /** From the call for a lock to its grant. */
  lockWaitMs: Summary;
}
