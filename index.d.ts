// The public types of Rollcall. Generated from js/ by `npm run types`; do not edit.
/** Options of an acquire call. */
interface AcquireOptions {
    /** The owner: the value of `prs:lock:<name>`, which metadata guarded by the lock check. */
    ownerId: string;
    /**
     * The lease time without a renewal. Milliseconds, at least 10, default 10 000. When this process
     * dies, others wait for this time.
     */
    ttlMs?: number;
    /**
     * The maximum duration of the call: the time in the queue, and that for connecting, subscribing
     * and the answers of Redis. Milliseconds, default 0: a single attempt, within
     * `limits.commandTimeoutMs`. `Infinity`: until the lock is acquired, or `signal` fires.
     */
    waitMs?: number;
    /**
     * Whether the lock is renewed at every third of its TTL until it is released, even while the
     * JavaScript thread is busy. Default `true`.
     */
    autoRenew?: boolean;
    /**
     * Ends the waiting: the call rejects with `LOCK_UNAVAILABLE`, whose `cause` is the signal's
     * reason, and leaves the queue.
     */
    signal?: AbortSignal;
}
/** A held lock. `await using` releases it. */
interface Lock {
    readonly name: string;
    readonly ownerId: string;
    /**
     * Greater than the token of every earlier grant of this name. Pass it along with writes under the
     * lock, so that late writes can be refused.
     */
    readonly fencingToken: number;
    /**
     * The time until which the lock is certainly held: milliseconds since 1970 on this process's
     * clock. Grows with every renewal.
     */
    readonly expiresAt: number;
    /**
     * Fires when the lock is lost: not renewed in time, revoked, or overwritten. It fires before the
     * lock can be granted to another client; its `reason` is a `LOCK_LOST` error. Reading `aborted`
     * checks the clock, so it is correct even directly after the process was stopped. It does not
     * fire for a release.
     */
    readonly lost: AbortSignal;
    /**
     * Sets a new TTL, which starts now.
     *
     * @param ttlMs - the TTL, for this lease and its later renewals. Default: the current one.
     * @throws `LOCK_LOST` if it is not held any more; `lost` has then fired.
     */
    extend(ttlMs?: number): Promise<void>;
    /**
     * Releases the lock; the first waiter gets it at once. The lock is not renewed any more. A second
     * call returns the same Promise.
     *
     * @throws `LOCK_LOST` if it was not held any more. `UNAVAILABLE` or `TIMEOUT` with
     * `outcome: "unknown"` if Redis did not answer within `limits.commandTimeoutMs`: the release is
     * then
     * retried in the background until the lease has ended, and no further action is needed.
     */
    release(): Promise<void>;
    /** Releases it. An earlier loss is not an error here, because the lock is then already free. */
    [Symbol.asyncDispose](): Promise<void>;
}
/** The holder of a lock. */
interface LockInspection {
    name: string;
    ownerId: string;
    /** `null` for a lock of an implementation other than Rollcall. */
    fencingToken: number | null;
    /** The remaining time without a renewal. Milliseconds; `null`: it never ends. */
    ttlMs: number | null;
    /** The number of waiters. */
    waiters: number;
}
/** A revoked lock. */
interface RevokedLock {
    ownerId: string;
    /** `null` for a lock of an implementation other than Rollcall. */
    fencingToken: number | null;
}
/** A change of a lock. Each is emitted exactly once. */
interface LockEvent {
    /**
     * `"acquired"`; `"released"` by its holder; `"expired"`: its TTL ended; `"revoked"`: by `revoke`,
     * or because another program deleted or overwrote its key.
     */
    type: 'acquired' | 'released' | 'expired' | 'revoked';
    name: string;
    ownerId: string;
    /** `null` for a lock of an implementation other than Rollcall. */
    fencingToken: number | null;
    /** The time of detection: milliseconds since 1970, on Redis's clock. */
    ts: number;
}
/** Receives lock events. Exceptions and rejections are logged and affect no other handler. */
type LockHandler = (event: LockEvent) => unknown;
interface LockSubscribeOptions {
    /** Only events of this lock. */
    name?: string;
}

