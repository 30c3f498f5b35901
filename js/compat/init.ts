// initPresence: everything that a Socket.IO server needs, in one call.

import { RollcallError } from '../errors.js';
import type { ClientOptions, DefaultState, Logger } from '../types.js';
import { checkCount, checkFlag, checkOptions, copyOf, readKnown } from '../validate.js';
import { BRIDGE_OPTION_FIELDS, type SocketBridgeOptions } from './bridge.js';
import { HeartbeatBatcher, LuaHeartbeatExecutor, TransactionalMetadataWrapper } from './parts.js';
import { untilDone } from './retry.js';
import { PresenceService, type ServiceClientOptions } from './service.js';
import type { RedisSource } from './settings.js';
import { POLICY_FIELDS, type SocketPolicyOptions } from './socket-policy.js';
import type { RoomEmitter, SocketServerLike } from './socket-types.js';
import { PresenceHandlers } from './sockets.js';

/**
 * Optimizations that the legacy implementation could enable. All are accepted; Rollcall always has
 * them, so only two of them have an effect.
 */
export interface PresenceOptimizations {
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

export interface InitPresenceOptions extends SocketPolicyOptions {
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
  bridge?: boolean | (SocketBridgeOptions & { adapter?: RoomEmitter | undefined }) | undefined;
  optimizations?: PresenceOptimizations | undefined;
  /** Further options of the client. */
  client?: ServiceClientOptions | undefined;
}

export interface PresenceHandle<State extends object = DefaultState> {
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
export type StartingPresence<State extends object = DefaultState> = PresenceHandle<State> &
  Promise<PresenceHandle<State>>;

/**
 * Serves presence to the sockets of a Socket.IO server: handlers, bridge and reaper. Does not
 * block: while Redis is down, it retries.
 *
 * @returns the handle, which can be used at once; `await initPresence(…)` (or `.then`, as in the
 * legacy implementation) waits until it is `ready`.
 */
export function initPresence<State extends object = DefaultState>(
  options: InitPresenceOptions,
): StartingPresence<State> {
  checkOptions('initPresence', options);
  const {
    io,
    redis,
    ttlMs = 30_000,
    liveness,
    nodeLeaseMs,
    nodeWatchdogMs,
    reaperIntervalMs = 3_000,
    reaperLookbackMs,
    logger,
    bridge = true,
    optimizations = {},
    client = {},
    ...policy
  } = readKnown(options, INIT_FIELDS) as InitPresenceOptions;
  checkOptions('client', client);
  if (typeof bridge !== 'boolean') {
    checkOptions('bridge', bridge);
  }
  const bridgeOptions = typeof bridge === 'boolean' ? {} : readKnown(bridge, BRIDGE_FIELDS);
  const service = new PresenceService<State>(redis, {
    ttlMs,
    liveness,
    nodeLeaseMs,
    nodeWatchdogMs,
    reaperIntervalMs,
    ...(reaperLookbackMs === undefined ? {} : { reaperLookbackMs }),
    logger,
    client: clientOptions(optimizations, copyOf('client', client)),
  });
  const handlers = new PresenceHandlers(
    { io, logger, ...policy },
    service as unknown as PresenceService,
  );
  service.startReaper();

  const stop = new AbortController();
  let disposed: Promise<void> | undefined;
  const start = async () => {
    if (bridge === false) {
      await service.client();
      return;
    }
    const { adapter = io, ...names } = bridgeOptions as SocketBridgeOptions & {
      adapter?: RoomEmitter;
    };
    await service.createSocketBridge(adapter, names);
  };
  const ready = untilDone(
    'Starting the presence bridge',
    start,
    stop.signal,
    logger ?? console,
  ).then(() => {
    if (stop.signal.aborted) {
      throw new RollcallError('CLOSED', 'presence was disposed before it was ready');
    }
  });
  const batcher = new HeartbeatBatcher<State>(service);
  const executor = new LuaHeartbeatExecutor<State>(service);
  const transactional = new TransactionalMetadataWrapper(service);
  const handle: PresenceHandle<State> = {
    service,
    ready,
    dispose: () => {
      disposed ??= (async () => {
        stop.abort();
        try {
          await handlers.close();
        } finally {
          await service.end();
        }
      })();
      return disposed;
    },
    getHeartbeatBatcher: () => batcher,
    getLuaHeartbeatExecutor: () => executor,
    getTransactionalMetadata: () => transactional,
  };
  const starting = ready.then(() => handle);
  // If the caller does not await `ready`, the log reports the failure.
  starting.catch(() => {});
  return Object.assign(starting, handle);
}

const INIT_FIELDS = [
  'io',
  'redis',
  'ttlMs',
  'liveness',
  'nodeLeaseMs',
  'nodeWatchdogMs',
  'reaperIntervalMs',
  'reaperLookbackMs',
  'logger',
  'bridge',
  'optimizations',
  'client',
  ...POLICY_FIELDS,
] as const satisfies readonly (keyof InitPresenceOptions)[];

const BRIDGE_FIELDS = ['adapter', ...BRIDGE_OPTION_FIELDS] as const;

const OPTIMIZATION_FIELDS = [
  'enableHeartbeatBatching',
  'heartbeatBatchWindowMs',
  'heartbeatMaxBatchSize',
  'enableLuaHeartbeat',
  'enableLuaJoin',
  'enableTransactionalMetadata',
  'metadataMaxRetries',
] as const satisfies readonly (keyof PresenceOptimizations)[];

/** The client's options, with the optimizations that are options of the client. */
function clientOptions(
  optimizations: PresenceOptimizations,
  client: ServiceClientOptions,
): ServiceClientOptions {
  checkOptions('optimizations', optimizations);
  const given = readKnown(optimizations, OPTIMIZATION_FIELDS);
  const field = (name: string) => `optimizations.${name}`;
  for (const [name, value] of Object.entries(given)) {
    if (name.startsWith('enable')) {
      checkFlag(field(name), value, false);
    }
  }
  const { heartbeatBatchWindowMs, heartbeatMaxBatchSize, metadataMaxRetries } = given;
  if (metadataMaxRetries !== undefined && metadataMaxRetries !== 0) {
    checkCount(field('metadataMaxRetries'), metadataMaxRetries);
  }
  const mapped: ServiceClientOptions = { ...client };
  if (heartbeatBatchWindowMs !== undefined && given.enableHeartbeatBatching !== false) {
    if (heartbeatBatchWindowMs !== 0) {
      checkCount(field('heartbeatBatchWindowMs'), heartbeatBatchWindowMs);
    }
    mapped.batchWindowMs = heartbeatBatchWindowMs;
  }
  if (heartbeatMaxBatchSize !== undefined) {
    checkCount(field('heartbeatMaxBatchSize'), heartbeatMaxBatchSize);
    mapped.limits = {
      ...copyOf('limits', client.limits ?? {}),
      maxBatchSize: heartbeatMaxBatchSize,
    };
  }
  return mapped;
}
