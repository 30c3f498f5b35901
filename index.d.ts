// The public types of Rollcall. Generated from js/ by `npm run types`; do not edit.
/** How a lock is asked for. */
interface AcquireOptions {
    /** Who it is for: what `prs:lock:<name>` holds, as metadata guarded by the lock checks it. */
    ownerId: string;
    /**
     * How long the lock is held without a renewal. Milliseconds, at least 10, default 10 000. It is how
     * long others wait when this process dies.
     */
    ttlMs?: number;
    /**
     * How long the call may take in all: the time in the queue, and that for connecting, subscribing and
     * the answers of Redis. Milliseconds, default 0: now or not at all, within `limits.commandTimeoutMs`.
     * `Infinity`: until it is had, or `signal` ends it.
     */
    waitMs?: number;
    /**
     * Whether the lock is renewed at every third of its TTL until it is released, also while the
     * JavaScript thread is busy. Default `true`.
     */
    autoRenew?: boolean;
    /**
     * Ends the waiting: the call rejects with `LOCK_UNAVAILABLE`, whose `cause` is the signal's reason, and
     * its place in the queue is free.
     */
    signal?: AbortSignal;
}
/** A lock that is held. `await using` releases it. */
interface Lock {
    readonly name: string;
    readonly ownerId: string;
    /**
     * Greater than that of every grant of this name before. Whoever writes under the lock passes it on,
     * so that a write that comes late can be refused.
     */
    readonly fencingToken: number;
    /**
     * Until when the lock is certainly held, as it stands now: milliseconds since 1970 on this process's
     * clock. Moves on with every renewal.
     */
    readonly expiresAt: number;
    /**
     * Fires when the lock is lost: not renewed in time, revoked, or taken by others. It does so before
     * the lock can be anybody else's; its `reason` is a `LOCK_LOST` error. Looking at `aborted` checks
     * the clock, so that it is right even where the process was stopped a moment ago. It does not fire
     * for a release.
     */
    readonly lost: AbortSignal;
    /**
     * Gives the lock another TTL from now.
     *
     * @param ttlMs - the TTL, for this time and for renewals after it. Default: the one it has.
     * @throws `LOCK_LOST` if it is not held any more; then `lost` has fired.
     */
    extend(ttlMs?: number): Promise<void>;
    /**
     * Gives the lock up; the first in its queue gets it at once. The lock is not renewed from then on.
     * Calling it again gives the same Promise.
     *
     * @throws `LOCK_LOST` if it was not held any more. `UNAVAILABLE` or `TIMEOUT` with
     * `outcome: "unknown"` if Redis did not answer within `limits.commandTimeoutMs`: then the release is
     * tried again in the background until the lease has ended, and there is nothing left to do.
     */
    release(): Promise<void>;
    /** Releases it. That it was lost before is no error here: then it is gone, as wanted. */
    [Symbol.asyncDispose](): Promise<void>;
}
/** Who holds a lock. */
interface LockInspection {
    name: string;
    ownerId: string;
    /** `null` for a lock that something other than Rollcall has written. */
    fencingToken: number | null;
    /** How long it is still held unless it is renewed. Milliseconds; `null`: it never ends. */
    ttlMs: number | null;
    /** How many wait for it. */
    waiters: number;
}
/** What was revoked. */
interface RevokedLock {
    ownerId: string;
    /** `null` for a lock that something other than Rollcall has written. */
    fencingToken: number | null;
}
/** Something happened to a lock. Each comes exactly once. */
interface LockEvent {
    /**
     * `"acquired"`; `"released"` by its holder; `"expired"`: its time ran out; `"revoked"`: it was taken
     * away, by `revoke` or by something that deleted or overwrote its key.
     */
    type: 'acquired' | 'released' | 'expired' | 'revoked';
    name: string;
    ownerId: string;
    /** `null` for a lock that something other than Rollcall has written. */
    fencingToken: number | null;
    /** When it was noticed: milliseconds since 1970, on Redis's clock. */
    ts: number;
}
/** Gets lock events. What it throws or rejects with is logged and disturbs nobody else. */
type LockHandler = (event: LockEvent) => unknown;
interface LockSubscribeOptions {
    /** Only events of this lock. */
    name?: string;
}

/** What has metadata. */
interface ChannelRef {
    channelName: string;
    /** Must not hold a colon, unless it is declared in `channelTypesWithColon` of the client. */
    channelType: string;
}
interface GetMetadata extends ChannelRef {
    /** Who asks. Checked, and not used. */
    actorUserId?: string | undefined;
}
/** An item that a change names. */
interface MetadataItemInput {
    key: string;
    /** Not given: `""` in `set`, the value that is there in `update`. */
    value?: string | undefined;
    /**
     * In `set`: the item's revision, if positive; else it is 1. In `update`: the revision that the item
     * must have; not given or negative: any. With `upsert`, an item that does not exist has revision 0.
     */
    revision?: number | undefined;
}
interface MetadataOptions {
    /** The major revision that the record must have. Not given or negative: any. */
    majorRevision?: number | undefined;
    /** The lock that `actorUserId` must hold, checked in the same atomic step as the write. */
    lockName?: string | undefined;
    /** Whether the items get `updated`. Default `false`. */
    addTimestamp?: boolean | undefined;
    /** Whether the items get `authorUid`, from `actorUserId`. Default `false`. */
    addUserId?: boolean | undefined;
    /**
     * How long the record lives after this change; then it is as one that never existed. Milliseconds, a
     * whole number from 1. Each change decides anew. Default: the client's `metadataTtlMs`, and without
     * it until the record is changed again.
     */
    ttlMs?: number | undefined;
}
interface UpdateMetadataOptions extends MetadataOptions {
    /** Whether the record and the items that do not exist are created, with revision 1. Default `false`. */
    upsert?: boolean | undefined;
}
interface MetadataChange extends ChannelRef {
    options?: MetadataOptions | undefined;
    /** Who makes the change; becomes `authorUid` of the event. */
    actorUserId?: string | undefined;
    /**
     * The fencing token of the caller's grant of `options.lockName`: the change is refused if the lock
     * has been granted anew since.
     */
    fencingToken?: number | undefined;
}
interface SetMetadata extends MetadataChange {
    /** All items of the record. Default: none. Of several with one key the last counts. */
    data?: readonly MetadataItemInput[] | undefined;
}
interface UpdateMetadata extends MetadataChange {
    options?: UpdateMetadataOptions | undefined;
    /** The items to change, at least one. */
    data: readonly MetadataItemInput[];
}
interface RemoveMetadata extends MetadataChange {
    /** The items to remove; only `key` is looked at. Default, and if empty: all. */
    data?: readonly {
        key: string;
    }[] | undefined;
}
/** One item of a record. What other implementations stored in another form is as they stored it. */
interface MetadataItem {
    value: string;
    /** Grows by one with every update of the item. */
    revision: number;
    /** When it was last changed with `addTimestamp`: ISO 8601, on the server's clock. */
    updated?: string;
    /** Who last changed it with `addUserId`. */
    authorUid?: string;
}
/** A channel's record. */
interface ChannelMetadata extends ChannelRef {
    /** When this was so: milliseconds since 1970, on the server's clock. */
    timestamp: number;
    /** How many items there are. */
    totalCount: number;
    /** Grows by one with every change; 0 for a channel that never had metadata, or whose record expired. */
    majorRevision: number;
    metadata: Record<string, MetadataItem>;
}
/** A channel's record has changed. */
interface MetadataEvent extends ChannelRef {
    operation: 'set' | 'update' | 'remove';
    /** The items that were set, changed, or removed; those as they were. */
    items: {
        key: string;
        value: string;
        revision: number;
    }[];
    /** After the change. */
    majorRevision: number;
    /** Milliseconds since 1970, on the server's clock. */
    timestamp: number;
    /** The change's `actorUserId`. */
    authorUid?: string;
}
/** Gets metadata events. What it throws or rejects with is logged and disturbs nobody else. */
type MetadataHandler = (event: MetadataEvent) => unknown;
/** Both: events of this channel only; the node then follows only this channel in Redis. */
type MetadataSubscribeOptions = ChannelRef | {
    channelName?: never;
    channelType?: never;
};