/** Identifies a channel. */
interface ChannelRef {
    channelName: string;
    /** Must not contain a colon, unless it is declared in `channelTypesWithColon` of the client. */
    channelType: string;
}
interface GetMetadata extends ChannelRef {
    /** The user that asks. Checked, and not used. */
    actorUserId?: string | undefined;
}
/** An item in a change. */
interface MetadataItemInput {
    key: string;
    /** Default: `""` in `set`, the current value in `update`. */
    value?: string | undefined;
    /**
     * In `set`: the item's revision, if positive; otherwise it is 1. In `update`: the revision that
     * the item must have; absent or negative: any. With `upsert`, a missing item has revision 0.
     */
    revision?: number | undefined;
}
interface MetadataOptions {
    /** The major revision that the record must have. Absent or negative: any. */
    majorRevision?: number | undefined;
    /** The lock that `actorUserId` must hold, checked in the same atomic step as the write. */
    lockName?: string | undefined;
    /** Whether the items get `updated`. Default `false`. */
    addTimestamp?: boolean | undefined;
    /** Whether the items get `authorUid`, from `actorUserId`. Default `false`. */
    addUserId?: boolean | undefined;
    /**
     * The TTL of the record after this change; an expired record behaves like one that never existed.
     * Milliseconds, a whole number from 1. Each change sets the TTL again. Default: the client's
     * `metadataTtlMs`, and without it no expiry until the next change.
     */
    ttlMs?: number | undefined;
}
interface UpdateMetadataOptions extends MetadataOptions {
    /** Whether a missing record and missing items are created, with revision 1. Default `false`. */
    upsert?: boolean | undefined;
}
interface MetadataChange extends ChannelRef {
    options?: MetadataOptions | undefined;
    /** The user that makes the change; the `authorUid` of the event. */
    actorUserId?: string | undefined;
    /**
     * The fencing token of the caller's grant of `options.lockName`: the change is refused if the
     * lock has been granted again since.
     */
    fencingToken?: number | undefined;
}
interface SetMetadata extends MetadataChange {
    /** All items of the record. Default: none. Of several items with one key the last counts. */
    data?: readonly MetadataItemInput[] | undefined;
}
interface UpdateMetadata extends MetadataChange {
    options?: UpdateMetadataOptions | undefined;
    /** The items to change, at least one. */
    data: readonly MetadataItemInput[];
}
interface RemoveMetadata extends MetadataChange {
    /** The items to remove; only `key` is used. Default, and if empty: all. */
    data?: readonly {
        key: string;
    }[] | undefined;
}
/**
 * One item of a record. Items that other implementations stored in another form are returned
 * unchanged.
 */
interface MetadataItem {
    value: string;
    /** Grows by one with every update of the item. */
    revision: number;
    /** The time of its last change with `addTimestamp`: ISO 8601, on the server's clock. */
    updated?: string;
    /** The user of its last change with `addUserId`. */
    authorUid?: string;
}
/** A channel's record. */
interface ChannelMetadata extends ChannelRef {
    /** The time of this answer: milliseconds since 1970, on the server's clock. */
    timestamp: number;
    /** The number of items. */
    totalCount: number;
    /** Grows by one with every change; 0 for a channel that never had metadata, or whose record expired. */
    majorRevision: number;
    metadata: Record<string, MetadataItem>;
}
/** A channel's record has changed. */
interface MetadataEvent extends ChannelRef {
    operation: 'set' | 'update' | 'remove';
    /** The items that were set, changed, or removed (with their last values). */
    items: {
        key: string;
        value: string;
        revision: number;
    }[];
    /** The revision after the change. */
    majorRevision: number;
    /** Milliseconds since 1970, on the server's clock. */
    timestamp: number;
    /** The change's `actorUserId`. */
    authorUid?: string;
}
/** Receives metadata events. Exceptions and rejections are logged and affect no other handler. */
type MetadataHandler = (event: MetadataEvent) => unknown;
/**
 * With both: events of this channel only; the node then subscribes only to this channel in Redis.
 */
type MetadataSubscribeOptions = ChannelRef | {
    channelName?: never;
    channelType?: never;
};