/** The stable codes of Rollcall's errors. */
declare const ERROR_CODES: readonly ['INVALID_ARGUMENT', 'CONNECTION_NOT_FOUND', 'STALE_EPOCH', 'METADATA_INVALID', 'METADATA_CONFLICT', 'METADATA_LOCK', 'LOCK_UNAVAILABLE', 'LOCK_LOST', 'OVERLOADED', 'RATE_LIMITED', 'FORBIDDEN', 'ROOM_FULL', 'TIMEOUT', 'UNAVAILABLE', 'PERMISSION', 'UNSUPPORTED', 'CLOSED', 'CORRUPT_DATA', 'INTERNAL'];
/** A stable error code. */
type ErrorCode = (typeof ERROR_CODES)[number];
/** What every rejection of Rollcall is: an `Error` with a stable `code`. */
declare class RollcallError extends Error {
    name: string;
    /** What went wrong, for programs. */
    readonly code: ErrorCode;
    /**
     * `"unknown"` when the request may have been carried out although no answer came back (the
     * connection broke after it was sent); absent when it was certainly not.
     */
    readonly outcome?: 'unknown';
    /** With `METADATA_CONFLICT`: the record as it is, so that no second read is needed. */
    readonly current?: ChannelMetadata;
    constructor(code: ErrorCode, message: string, options?: {
        cause?: unknown;
        outcome?: 'unknown';
        current?: ChannelMetadata;
    });
}
type ErrorOptions = NonNullable<ConstructorParameters<typeof RollcallError>[2]>;
/** A change of metadata that was refused: `METADATA_CONFLICT`, `METADATA_LOCK` or `METADATA_INVALID`. */
declare class MetadataError extends RollcallError {
    name: string;
    /** The order of the arguments is that of the TypeScript implementation. */
    constructor(message: string, code?: ErrorCode, options?: ErrorOptions);
}
/** `METADATA_CONFLICT`: the record or an item has another revision than was expected. */
declare class MetadataConflictError extends MetadataError {
    name: string;
    constructor(message: string, options?: ErrorOptions);
}
/** `METADATA_LOCK`: the lock is not held, or by somebody else. */
declare class MetadataLockError extends MetadataError {
    name: string;
    constructor(message: string, options?: ErrorOptions);
}
/** `METADATA_INVALID`: the record or an item does not exist, or nothing was named. */
declare class MetadataValidationError extends MetadataError {
    name: string;
    constructor(message: string, options?: ErrorOptions);
}