/** The stable codes of Rollcall's errors. */
declare const ERROR_CODES: readonly ['INVALID_ARGUMENT', 'CONNECTION_NOT_FOUND', 'STALE_EPOCH', 'METADATA_INVALID', 'METADATA_CONFLICT', 'METADATA_LOCK', 'LOCK_UNAVAILABLE', 'LOCK_LOST', 'OVERLOADED', 'RATE_LIMITED', 'FORBIDDEN', 'ROOM_FULL', 'TIMEOUT', 'UNAVAILABLE', 'PERMISSION', 'UNSUPPORTED', 'CLOSED', 'CORRUPT_DATA', 'INTERNAL'];
/** A stable error code. */
type ErrorCode = (typeof ERROR_CODES)[number];
/** All rejections of Rollcall are instances: an `Error` with a stable `code`. */
declare class RollcallError extends Error {
    name: string;
    /** The kind of failure, for programs. */
    readonly code: ErrorCode;
    /**
     * `"unknown"` if the request may have been applied although there was no answer (the connection
     * broke after it was sent); absent if it was certainly not applied.
     */
    readonly outcome?: 'unknown';
    /** With `METADATA_CONFLICT`: the current record, so that no second read is needed. */
    readonly current?: ChannelMetadata;
    constructor(code: ErrorCode, message: string, options?: {
        cause?: unknown;
        outcome?: 'unknown';
        current?: ChannelMetadata;
    });
}
type ErrorOptions = NonNullable<ConstructorParameters<typeof RollcallError>[2]>;
/** A metadata change was refused: `METADATA_CONFLICT`, `METADATA_LOCK` or `METADATA_INVALID`. */
declare class MetadataError extends RollcallError {
    name: string;
    /** The arguments have the order of the legacy implementation. */
    constructor(message: string, code?: ErrorCode, options?: ErrorOptions);
}
/** `METADATA_CONFLICT`: the record or an item has a different revision than expected. */
declare class MetadataConflictError extends MetadataError {
    name: string;
    constructor(message: string, options?: ErrorOptions);
}
/** `METADATA_LOCK`: the lock is not held, or another user holds it. */
declare class MetadataLockError extends MetadataError {
    name: string;
    constructor(message: string, options?: ErrorOptions);
}
/** `METADATA_INVALID`: the record or an item does not exist, or no item was given. */
declare class MetadataValidationError extends MetadataError {
    name: string;
    constructor(message: string, options?: ErrorOptions);
}