/** A JSON object. */
type JsonObject = {
    [key: string]: unknown;
};
/** Any value, for states of which nothing more is known. */
type DefaultState = JsonObject;
/** One live connection in a room. */
interface PresenceSnapshotEntry<State = DefaultState> {
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
interface UserPresence<State = DefaultState> {
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
interface PresenceJoinEvent<State = DefaultState> extends PresenceEventBase {
    type: 'join';
    state: State | null;
}
/** A connection's state has changed; `state` is the whole new one. */
interface PresenceUpdateEvent<State = DefaultState> extends PresenceEventBase {
    type: 'update';
    state: State | null;
}
/** A connection has left a room. */
interface PresenceLeaveEvent extends PresenceEventBase {
    type: 'leave';
    state: null;
    /**
     * `"left"`: somebody called `leave`; `"timeout"`: no heartbeat came within the TTL;
     * `"replaced"`: the connection joined another room, or under another user. Absent on events of
     * servers that do not run Rollcall.
     */
    reason?: 'left' | 'timeout' | 'replaced';
}
type PresenceEvent<State = DefaultState> = PresenceJoinEvent<State> | PresenceUpdateEvent<State> | PresenceLeaveEvent;
/** Gets presence events. What it throws or rejects with is logged and disturbs nobody else. */
type PresenceHandler<State = DefaultState> = (event: PresenceEvent<State>) => unknown;
/** Ends a subscription. Once it has resolved, the handler is not called any more. */
type Unsubscribe = () => Promise<void>;
interface JoinOptions<State = DefaultState> {
    roomId: string;
    userId: string;
    connId: string;
    /** Default `{}`. */
    state?: State | undefined;
    /** Whether to read the room after the join. Default `true`; `false` saves a round trip. */
    snapshot?: boolean | undefined;
}
interface JoinResult<State = DefaultState> {
    epoch: number;
    /** The room after the join, this connection included; empty with `snapshot: false`. */
    snapshot: PresenceSnapshotEntry<State>[];
}
/** Top-level keys to set; `null` stores `null`, `undefined` removes the key. */
type StatePatch<State = DefaultState> = {
    [Key in keyof State]?: State[Key] | null | undefined;
};
interface HeartbeatOptions<State = DefaultState> {
    connId: string;
    /**
     * The epoch of the caller's join. An older one than the stored is refused (`STALE_EPOCH`). A newer one is
     * adopted, if it is at most one day ahead of the server's time; with `layout: "slotted"`, where only joins
     * give epochs, there is no such connection (`CONNECTION_NOT_FOUND`).
     */
    epoch?: number | undefined;
    patchState?: StatePatch<State> | undefined;
}
interface HeartbeatResult {
    /** Whether the patch changed the state (and an `update` was published). */
    changed: boolean;
    epoch: number;
}
/** One result of `heartbeatMany`: what the heartbeat came to, or the error it failed with. */
type HeartbeatManyResult = HeartbeatResult | Error;
interface LeaveCallOptions {
    /**
     * The epoch of the caller's join. A connection with a newer one stays. Default: that of this client's own
     * last join of the connection; none, if it never joined it or does not know how its last join ended.
     */
    epoch?: number | undefined;
}
interface LeaveResult {
    roomId: string;
    userId: string;
}
interface SubscribeOptions {
    /** Only events of this room; the node then follows only this room in Redis. */
    roomId?: string;
}
interface EventsOptions extends SubscribeOptions {
    /** Ends the iteration. */
    signal?: AbortSignal;
    /** Most events that wait to be taken; beyond it the iteration fails. Default 10 000. */
    maxBuffered?: number;
}
interface ReapResult {
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
interface ResyncEvent {
    /**
     * `"reconnected"`: the subscription's connection was lost and is back; `"overflow"`: events came
     * faster than the handlers took them, and were dropped.
     */
    reason: 'reconnected' | 'overflow';
}
/** The connection to Redis. */
interface StateEvent {
    state: 'connected' | 'disconnected';
}
interface ClientEvents {
    resync: ResyncEvent;
    error: RollcallError;
    state: StateEvent;
}
/** Where Rollcall logs; `console` fits. Missing methods are skipped. */
interface Logger {
    debug?(...args: unknown[]): void;
    info?(...args: unknown[]): void;
    warn?(...args: unknown[]): void;
    error?(...args: unknown[]): void;
}
/** Sizes in bytes of UTF-8, times in milliseconds. Beyond a limit: `INVALID_ARGUMENT`. */
interface Limits {
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
interface TlsOptions {
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
interface SentinelOptions {
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
interface QuorumOptions {
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
interface StateCompression {
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
interface ClientOptions {
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
interface Summary {
    count: number;
    mean: number;
    p50: number;
    p90: number;
    p99: number;
    max: number;
}
/** `client.metrics()`: counters since the client connected, gauges of now, distributions. */
interface Metrics {
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

/** Named locks: leases with fencing tokens, served in order of arrival. `client.locks` is one. */
declare class Locks {
    #private;
    /**
     * Takes the lock, waiting for it up to `waitMs` in order of arrival among all nodes.
     *
     * @throws `LOCK_UNAVAILABLE` when it is not to be had in time (the message says who holds it, and
     * for how long), and when `signal` fires, with the signal's reason as its `cause`;
     * `LOCK_LOST` when its lease was over before the call could resolve; `INVALID_ARGUMENT`,
     * `UNAVAILABLE`, `TIMEOUT`, `PERMISSION`, `CORRUPT_DATA`, `CLOSED`
     */
    acquire(name: string, options: AcquireOptions): Promise<Lock>;
    /** Who holds a lock, and how many wait for it; `null` if nobody holds it. */
    inspect(name: string): Promise<LockInspection | null>;
    /**
     * Takes a lock away from whoever holds it, for operators. The first in its queue gets it. The holder
     * is told at once if its process can be reached; if not, only the fencing token keeps its writes
     * out.
     *
     * @returns what was revoked, or `null` if nobody held it.
     */
    revoke(name: string): Promise<RevokedLock | null>;
    /**
     * Calls `handler` for each event of all locks, or of one.
     *
     * @returns what ends the subscription. An open subscription keeps the process alive.
     * @throws `UNSUPPORTED` for locks on several servers
     */
    subscribe(handler: LockHandler, options?: LockSubscribeOptions): Promise<Unsubscribe>;
}

/**
 * The metadata of channels: a small versioned record of items for each. Every change is one atomic
 * step with its event; changes of one channel that come while others are on their way share it.
 * Writers that expect no revision never see a conflict, and none of their changes is lost.
 *
 * Changes reject with `METADATA_CONFLICT` (the error's `current` is the record as it is),
 * `METADATA_LOCK`, `METADATA_INVALID`, `CORRUPT_DATA` (somebody else's text under our key),
 * `OVERLOADED`, and as everything does with `INVALID_ARGUMENT`, `UNAVAILABLE`, `TIMEOUT`,
 * `PERMISSION`, `CLOSED`.
 */
declare class Metadata {
    #private;
    /** Replaces the whole record. */
    set(change: SetMetadata): Promise<ChannelMetadata>;
    /**
     * Changes items that exist; each gets its next revision. With `options.upsert`, what does not exist is
     * created.
     *
     * @throws `METADATA_INVALID` when the record or an item does not exist; then nothing is changed.
     */
    update(change: UpdateMetadata): Promise<ChannelMetadata>;
    /** Removes the named items, or all. With nothing to remove there is no new revision, and no event. */
    remove(change: RemoveMetadata): Promise<ChannelMetadata>;
    /** The record; of a channel that is unknown, one without items and with major revision 0. */
    get(channel: GetMetadata): Promise<ChannelMetadata>;
    /**
     * Calls `handler` for each metadata event of all channels, or of one. Resolves once Redis has
     * confirmed the subscription. For a channel, events come in the order of its revisions.
     *
     * @returns what ends the subscription. An open subscription keeps the process alive.
     */
    subscribe(handler: MetadataHandler, options?: MetadataSubscribeOptions): Promise<Unsubscribe>;
}

/**
 * Presence on Redis, or in the process. Make one with {@link PresenceClient.connect} and share it:
 * a client holds one connection for commands and, once something is subscribed, one for events.
 *
 * Every method that returns a Promise rejects with a {@link RollcallError}; none throws.
 */
declare class PresenceClient<State extends object = DefaultState> {
    #private;
    /** Named locks: leases with fencing tokens, on their own or to guard metadata. */
    readonly locks: Locks;
    /** Channel metadata: a small versioned record of items per channel. */
    readonly metadata: Metadata;
    private constructor();
    /**
     * Connects to a store.
     *
     * @param target - a URL (`redis://`, `rediss://`, `redis+unix://`, `redis-sentinel://`,
     * `redis-cluster://`, `memory://<name>`), those of several independent servers (see
     * {@link ClientOptions.url}), or {@link ClientOptions}. Without one: an in-process store of the
     * client's own.
     * @throws `UNAVAILABLE` when nothing answers within `limits.connectTimeoutMs`, `PERMISSION` for a
     * wrong password, `INVALID_ARGUMENT` for options that do not fit.
     */
    static connect<State extends object = DefaultState>(target?: string | readonly string[] | ClientOptions): Promise<PresenceClient<State>>;
    /**
     * Puts a connection into a room. If it is in another room, or under another user, it leaves
     * there first, in the same atomic step.
     *
     * @returns its epoch, and the room's live connections (unless `snapshot: false`).
     * @throws `INVALID_ARGUMENT`, `UNAVAILABLE`, `TIMEOUT`, `PERMISSION`, `CLOSED`
     */
    join(options: JoinOptions<State>): Promise<JoinResult<State>>;
    /**
     * Says that a connection is alive, and optionally changes its state. Costs the event loop next
     * to nothing: heartbeats that come while others are on their way to Redis go together.
     *
     * @throws `CONNECTION_NOT_FOUND` (expired or never joined: join again), `STALE_EPOCH`,
     * `INVALID_ARGUMENT`, `OVERLOADED`, `UNAVAILABLE`, `TIMEOUT`, `CLOSED`
     */
    heartbeat(options: HeartbeatOptions<State>): Promise<HeartbeatResult>;
    /**
     * Heartbeats of many connections in one call.
     *
     * @returns one result for each item, in order. An item that fails has its error as its result.
     */
    heartbeatMany(items: readonly HeartbeatOptions<State>[]): Promise<HeartbeatManyResult[]>;
    /**
     * Takes a connection out of its room, unless somebody has joined it since: with a lower epoch than the
     * stored one, nothing happens. The epoch is {@link LeaveCallOptions.epoch}, or without it that of this
     * client's own last join of the connection. A client that never joined it ends whatever is there.
     *
     * @returns where it was, or `null` if it is unknown (it left, or its TTL ran out) or has a newer epoch.
     * @throws `INVALID_ARGUMENT`, `UNAVAILABLE`, `TIMEOUT`, `PERMISSION`, `CLOSED`
     */
    leave(connId: string, options?: LeaveCallOptions): Promise<LeaveResult | null>;
    /** The epoch of a connection; `null` if it is unknown. */
    getEpoch(connId: string): Promise<number | null>;
    /** The live connections of a room, in no particular order. */
    fetchRoomSnapshot(roomId: string): Promise<PresenceSnapshotEntry<State>[]>;
    /** The live connections of a user, in whatever room. */
    getUserPresence(userId: string): Promise<UserPresence<State>>;
    /**
     * Calls `handler` for each presence event of all rooms, or of one. Resolves once Redis has
     * confirmed the subscription: what happens after that is not missed. For a room, events come in
     * the order in which Redis applied the changes.
     *
     * @returns what ends the subscription. An open subscription keeps the process alive.
     */
    subscribe(handler: PresenceHandler<State>, options?: SubscribeOptions): Promise<Unsubscribe>;
    /**
     * The presence events as an async iterable. The subscription begins with the first `next()` and
     * ends with the loop, with `signal`, or with {@link close}.
     *
     * @throws `OVERLOADED` when more than `maxBuffered` events wait to be taken.
     */
    events(options?: EventsOptions): AsyncGenerator<PresenceEvent<State>, void, undefined>;
    /**
     * - `resync`: events may have been missed (once for each gap): fetch snapshots again. Calls work: it comes
     *   after `state`;
     * - `state`: the connection to Redis was lost or is back;
     * - `error`: something failed that no call is there to tell of.
     *
     * @returns what removes the handler.
     */
    on<Name extends keyof ClientEvents>(name: Name, handler: (event: ClientEvents[Name]) => unknown): () => void;
    /**
     * Lets this node take part in removing dead connections: each within `sweepIntervalMs` of its
     * TTL, with exactly one `leave`, however many nodes do so. Does not keep the process alive.
     */
    startReaper(): Promise<void>;
    /**
     * One full pass of the reaper, now. A part that cannot be processed (a master of a cluster is away, a
     * room's keys hold other types) is logged and left to the next pass.
     *
     * @throws `UNAVAILABLE`, `TIMEOUT` if nothing at all could be processed.
     */
    reapOnce(): Promise<ReapResult>;
    /** Counters, gauges and latencies of this client. */
    metrics(): Metrics;
    /**
     * Sends what is waiting, settles every Promise, and closes the connections. Connections that
     * this client has joined stay until they leave or their TTL runs out; locks that it holds are
     * released, and whoever waits for one rejects. Calls after it reject with `CLOSED`; a second close
     * waits for the first.
     */
    close(): Promise<void>;
    [Symbol.asyncDispose](): Promise<void>;
}

/** What events are emitted by; a Socket.IO server or namespace is one. */
interface RoomEmitter {
    to(room: string): {
        emit(event: string, payload: never): unknown;
    };
}
type Listener = (...args: any[]) => void;
/** What of a socket is used; Socket.IO's is one. */
interface SocketLike {
    readonly id: string;
    /** Is told `presenceRoomId` and `presenceUserId`, for the server's own handlers. */
    readonly data?: any;
    /** The rooms that it is in: one that it was in before is not left. */
    readonly rooms?: {
        has(room: string): boolean;
    };
    /** Its namespace, to know the other sockets by. */
    readonly nsp?: object;
    /** Whether it is one that broke and came back (connection state recovery). */
    readonly recovered?: boolean;
    join(room: string): unknown;
    leave(room: string): unknown;
    on(event: string, listener: Listener): unknown;
    off(event: string, listener: Listener): unknown;
}
/** What of a socket server is used; a Socket.IO server or namespace is one. */
interface SocketServerLike extends RoomEmitter {
    on(event: 'connection', listener: Listener): unknown;
    off(event: 'connection', listener: Listener): unknown;
}

interface SocketBridgeOptions {
    /** Default `"presence:event"`. */
    eventName?: string | undefined;
    /** Default `"metadata:event"`. */
    metadataEventName?: string | undefined;
    /** Default `"presence:resync"`. */
    resyncEventName?: string | undefined;
}
interface Bridge {
    /** Ends the bridge: once it has resolved, nothing more is emitted. */
    stop(): Promise<void>;
}

/** What the calls for a channel's metadata take. */
interface ChannelMetadataParams extends ChannelRef {
    /** The items that are set, changed or removed. */
    data?: readonly MetadataItemInput[] | undefined;
    options?: UpdateMetadataOptions | undefined;
    /** Who makes the change. */
    actorUserId?: string | undefined;
}

/** Where and how to connect, as {@link ClientOptions} has it. */
type ConnectionSettings = Pick<ClientOptions, 'url' | 'tls' | 'sentinel' | 'keyPrefix' | 'channelPrefix'>;
/** A client of `ioredis` or of `redis` (node-redis): what is read of it are its options. */
interface RedisClientLike {
    readonly options?: object | undefined;
}
/** What says where Redis is. */
type RedisSource = string | RedisClientLike | ConnectionSettings;

/** Options of the client that the TypeScript implementation does not have. */
type ServiceClientOptions = Omit<ClientOptions, 'url' | 'tls' | 'sentinel' | 'ttlMs' | 'sweepIntervalMs' | 'logger'>;
interface PresenceServiceOptions {
    /** How long a connection lives without a heartbeat. Milliseconds, default 30 000. */
    ttlMs?: number | undefined;
    /** Within what time of its TTL a dead connection is removed. Milliseconds, default 3000. */
    reaperIntervalMs?: number | undefined;
    /**
     * Checked and not used: a connection is removed when its TTL has run out, for which nobody has to
     * look back.
     */
    reaperLookbackMs?: number | undefined;
    /** Default: `console` for info, warnings and errors. */
    logger?: Logger | undefined;
    /** Further options of the client behind it. */
    client?: ServiceClientOptions | undefined;
}
/**
 * Presence with the interface of the TypeScript implementation. Takes over where and how the given
 * Redis client connects, and has connections of its own.
 *
 * The first call connects; a call that finds Redis away rejects, and the next one tries again. Every
 * method that returns a Promise rejects with a {@link RollcallError}.
 */
declare class PresenceService<State extends object = DefaultState> {
    #private;
    /**
     * @param redis - an ioredis client, a node-redis client (neither is used for commands, nor needs to
     * be connected), or a URL.
     * @throws `INVALID_ARGUMENT` for options that do not fit, `UNSUPPORTED` for settings of the client
     * that cannot be taken over.
     */
    constructor(redis: RedisSource, options?: PresenceServiceOptions);
    /**
     * The client behind it, connected: for what the TypeScript implementation does not have (resync,
     * users, locks, metrics).
     */
    client(): Promise<PresenceClient<State>>;
    /**
     * Puts a connection into a room; if it is in another one, it leaves there first.
     *
     * @returns the room's live connections, this one included.
     */
    join(options: Omit<JoinOptions<State>, 'snapshot'>): Promise<PresenceSnapshotEntry<State>[]>;
    /**
     * Says that a connection is alive, and optionally changes its state.
     *
     * @returns whether the state has changed; `false` also for a connection that is unknown (it expired:
     * join again) and for an epoch that is older than the stored one.
     */
    heartbeat(options: HeartbeatOptions<State>): Promise<boolean>;
    /** Heartbeats that wait to be sent. */
    heartbeatsWaiting(): number;
    /**
     * Takes a connection out of its room. With an epoch, only a connection that has no newer one; without, only
     * one that no other server has joined since this service did.
     *
     * @returns `null` if it is unknown, or has been joined since.
     */
    leave(connId: string, options?: LeaveCallOptions): Promise<LeaveResult | null>;
    /** The live connections of a room, in no particular order. */
    fetchRoomSnapshot(roomId: string): Promise<PresenceSnapshotEntry<State>[]>;
    /** Calls `handler` for each presence event of all rooms. */
    subscribe(handler: PresenceHandler<State>): Promise<Unsubscribe>;
    /** Calls `handler` for each metadata event of all channels. */
    subscribeMetadata(handler: MetadataHandler): Promise<Unsubscribe>;
    /**
     * Replaces a channel's record.
     *
     * @throws {@link MetadataConflictError}, {@link MetadataLockError}
     */
    setChannelMetadata(params: ChannelMetadataParams): Promise<ChannelMetadata>;
    /**
     * Changes items that exist.
     *
     * @throws {@link MetadataConflictError}, {@link MetadataLockError}, {@link MetadataValidationError}
     */
    updateChannelMetadata(params: ChannelMetadataParams): Promise<ChannelMetadata>;
    /**
     * Removes the named items, or all.
     *
     * @throws {@link MetadataConflictError}, {@link MetadataLockError}
     */
    removeChannelMetadata(params: ChannelMetadataParams): Promise<ChannelMetadata>;
    /** A channel's record; of an unknown channel, one without items and with major revision 0. */
    getChannelMetadata(params: ChannelMetadataParams): Promise<ChannelMetadata>;
    /**
     * Emits every presence event to the sockets of its room, and every metadata event to those of the
     * room that has the channel's name: `adapter.to(room).emit(event, payload)`. Where the adapter is a
     * Socket.IO server, only to those of this process, because every process has a bridge; and when events may
     * have been missed, every room that has sockets here gets `presence:resync` with a snapshot.
     */
    createSocketBridge(adapter: RoomEmitter, options?: SocketBridgeOptions): Promise<Bridge>;
    /**
     * Lets this node take part in removing dead connections: each with one `leave`, however many nodes
     * do so. Goes on trying while Redis is away; failures are logged.
     */
    startReaper(): void;
    /**
     * Ends the reaper and all subscriptions, and closes the connections. Connections that were joined
     * stay until they leave or their TTL runs out. A call that comes later connects anew, as one to an
     * ioredis client of the server would still be answered.
     */
    stop(): Promise<void>;
}

/** Where a part gets its work done: a service that the caller has, or Redis, with connections of its own. */
type PartSource<State extends object = DefaultState> = RedisSource | PresenceService<State>;
interface HeartbeatBatcherOptions {
    /** How long a connection lives without a heartbeat. Milliseconds. Ignored with a service, which has its own. */
    ttlMs?: number | undefined;
    /** How long a heartbeat waits for others. Milliseconds, default 0: batches form without waiting. */
    batchWindowMs?: number | undefined;
    /** Most heartbeats in one batch. Default 256. */
    maxBatchSize?: number | undefined;
    logger?: Logger | undefined;
}
interface LuaHeartbeatExecutorOptions {
    /** How long a connection lives without a heartbeat. Milliseconds. Ignored with a service, which has its own. */
    ttlMs?: number | undefined;
    logger?: Logger | undefined;
}
interface TransactionalMetadataOptions {
    /** Checked and not used: a change is tried again as long as others change the record. */
    maxRetries?: number | undefined;
    /** Checked and not used. */
    retryDelayMs?: number | undefined;
    logger?: Logger | undefined;
}
/** What the classes share: a service, and whether it has to be ended with the part. */
declare class Part<State extends object> {
    #private;
    protected readonly service: PresenceService<State>;
    constructor(name: string, source: PartSource<State>, { ttlMs, logger }: {
        ttlMs?: unknown;
        logger?: unknown;
    }, client?: ServiceClientOptions);
    protected ended(): Promise<never> | undefined;
    /**
     * Calls that come later reject with `CLOSED`. Closes the connections, if they are its own; a service
     * that was handed over goes on.
     */
    dispose(): Promise<void>;
}
/** Sends heartbeats that come together in one call. */
declare class HeartbeatBatcher<State extends object = DefaultState> extends Part<State> {
    /** @throws `INVALID_ARGUMENT`, `UNSUPPORTED` as the constructor of {@link PresenceService}. */
    constructor(source: PartSource<State>, options?: HeartbeatBatcherOptions);
    /** Whether the state has changed; `false` also for an unknown connection or a stale epoch. */
    heartbeat(options: HeartbeatOptions<State>): Promise<boolean>;
    /** Heartbeats that wait to be sent. */
    getBufferSize(): number;
}
/** Carries out a heartbeat in one atomic step. */
declare class LuaHeartbeatExecutor<State extends object = DefaultState> extends Part<State> {
    /** @throws `INVALID_ARGUMENT`, `UNSUPPORTED` as the constructor of {@link PresenceService}. */
    constructor(source: PartSource<State>, options?: LuaHeartbeatExecutorOptions);
    /** Whether the state has changed; `false` also for an unknown connection or a stale epoch. */
    heartbeat(options: HeartbeatOptions<State>): Promise<boolean>;
    /** The epoch of a connection; `undefined` if it is unknown. */
    getEpoch(connId: string): Promise<number | undefined>;
    /** Connects, which loads the scripts. */
    warmup(): Promise<void>;
}
/** Changes of metadata, of which every one is a transaction. */
declare class TransactionalMetadataWrapper extends Part<DefaultState> {
    /** @throws `INVALID_ARGUMENT`, `UNSUPPORTED` as the constructor of {@link PresenceService}. */
    constructor(source: PartSource<any>, options?: TransactionalMetadataOptions);
    setChannelMetadata(params: ChannelMetadataParams): Promise<ChannelMetadata>;
    updateChannelMetadata(params: ChannelMetadataParams): Promise<ChannelMetadata>;
    removeChannelMetadata(params: ChannelMetadataParams): Promise<ChannelMetadata>;
}

/** Limits for each socket; `Infinity` turns one off. */
interface SocketQuotas {
    /** Presence rooms at a time. In this protocol a socket is in one room at most. Default 1. */
    roomsPerSocket?: number | undefined;
    /** Joins and leaves. Default 10. */
    joinsPerSecond?: number | undefined;
    /** Heartbeats, with or without a patch. Default 100. */
    patchesPerSecond?: number | undefined;
    /** Requests for channel metadata, reading included. Default 20. */
    metadataPerSecond?: number | undefined;
    /** Size of all payloads, in bytes. A payload that is longer is never accepted. Default 2 MiB. */
    bytesPerSecond?: number | undefined;
    /** Requests that have not been answered yet, of all kinds. Default 128. */
    queuedPerSocket?: number | undefined;
}

/** What a socket wants to do. */
type SocketAction = 'join' | 'heartbeat' | 'leave' | 'metadata:set' | 'metadata:update' | 'metadata:remove' | 'metadata:get';
interface SocketRequest<Socket = SocketLike> {
    socket: Socket;
    /** Who asks: what `identify` gave, or without it the user that joined on the socket or wants to. */
    userId: string | undefined;
    action: SocketAction;
    /** The room to join, or the one that the socket is in. */
    roomId?: string | undefined;
    /** The channel, for metadata. */
    channel?: {
        channelType: string;
        channelName: string;
    } | undefined;
    /** The state of a join, the patch of a heartbeat, the items of a change of metadata; as they came. */
    data?: unknown;
}
interface SocketPolicyOptions {
    /**
     * Who is on a socket; asked at each join, and once for metadata before any join. With it, a `userId` in
     * a payload may be left out, and has to agree otherwise. What is no id, a throw and a rejection refuse
     * the request.
     */
    identify?: ((socket: any) => string | Promise<string>) | undefined;
    /**
     * Whether a request may be done; asked for every action of a socket. Anything but `true`, a throw and a
     * rejection refuse it with `FORBIDDEN`.
     */
    authorize?: ((request: SocketRequest<any>) => boolean | Promise<boolean>) | undefined;
    /** How much one socket may ask for; beyond it `RATE_LIMITED`, for that socket alone. */
    quotas?: SocketQuotas | undefined;
}

/**
 * What the TypeScript implementation let be switched on. All are accepted; what they were for is how
 * Rollcall works anyway, so that only two of them change anything.
 */
interface PresenceOptimizations {
    enableHeartbeatBatching?: boolean | undefined;
    /** How long a heartbeat waits for others. Milliseconds, default 0: batches form without waiting. */
    heartbeatBatchWindowMs?: number | undefined;
    /** Most heartbeats in one batch. Default 256. */
    heartbeatMaxBatchSize?: number | undefined;
    enableLuaHeartbeat?: boolean | undefined;
    enableLuaJoin?: boolean | undefined;
    enableTransactionalMetadata?: boolean | undefined;
    metadataMaxRetries?: number | undefined;
}
interface InitPresenceOptions extends SocketPolicyOptions {
    /** The Socket.IO server or namespace. */
    io: SocketServerLike;
    /** An ioredis client, a node-redis client, or a URL. */
    redis: RedisSource;
    /** How long a connection lives without a heartbeat. Milliseconds, default 30 000. */
    ttlMs?: number | undefined;
    /** Within what time of its TTL a dead connection is removed. Milliseconds, default 3000. */
    reaperIntervalMs?: number | undefined;
    /** Checked and not used. Default `2 × ttlMs`. */
    reaperLookbackMs?: number | undefined;
    logger?: Logger | undefined;
    /**
     * Where events go: by default to the sockets of `io` that are in the room. `adapter` puts something
     * else in its place; `false`: nowhere.
     */
    bridge?: boolean | (SocketBridgeOptions & {
        adapter?: RoomEmitter | undefined;
    }) | undefined;
    optimizations?: PresenceOptimizations | undefined;
    /** Further options of the client. */
    client?: ServiceClientOptions | undefined;
}
interface PresenceHandle<State extends object = DefaultState> {
    /** The service that the handlers use. */
    readonly service: PresenceService<State>;
    /**
     * Resolves when this process is connected and its bridge gets events. Rejects if it never will be
     * (settings that Redis refuses), or if it was disposed before.
     */
    readonly ready: Promise<void>;
    /**
     * Takes the connections of all sockets out of their rooms, ends bridge and reaper, and closes the
     * connections to Redis, also while they are being made. What sockets ask for later is acknowledged with
     * `CLOSED`, and calls reject with it. May come before or after `io.close()`.
     */
    dispose(): Promise<void>;
    getHeartbeatBatcher(): HeartbeatBatcher<State>;
    getLuaHeartbeatExecutor(): LuaHeartbeatExecutor<State>;
    getTransactionalMetadata(): TransactionalMetadataWrapper;
}
/** The handle, at once; and a Promise of it, which is settled as `ready` is. */
type StartingPresence<State extends object = DefaultState> = PresenceHandle<State> & Promise<PresenceHandle<State>>;
/**
 * Serves presence to the sockets of a Socket.IO server: handlers, bridge and reaper. Does not block:
 * while Redis is away, it goes on trying.
 *
 * @returns the handle, which can be used at once; `await initPresence(…)` (or `.then`, as with the
 * TypeScript implementation) waits until it is `ready`.
 */
declare function initPresence<State extends object = DefaultState>(options: InitPresenceOptions): StartingPresence<State>;

/** The names of keys and channels under the default prefix, `prs:`. */
declare const presenceKeys: {
    /** Set: rooms with at least one connection. */
    readonly activeRoomsKey: () => string;
    /** Set: the distinct user ids of a room. */
    readonly roomMembersKey: (id: string) => string;
    /** Set: the connection ids of a room. */
    readonly roomConnectionsKey: (id: string) => string;
    /** Hash: connection id → `{"userId":…,"epoch":…}`. */
    readonly roomConnMetadataKey: (id: string) => string;
    /** Sorted set: connection id → when it was last seen. */
    readonly roomLastSeenKey: (id: string) => string;
    /** Channel: the presence events of a room. */
    readonly roomEventsChannel: (id: string) => string;
    /** Hash: a connection. */
    readonly connKey: (id: string) => string;
    /** Set: the connection ids of a user. */
    readonly userConnsKey: (id: string) => string;
    /** Pattern of the channels of all rooms' presence events. */
    readonly eventsPattern: string;
    /** Hash: a channel's record. */
    readonly channelMetadataKey: (channelType: string, channelName: string) => string;
    /** Channel: the metadata events of a channel. */
    readonly channelMetadataEventsChannel: (channelType: string, channelName: string) => string;
    /** Pattern of the channels of all metadata events. */
    readonly metadataEventsPattern: string;
    /** String: the owner of a lock. */
    readonly lockKey: (id: string) => string;
};

/** What sends heartbeats: a `HeartbeatBatcher`, a `LuaHeartbeatExecutor`, or what a server has around one. */
interface HeartbeatSender {
    heartbeat(options: HeartbeatOptions): Promise<boolean>;
}
/** What changes metadata: a `TransactionalMetadataWrapper`, or what a server has around one. */
interface MetadataChanger {
    setChannelMetadata(params: ChannelMetadataParams): Promise<ChannelMetadata>;
    updateChannelMetadata(params: ChannelMetadataParams): Promise<ChannelMetadata>;
    removeChannelMetadata(params: ChannelMetadataParams): Promise<ChannelMetadata>;
}
interface PresenceHandlersOptions extends SocketPolicyOptions {
    io: SocketServerLike;
    /** Not used: the service has its own connections. */
    redis?: unknown | undefined;
    /** Gets failures that are not the client's. Default: `console`. */
    logger?: Logger | undefined;
    /** Sends the heartbeats of the sockets, in place of the service; the executor goes before the batcher. */
    heartbeatBatcher?: HeartbeatSender | null | undefined;
    luaHeartbeatExecutor?: HeartbeatSender | null | undefined;
    /** Makes the changes of metadata of the sockets, in place of the service. */
    transactionalMetadata?: MetadataChanger | null | undefined;
}
/**
 * Answers the presence and metadata events of every socket that connects from now on.
 *
 * | event | payload | acknowledgement |
 * | --- | --- | --- |
 * | `presence:join` | `{ roomId, userId, state? }` | `{ ok: true, snapshot, self: { connId, epoch } }` |
 * | `presence:heartbeat` | `{ patchState?, epoch? }` | `{ ok: true, changed, epoch }` |
 * | `presence:leave` | – | `{ ok: true }` |
 * | `metadata:setChannel` `:updateChannel` `:removeChannel` `:getChannel` | `{ channelName, channelType, data?, options? }` | `{ ok: true, …record }` |
 *
 * Changes of metadata are made as the user that joined on the socket. A failure is acknowledged with
 * `{ ok: false, error, code? }`, one by another revision also with `current`, the record as it is. A socket
 * that disconnects leaves. The service's public methods are called, so that a subclass or a wrapper sees
 * every request. Listeners return a Promise that is settled when the request is done, and never rejects.
 *
 * @returns what takes the handlers away again, also from the sockets that are there.
 */
declare function registerPresenceHandlers<State extends object = DefaultState>(options: PresenceHandlersOptions, service: PresenceService<State>): () => void;

/** What `initPresence` takes. */
type PresenceInitOptions = InitPresenceOptions;
/** What `initPresence` gives; the getters of a `PresenceHandle` never give `null`. */
interface PresenceRuntime {
    dispose(): Promise<void>;
    getHeartbeatBatcher(): HeartbeatBatcher | null;
    getLuaHeartbeatExecutor(): LuaHeartbeatExecutor | null;
    getTransactionalMetadata(): TransactionalMetadataWrapper | null;
}
type PresenceOptimizationOptions = PresenceOptimizations;
interface PresenceLogger {
    debug(message: string, meta?: unknown): void;
    info(message: string, meta?: unknown): void;
    warn(message: string, meta?: unknown): void;
    error(message: string, meta?: unknown): void;
}
/** What `registerPresenceHandlers` takes. */
type PresenceHandlerContext = PresenceHandlersOptions;
/** What names a connection that leaves. */
interface LeaveOptions {
    connId: string;
}
/** What a room's `conn_meta` holds for each connection, as JSON. */
interface PresenceConnectionMetadata {
    userId: string;
    epoch: number;
}
type PresenceEventType = 'join' | 'leave' | 'update';
/** A presence event; a `PresenceEvent` is one. */
interface PresenceEventPayload {
    type: PresenceEventType;
    roomId: string;
    userId: string;
    connId: string;
    state?: Record<string, unknown> | null | undefined;
    ts: number;
    epoch?: number | undefined;
    reason?: 'left' | 'timeout' | 'replaced' | undefined;
}
type PresenceEventHandler = (event: PresenceEventPayload) => void | Promise<void>;
interface PresenceSocketRoomEmitter {
    emit(event: string, payload: PresenceEventPayload): unknown;
}
/** What a bridge emits by; a Socket.IO server is one. */
interface PresenceSocketAdapter {
    to(roomId: string): PresenceSocketRoomEmitter;
}
type PresenceEventBridge = Bridge;
type PresenceEventBridgeOptions = SocketBridgeOptions;
interface PresenceBridgeOptions extends SocketBridgeOptions {
}
type ChannelMetadataOperation = 'set' | 'update' | 'remove';
type ChannelMetadataItemInput = MetadataItemInput;
type ChannelMetadataEntry = MetadataItem;
type ChannelMetadataRecord = Record<string, MetadataItem>;
type ChannelMetadataOptions = UpdateMetadataOptions;
type ChannelMetadataResponse = ChannelMetadata;
/** A metadata event; a `MetadataEvent` is one. */
interface ChannelMetadataEventPayload {
    channelName: string;
    channelType: string;
    operation: ChannelMetadataOperation;
    items: ChannelMetadataItemInput[];
    majorRevision: number;
    timestamp: number;
    authorUid?: string | undefined;
}
type ChannelMetadataEventHandler = (event: ChannelMetadataEventPayload) => void | Promise<void>;
interface ChannelMetadataGetParams {
    channelName: string;
    channelType: string;
}
interface ChannelMetadataMutationParams extends ChannelMetadataGetParams {
    data: ChannelMetadataItemInput[];
    options?: ChannelMetadataOptions | undefined;
    actorUserId?: string | undefined;
}
interface ChannelMetadataRemovalParams extends ChannelMetadataGetParams {
    data?: ChannelMetadataItemInput[] | undefined;
    options?: ChannelMetadataOptions | undefined;
    actorUserId?: string | undefined;
}

export { ERROR_CODES, HeartbeatBatcher, Locks, LuaHeartbeatExecutor, Metadata, MetadataConflictError, MetadataError, MetadataLockError, MetadataValidationError, PresenceClient, PresenceService, RollcallError, TransactionalMetadataWrapper, initPresence, presenceKeys, registerPresenceHandlers };
export type { AcquireOptions, ChannelMetadata, ChannelMetadataEntry, ChannelMetadataEventHandler, ChannelMetadataEventPayload, ChannelMetadataGetParams, ChannelMetadataItemInput, ChannelMetadataMutationParams, ChannelMetadataOperation, ChannelMetadataOptions, ChannelMetadataParams, ChannelMetadataRecord, ChannelMetadataRemovalParams, ChannelMetadataResponse, ChannelRef, ClientEvents, ClientOptions, ConnectionSettings, DefaultState, ErrorCode, EventsOptions, GetMetadata, HeartbeatBatcherOptions, HeartbeatManyResult, HeartbeatOptions, HeartbeatResult, HeartbeatSender, InitPresenceOptions, JoinOptions, JoinResult, JsonObject, LeaveCallOptions, LeaveOptions, LeaveResult, Limits, Lock, LockEvent, LockHandler, LockInspection, LockSubscribeOptions, Logger, LuaHeartbeatExecutorOptions, MetadataChange, MetadataChanger, MetadataEvent, MetadataHandler, MetadataItem, MetadataItemInput, MetadataOptions, MetadataSubscribeOptions, Metrics, PartSource, PresenceBridgeOptions, PresenceConnectionMetadata, PresenceEvent, PresenceEventBridge, PresenceEventBridgeOptions, PresenceEventHandler, PresenceEventPayload, PresenceEventType, PresenceHandle, PresenceHandler, PresenceHandlerContext, PresenceHandlersOptions, PresenceInitOptions, PresenceJoinEvent, PresenceLeaveEvent, PresenceLogger, PresenceOptimizationOptions, PresenceOptimizations, PresenceRuntime, PresenceServiceOptions, PresenceSnapshotEntry, PresenceSocketAdapter, PresenceSocketRoomEmitter, PresenceUpdateEvent, QuorumOptions, ReapResult, RedisClientLike, RedisSource, RemoveMetadata, ResyncEvent, RevokedLock, RoomEmitter, SentinelOptions, ServiceClientOptions, SetMetadata, SocketAction, Bridge as SocketBridge, SocketBridgeOptions, SocketLike, SocketPolicyOptions, SocketQuotas, SocketRequest, SocketServerLike, StartingPresence, StateCompression, StateEvent, StatePatch, SubscribeOptions, Summary, TlsOptions, TransactionalMetadataOptions, Unsubscribe, UpdateMetadata, UpdateMetadataOptions, UserPresence };