/** A JSON object. */
type JsonObject = {
    [key: string]: unknown;
};
/** Any value, for states without a known type. */
type DefaultState = JsonObject;
/** One live connection in a room. */
interface PresenceSnapshotEntry<State = DefaultState> {
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
    /** The time of the change: milliseconds since 1970, on Redis's clock. */
    ts: number;
    epoch: number;
}
/** A connection has joined a room. */
interface PresenceJoinEvent<State = DefaultState> extends PresenceEventBase {
    type: 'join';
    state: State | null;
}
/** A connection's state has changed; `state` is the whole new state. */
interface PresenceUpdateEvent<State = DefaultState> extends PresenceEventBase {
    type: 'update';
    state: State | null;
}
/** A connection has left a room. */
interface PresenceLeaveEvent extends PresenceEventBase {
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
type PresenceEvent<State = DefaultState> = PresenceJoinEvent<State> | PresenceUpdateEvent<State> | PresenceLeaveEvent;
/** Receives presence events. Exceptions and rejections are logged and affect no other handler. */
type PresenceHandler<State = DefaultState> = (event: PresenceEvent<State>) => unknown;
/** Ends a subscription. After it has resolved, the handler is not called any more. */
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
    /** The room after the join, including this connection; empty with `snapshot: false`. */
    snapshot: PresenceSnapshotEntry<State>[];
}
/** Top-level keys to set; `null` stores `null`, `undefined` removes the key. */
type StatePatch<State = DefaultState> = {
    [Key in keyof State]?: State[Key] | null | undefined;
};
interface HeartbeatOptions<State = DefaultState> {
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
interface HeartbeatResult {
    /** Whether the patch changed the state (and an `update` was published). */
    changed: boolean;
    epoch: number;
}
/** One result of `heartbeatMany`: the result of the heartbeat, or its error. */
type HeartbeatManyResult = HeartbeatResult | Error;
interface LeaveCallOptions {
    /**
     * The epoch of the caller's join. A connection with a newer one stays. Default: the epoch of this
     * client's own last join of the connection; none, if it never joined it or its last join has an
     * unknown outcome.
     */
    epoch?: number | undefined;
}
interface LeaveResult {
    roomId: string;
    userId: string;
}
interface SubscribeOptions {
    /** Only events of this room; the node then subscribes only to this room in Redis. */
    roomId?: string;
}
interface EventsOptions extends SubscribeOptions {
    /** Ends the iteration. */
    signal?: AbortSignal;
    /** Maximum number of waiting events; above it the iteration fails. Default 10 000. */
    maxBuffered?: number;
}
interface ReapResult {
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
interface ResyncEvent {
    /**
     * `"reconnected"`: the subscription's connection was lost and restored; `"overflow"`: events
     * arrived faster than the handlers processed them, and were dropped.
     */
    reason: 'reconnected' | 'overflow';
}
/** The state of the connection to Redis. */
interface StateEvent {
    state: 'connected' | 'disconnected';
}
interface ClientEvents {
    resync: ResyncEvent;
    error: RollcallError;
    state: StateEvent;
}
/** The target of Rollcall's log, for example `console`. Missing methods are skipped. */
interface Logger {
    debug?(...args: unknown[]): void;
    info?(...args: unknown[]): void;
    warn?(...args: unknown[]): void;
    error?(...args: unknown[]): void;
}
/** Sizes in bytes of UTF-8, times in milliseconds. Above a limit: `INVALID_ARGUMENT`. */
interface Limits {
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
interface TlsOptions {
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
interface StateCompression {
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
interface Summary {
    count: number;
    mean: number;
    p50: number;
    p90: number;
    p99: number;
    max: number;
}
/** `client.metrics()`: counters since the client connected, current gauges, and distributions. */
interface Metrics {
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

/** Named locks: leases with fencing tokens, granted in order of arrival. `client.locks` is one. */
declare class Locks {
    #private;
    /**
     * Acquires the lock. Waits for it up to `waitMs`, in order of arrival among all nodes.
     *
     * @throws `LOCK_UNAVAILABLE` if it cannot be acquired in time (the message contains the owner and
     * the remaining time), and when `signal` fires, with the signal's reason as its `cause`;
     * `LOCK_LOST` if its lease ended before the call could resolve; `INVALID_ARGUMENT`,
     * `UNAVAILABLE`, `TIMEOUT`, `PERMISSION`, `CORRUPT_DATA`, `CLOSED`
     */
    acquire(name: string, options: AcquireOptions): Promise<Lock>;
    /** The holder of a lock, and the number of waiters; `null` if it is not held. */
    inspect(name: string): Promise<LockInspection | null>;
    /**
     * Revokes a lock from its holder, for operators. The first waiter gets it. The holder is notified at
     * once if its process can be reached; otherwise only the fencing token prevents its writes.
     *
     * @returns the revoked lock, or `null` if it was not held.
     */
    revoke(name: string): Promise<RevokedLock | null>;
    /**
     * Calls `handler` for each event of all locks, or of one.
     *
     * @returns a function that ends the subscription. An open subscription keeps the process alive.
     * @throws `UNSUPPORTED` for locks on several servers
     */
    subscribe(handler: LockHandler, options?: LockSubscribeOptions): Promise<Unsubscribe>;
}

/**
 * The metadata of channels: a small versioned record of items for each. Every change is one atomic
 * step with its event; changes of one channel that arrive while others are in flight share it.
 * Writers without an expected revision never get a conflict, and no change is lost.
 *
 * Changes reject with `METADATA_CONFLICT` (the error's `current` is the current record),
 * `METADATA_LOCK`, `METADATA_INVALID`, `CORRUPT_DATA` (the key contains data of another program),
 * `OVERLOADED`, and like all calls with `INVALID_ARGUMENT`, `UNAVAILABLE`, `TIMEOUT`,
 * `PERMISSION`, `CLOSED`.
 */
declare class Metadata {
    #private;
    /** Replaces the whole record. */
    set(change: SetMetadata): Promise<ChannelMetadata>;
    /**
     * Changes existing items; each gets its next revision. With `options.upsert`, missing items and a
     * missing record are created.
     *
     * @throws `METADATA_INVALID` if the record or an item does not exist; then nothing is changed.
     */
    update(change: UpdateMetadata): Promise<ChannelMetadata>;
    /** Removes the given items, or all. If no item exists, there is no new revision and no event. */
    remove(change: RemoveMetadata): Promise<ChannelMetadata>;
    /** The record; for an unknown channel, one without items and with major revision 0. */
    get(channel: GetMetadata): Promise<ChannelMetadata>;
    /**
     * Calls `handler` for each metadata event of all channels, or of one. Resolves when Redis has
     * confirmed the subscription. The events of a channel arrive in the order of its revisions.
     *
     * @returns a function that ends the subscription. An open subscription keeps the process alive.
     */
    subscribe(handler: MetadataHandler, options?: MetadataSubscribeOptions): Promise<Unsubscribe>;
}

/**
 * Presence on Redis, or in the process. Create one with {@link PresenceClient.connect} and share
 * it: a client has one connection for commands and, after the first subscription, one for events.
 *
 * Every method that returns a Promise rejects with a {@link RollcallError}; none throws.
 */
declare class PresenceClient<State extends object = DefaultState> {
    #private;
    /** Named locks: leases with fencing tokens, used alone or to guard metadata. */
    readonly locks: Locks;
    /** Channel metadata: a small versioned record of items for each channel. */
    readonly metadata: Metadata;
    private constructor();
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
    static connect<State extends object = DefaultState>(target?: string | readonly string[] | ClientOptions): Promise<PresenceClient<State>>;
    /**
     * Adds a connection to a room. If it is in another room, or under another user, it leaves that
     * place first, in the same atomic step.
     *
     * @returns its epoch, and the room's live connections (unless `snapshot: false`).
     * @throws `INVALID_ARGUMENT`, `UNAVAILABLE`, `TIMEOUT`, `PERMISSION`, `CLOSED`
     */
    join(options: JoinOptions<State>): Promise<JoinResult<State>>;
    /**
     * Refreshes a connection, and optionally changes its state. The cost for the event loop is very
     * small: heartbeats that arrive while others are in flight are sent in one batch. With `liveness:
     * "node"`, a heartbeat without a patch of this client's own connection is not sent at all.
     *
     * @throws `CONNECTION_NOT_FOUND` (expired or never joined: join again), `STALE_EPOCH`,
     * `INVALID_ARGUMENT`, `OVERLOADED`, `UNAVAILABLE`, `TIMEOUT`, `CLOSED`
     */
    heartbeat(options: HeartbeatOptions<State>): Promise<HeartbeatResult>;
    /**
     * Sends heartbeats of many connections in one call.
     *
     * @returns one result for each item, in order. The result of a failed item is its error.
     */
    heartbeatMany(items: readonly HeartbeatOptions<State>[]): Promise<HeartbeatManyResult[]>;
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
    leave(connId: string, options?: LeaveCallOptions): Promise<LeaveResult | null>;
    /** The epoch of a connection; `null` if it is unknown. */
    getEpoch(connId: string): Promise<number | null>;
    /** The live connections of a room, in no particular order. */
    fetchRoomSnapshot(roomId: string): Promise<PresenceSnapshotEntry<State>[]>;
    /** The live connections of a user, in all rooms. */
    getUserPresence(userId: string): Promise<UserPresence<State>>;
    /**
     * Calls `handler` for each presence event of all rooms, or of one. Resolves when Redis has
     * confirmed the subscription: no later event is missed. The events of a room arrive in the order
     * in which Redis applied the changes.
     *
     * @returns a function that ends the subscription. An open subscription keeps the process alive.
     */
    subscribe(handler: PresenceHandler<State>, options?: SubscribeOptions): Promise<Unsubscribe>;
    /**
     * The presence events as an async iterable. The subscription starts with the first `next()` and
     * ends with the loop, with `signal`, or with {@link close}.
     *
     * @throws `OVERLOADED` if more than `maxBuffered` events wait in the buffer.
     */
    events(options?: EventsOptions): AsyncGenerator<PresenceEvent<State>, void, undefined>;
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
    on<Name extends keyof ClientEvents>(name: Name, handler: (event: ClientEvents[Name]) => unknown): () => void;
    /**
     * Lets this node remove dead connections, each within `sweepIntervalMs` of its TTL and with
     * exactly one `leave`, for any number of nodes. Does not keep the process alive.
     */
    startReaper(): Promise<void>;
    /**
     * Runs one full pass of the reaper. A part that cannot be processed (a master of a cluster is
     * down, a room's keys have other types) is logged and left for the next pass.
     *
     * @throws `UNAVAILABLE`, `TIMEOUT` if nothing could be processed.
     */
    reapOnce(): Promise<ReapResult>;
    /** Counters, gauges and latencies of this client. */
    metrics(): Metrics;
    /**
     * Sends waiting calls, settles every Promise, and closes the connections. Connections that this
     * client has joined stay until they leave or their TTL ends; with `liveness: "node"` they leave
     * now, with reason `"timeout"`. Locks that it holds are released, and calls that wait for a lock
     * reject. Later calls reject with `CLOSED`; a second close waits for the first.
     */
    close(): Promise<void>;
    [Symbol.asyncDispose](): Promise<void>;
}

/** Emits events; a Socket.IO server or namespace is one. */
interface RoomEmitter {
    to(room: string): {
        emit(event: string, payload: never): unknown;
    };
}
type Listener = (...args: any[]) => void;
/** The used part of a socket; a Socket.IO socket is one. */
interface SocketLike {
    readonly id: string;
    /** Gets `presenceRoomId` and `presenceUserId`, for the server's own handlers. */
    readonly data?: any;
    /** The rooms of the socket: rooms from before a join are not left. */
    readonly rooms?: {
        has(room: string): boolean;
    };
    /** Its namespace, to look up other sockets. */
    readonly nsp?: object;
    /** Whether it was recovered (connection state recovery). */
    readonly recovered?: boolean;
    join(room: string): unknown;
    leave(room: string): unknown;
    on(event: string, listener: Listener): unknown;
    off(event: string, listener: Listener): unknown;
}
/** The used part of a socket server; a Socket.IO server or namespace is one. */
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
    /** Ends the bridge: after it has resolved, nothing is emitted. */
    stop(): Promise<void>;
}

/** The arguments of calls for a channel's metadata. */
interface ChannelMetadataParams extends ChannelRef {
    /** The items to set, change or remove. */
    data?: readonly MetadataItemInput[] | undefined;
    options?: UpdateMetadataOptions | undefined;
    /** The user that makes the change. */
    actorUserId?: string | undefined;
}

/** The server and the settings of the connection, as in {@link ClientOptions}. */
type ConnectionSettings = Pick<ClientOptions, 'url' | 'tls' | 'sentinel' | 'keyPrefix' | 'channelPrefix'>;
/** A client of `ioredis` or of `redis` (node-redis); only its options are read. */
interface RedisClientLike {
    readonly options?: object | undefined;
}
/** Specifies the Redis server. */
type RedisSource = string | RedisClientLike | ConnectionSettings;

/** Options of the client that the legacy implementation does not have. */
type ServiceClientOptions = Omit<ClientOptions, 'url' | 'tls' | 'sentinel' | 'ttlMs' | 'liveness' | 'nodeLeaseMs' | 'nodeWatchdogMs' | 'sweepIntervalMs' | 'logger'>;
interface PresenceServiceOptions {
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
declare class PresenceService<State extends object = DefaultState> {
    #private;
    /**
     * @param redis - an ioredis client, a node-redis client (neither is used for commands, nor needs
     * to
     * be connected), or a URL.
     * @throws `INVALID_ARGUMENT` for invalid options, `UNSUPPORTED` for settings of the client that
     * Rollcall does not support.
     */
    constructor(redis: RedisSource, options?: PresenceServiceOptions);
    /**
     * The underlying client, connected: for features that the legacy implementation does not have
     * (resync, users, locks, metrics).
     */
    client(): Promise<PresenceClient<State>>;
    /**
     * Adds a connection to a room; if it is in another one, it leaves that room first.
     *
     * @returns the room's live connections, including this one.
     */
    join(options: Omit<JoinOptions<State>, 'snapshot'>): Promise<PresenceSnapshotEntry<State>[]>;
    /**
     * Refreshes a connection, and optionally changes its state.
     *
     * @returns whether the state has changed; also `false` for an unknown connection (it expired:
     * join again) and for an epoch that is older than the stored one.
     */
    heartbeat(options: HeartbeatOptions<State>): Promise<boolean>;
    /** The number of waiting heartbeats. */
    heartbeatsWaiting(): number;
    /**
     * Removes a connection from its room. With an epoch, a connection with a newer one stays;
     * without, a connection that another server has joined since this service did stays.
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
     * Changes existing items.
     *
     * @throws {@link MetadataConflictError}, {@link MetadataLockError}, {@link
     * MetadataValidationError}
     */
    updateChannelMetadata(params: ChannelMetadataParams): Promise<ChannelMetadata>;
    /**
     * Removes the named items, or all.
     *
     * @throws {@link MetadataConflictError}, {@link MetadataLockError}
     */
    removeChannelMetadata(params: ChannelMetadataParams): Promise<ChannelMetadata>;
    /** A channel's record; for an unknown channel, one without items and with major revision 0. */
    getChannelMetadata(params: ChannelMetadataParams): Promise<ChannelMetadata>;
    /**
     * Emits every presence event to the sockets of its room, and every metadata event to those of the
     * room with the channel's name: `adapter.to(room).emit(event, payload)`. If the adapter is a
     * Socket.IO server, it emits only to the sockets of this process, because every process has a
     * bridge. When events may have been missed, every room with sockets here gets `presence:resync`
     * with a snapshot.
     */
    createSocketBridge(adapter: RoomEmitter, options?: SocketBridgeOptions): Promise<Bridge>;
    /**
     * Lets this node remove dead connections, each with one `leave`, for any number of nodes. Retries
     * while Redis is down, and logs failures.
     */
    startReaper(): void;
    /**
     * Ends the reaper and all subscriptions, and closes the connections. Joined connections stay
     * until they leave or their TTL ends; with `liveness: "node"` they leave now. A later call
     * reconnects, as a call with the server's own ioredis client would still be answered.
     */
    stop(): Promise<void>;
}

/** What a part uses: an existing service, or Redis with separate connections. */
type PartSource<State extends object = DefaultState> = RedisSource | PresenceService<State>;
interface HeartbeatBatcherOptions {
    /** How long a connection lives without a heartbeat. Milliseconds. Ignored with a service, which has its own. */
    ttlMs?: number | undefined;
    /** How long a heartbeat waits for others. Milliseconds, default 0: batches form without waiting. */
    batchWindowMs?: number | undefined;
    /** Maximum number of heartbeats in one batch. Default 256. */
    maxBatchSize?: number | undefined;
    logger?: Logger | undefined;
}
interface LuaHeartbeatExecutorOptions {
    /** How long a connection lives without a heartbeat. Milliseconds. Ignored with a service, which has its own. */
    ttlMs?: number | undefined;
    logger?: Logger | undefined;
}
interface TransactionalMetadataOptions {
    /** Checked and not used: a change is retried as long as other changes conflict with it. */
    maxRetries?: number | undefined;
    /** Checked and not used. */
    retryDelayMs?: number | undefined;
    logger?: Logger | undefined;
}
/** The common base of the classes: a service, and whether it ends with the part. */
declare class Part<State extends object> {
    #private;
    protected readonly service: PresenceService<State>;
    constructor(name: string, source: PartSource<State>, { ttlMs, logger }: {
        ttlMs?: unknown;
        logger?: unknown;
    }, client?: ServiceClientOptions);
    protected ended(): Promise<never> | undefined;
    /**
     * Later calls reject with `CLOSED`. Closes the connections if they belong to the part; a service
     * that was passed in stays open.
     */
    dispose(): Promise<void>;
}
/** Combines concurrent heartbeats in one call. */
declare class HeartbeatBatcher<State extends object = DefaultState> extends Part<State> {
    /** @throws `INVALID_ARGUMENT`, `UNSUPPORTED` as the constructor of {@link PresenceService}. */
    constructor(source: PartSource<State>, options?: HeartbeatBatcherOptions);
    /** Whether the state has changed; `false` also for an unknown connection or a stale epoch. */
    heartbeat(options: HeartbeatOptions<State>): Promise<boolean>;
    /** The number of waiting heartbeats. */
    getBufferSize(): number;
}
/** Runs a heartbeat in one atomic step. */
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
/** Changes of metadata, each of which is a transaction. */
declare class TransactionalMetadataWrapper extends Part<DefaultState> {
    /** @throws `INVALID_ARGUMENT`, `UNSUPPORTED` as the constructor of {@link PresenceService}. */
    constructor(source: PartSource<any>, options?: TransactionalMetadataOptions);
    setChannelMetadata(params: ChannelMetadataParams): Promise<ChannelMetadata>;
    updateChannelMetadata(params: ChannelMetadataParams): Promise<ChannelMetadata>;
    removeChannelMetadata(params: ChannelMetadataParams): Promise<ChannelMetadata>;
}

/** Limits for each socket; `Infinity` disables a limit. */
interface SocketQuotas {
    /** Presence rooms at a time. In this protocol a socket is in one room at most. Default 1. */
    roomsPerSocket?: number | undefined;
    /** Joins and leaves. Default 10. */
    joinsPerSecond?: number | undefined;
    /** Heartbeats, with or without a patch. Default 100. */
    patchesPerSecond?: number | undefined;
    /** Requests for channel metadata, including reads. Default 20. */
    metadataPerSecond?: number | undefined;
    /** Size of all payloads, in bytes. A longer payload is never accepted. Default 2 MiB. */
    bytesPerSecond?: number | undefined;
    /** Unanswered requests of all kinds. Default 128. */
    queuedPerSocket?: number | undefined;
}

/** The action that a socket requests. */
type SocketAction = 'join' | 'heartbeat' | 'leave' | 'metadata:set' | 'metadata:update' | 'metadata:remove' | 'metadata:get';
interface SocketRequest<Socket = SocketLike> {
    socket: Socket;
    /**
     * The user: the result of `identify`, or without it the user that joined or wants to join on the
     * socket.
     */
    userId: string | undefined;
    action: SocketAction;
    /** The room to join, or the room of the socket. */
    roomId?: string | undefined;
    /** The channel, for metadata. */
    channel?: {
        channelType: string;
        channelName: string;
    } | undefined;
    /**
     * The state of a join, the patch of a heartbeat, or the items of a metadata change, unmodified.
     */
    data?: unknown;
}
interface SocketPolicyOptions {
    /**
     * Returns the user of a socket; called at each join, and once for metadata before any join. With
     * it, a `userId` in a payload is optional, and must be equal otherwise. An invalid id, an
     * exception and a rejection refuse the request.
     */
    identify?: ((socket: any) => string | Promise<string>) | undefined;
    /**
     * Whether a request is allowed; called for every action of a socket. Any value but `true`, an
     * exception and a rejection refuse it with `FORBIDDEN`.
     */
    authorize?: ((request: SocketRequest<any>) => boolean | Promise<boolean>) | undefined;
    /** The limits for one socket; above them `RATE_LIMITED`, for that socket only. */
    quotas?: SocketQuotas | undefined;
}

/**
 * Optimizations that the legacy implementation could enable. All are accepted; Rollcall always has
 * them, so only two of them have an effect.
 */
interface PresenceOptimizations {
    enableHeartbeatBatching?: boolean | undefined;
    /**
     * How long a heartbeat waits for others. Milliseconds, default 0: batches form without waiting.
     */
    heartbeatBatchWindowMs?: number | undefined;
    /** Maximum number of heartbeats in one batch. Default 256. */
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
    /**
     * How long a connection lives without a heartbeat. Not used with `liveness: "node"`. Milliseconds,
     * default 30 000.
     */
    ttlMs?: number | undefined;
    /**
     * With `"node"`, sockets need not send heartbeats: a socket is present until it leaves or
     * disconnects, or until this server ends or is cut off from Redis. See
     * {@link ClientOptions.liveness}. Default `"heartbeat"`.
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
    /** Checked and not used. Default `2 × ttlMs`. */
    reaperLookbackMs?: number | undefined;
    logger?: Logger | undefined;
    /**
     * The target of events: by default the sockets of `io` that are in the room. `adapter` replaces
     * the target; `false` disables the bridge.
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
     * Resolves when this process is connected and its bridge gets events. Rejects if that is
     * impossible (Redis refuses the settings), or if the handle is disposed before.
     */
    readonly ready: Promise<void>;
    /**
     * Removes the connections of all sockets from their rooms, ends bridge and reaper, and closes the
     * connections to Redis, even while they are being opened. Later requests of sockets are
     * acknowledged with `CLOSED`, and later calls reject with it. May be called before or after
     * `io.close()`.
     */
    dispose(): Promise<void>;
    getHeartbeatBatcher(): HeartbeatBatcher<State>;
    getLuaHeartbeatExecutor(): LuaHeartbeatExecutor<State>;
    getTransactionalMetadata(): TransactionalMetadataWrapper;
}
/** The handle, available at once; also a Promise of it, which settles like `ready`. */
type StartingPresence<State extends object = DefaultState> = PresenceHandle<State> & Promise<PresenceHandle<State>>;
/**
 * Serves presence to the sockets of a Socket.IO server: handlers, bridge and reaper. Does not
 * block: while Redis is down, it retries.
 *
 * @returns the handle, which can be used at once; `await initPresence(…)` (or `.then`, as in the
 * legacy implementation) waits until it is `ready`.
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
    /** Sorted set: connection id → time of the last heartbeat. */
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

/** Sends heartbeats: a `HeartbeatBatcher`, a `LuaHeartbeatExecutor`, or a wrapper around one. */
interface HeartbeatSender {
    heartbeat(options: HeartbeatOptions): Promise<boolean>;
}
/** Changes metadata: a `TransactionalMetadataWrapper`, or a wrapper around one. */
interface MetadataChanger {
    setChannelMetadata(params: ChannelMetadataParams): Promise<ChannelMetadata>;
    updateChannelMetadata(params: ChannelMetadataParams): Promise<ChannelMetadata>;
    removeChannelMetadata(params: ChannelMetadataParams): Promise<ChannelMetadata>;
}
interface PresenceHandlersOptions extends SocketPolicyOptions {
    io: SocketServerLike;
    /** Not used: the service has its own connections. */
    redis?: unknown | undefined;
    /** Logs failures that the client did not cause. Default: `console`. */
    logger?: Logger | undefined;
    /**
     * Sends the heartbeats of the sockets instead of the service; the executor has precedence over
     * the batcher. If the service has `liveness: "node"`, create it from that service: with
     * connections of its own it would make the sockets depend on their heartbeats.
     */
    heartbeatBatcher?: HeartbeatSender | null | undefined;
    luaHeartbeatExecutor?: HeartbeatSender | null | undefined;
    /** Makes the metadata changes of the sockets instead of the service. */
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
 * `{ ok: false, error, code? }`, a revision conflict also with `current`, the current record. A socket
 * that disconnects leaves. The service's public methods are called, so that a subclass or a wrapper sees
 * every request. Listeners return a Promise that resolves when the request is done, and never rejects.
 *
 * @returns a function that removes the handlers, including those of connected sockets.
 */
declare function registerPresenceHandlers<State extends object = DefaultState>(options: PresenceHandlersOptions, service: PresenceService<State>): () => void;

/** The options of `initPresence`. */
type PresenceInitOptions = InitPresenceOptions;
/** The result of `initPresence`; the getters of a `PresenceHandle` never return `null`. */
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
/** The options of `registerPresenceHandlers`. */
type PresenceHandlerContext = PresenceHandlersOptions;
/** Identifies a connection that leaves. */
interface LeaveOptions {
    connId: string;
}
/** The JSON value of each connection in a room's `conn_meta`. */
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
/** The emitter of a bridge; a Socket.IO server is one. */
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
