// The parts that the legacy implementation could enable, as classes that a server creates or gets
// from `initPresence`. Here they are views of one PresenceService, which always batches, uses one
// round trip and makes atomic changes.

import type { ErrorCode } from '../errors.js';
import { RollcallError } from '../errors.js';
import type { ChannelMetadata } from '../metadata-types.js';
import type { DefaultState, HeartbeatOptions, Logger } from '../types.js';
import { checkCount, checkOptions, checkWhole, readKnown } from '../validate.js';
import type { ChannelMetadataParams } from './coerce.js';
import {
  PresenceService,
  type PresenceServiceOptions,
  type ServiceClientOptions,
} from './service.js';
import type { RedisSource } from './settings.js';

/** What a part uses: an existing service, or Redis with separate connections. */
export type PartSource<State extends object = DefaultState> = RedisSource | PresenceService<State>;

export interface HeartbeatBatcherOptions {
  /** How long a connection lives without a heartbeat. Milliseconds. Ignored with a service, which has its own. */
  ttlMs?: number | undefined;
  /** How long a heartbeat waits for others. Milliseconds, default 0: batches form without waiting. */
  batchWindowMs?: number | undefined;
  /** Maximum number of heartbeats in one batch. Default 256. */
  maxBatchSize?: number | undefined;
  logger?: Logger | undefined;
}

export interface LuaHeartbeatExecutorOptions {
  /** How long a connection lives without a heartbeat. Milliseconds. Ignored with a service, which has its own. */
  ttlMs?: number | undefined;
  logger?: Logger | undefined;
}

export interface TransactionalMetadataOptions {
  /** Checked and not used: a change is retried as long as other changes conflict with it. */
  maxRetries?: number | undefined;
  /** Checked and not used. */
  retryDelayMs?: number | undefined;
  logger?: Logger | undefined;
}

/** The common base of the classes: a service, and whether it ends with the part. */
class Part<State extends object> {
  protected readonly service: PresenceService<State>;
  readonly #own: boolean;
  readonly #name: string;
  #disposed = false;

  constructor(
    name: string,
    source: PartSource<State>,
    { ttlMs, logger }: { ttlMs?: unknown; logger?: unknown },
    client: ServiceClientOptions = {},
  ) {
    this.#name = name;
    this.#own = !(source instanceof PresenceService);
    this.service =
      source instanceof PresenceService
        ? source
        : new PresenceService<State>(source, {
            ttlMs: ttlMs as PresenceServiceOptions['ttlMs'],
            logger: logger as PresenceServiceOptions['logger'],
            client,
          });
  }

  protected ended(): Promise<never> | undefined {
    if (!this.#disposed) {
      return undefined;
    }
    const code: ErrorCode = 'CLOSED';
    return Promise.reject(new RollcallError(code, `${this.#name} has been disposed`));
  }

  /**
   * Later calls reject with `CLOSED`. Closes the connections if they belong to the part; a service
   * that was passed in stays open.
   */
  async dispose(): Promise<void> {
    this.#disposed = true;
    if (this.#own) {
      await this.service.end();
    }
  }
}

/** Combines concurrent heartbeats in one call. */
export class HeartbeatBatcher<State extends object = DefaultState> extends Part<State> {
  /** @throws `INVALID_ARGUMENT`, `UNSUPPORTED` as the constructor of {@link PresenceService}. */
  constructor(source: PartSource<State>, options: HeartbeatBatcherOptions = {}) {
    checkOptions('HeartbeatBatcher', options);
    const { batchWindowMs, maxBatchSize, ...rest } = readKnown(options, BATCHER_FIELDS);
    const client: ServiceClientOptions = {};
    if (batchWindowMs !== undefined) {
      checkWhole('batchWindowMs', batchWindowMs);
      client.batchWindowMs = batchWindowMs;
    }
    if (maxBatchSize !== undefined) {
      checkCount('maxBatchSize', maxBatchSize);
      client.limits = { maxBatchSize };
    }
    super('HeartbeatBatcher', source, rest, client);
  }

  /** Whether the state has changed; `false` also for an unknown connection or a stale epoch. */
  heartbeat(options: HeartbeatOptions<State>): Promise<boolean> {
    return this.ended() ?? this.service.heartbeat(options);
  }

  /** The number of waiting heartbeats. */
  getBufferSize(): number {
    return this.service.heartbeatsWaiting();
  }
}

/** Runs a heartbeat in one atomic step. */
export class LuaHeartbeatExecutor<State extends object = DefaultState> extends Part<State> {
  /** @throws `INVALID_ARGUMENT`, `UNSUPPORTED` as the constructor of {@link PresenceService}. */
  constructor(source: PartSource<State>, options: LuaHeartbeatExecutorOptions = {}) {
    checkOptions('LuaHeartbeatExecutor', options);
    super('LuaHeartbeatExecutor', source, readKnown(options, EXECUTOR_FIELDS));
  }

  /** Whether the state has changed; `false` also for an unknown connection or a stale epoch. */
  heartbeat(options: HeartbeatOptions<State>): Promise<boolean> {
    return this.ended() ?? this.service.heartbeat(options);
  }

  /** The epoch of a connection; `undefined` if it is unknown. */
  async getEpoch(connId: string): Promise<number | undefined> {
    await this.ended();
    return (await (await this.service.client()).getEpoch(connId)) ?? undefined;
  }

  /** Connects, which loads the scripts. */
  async warmup(): Promise<void> {
    await this.ended();
    await this.service.client();
  }
}

/** Changes of metadata, each of which is a transaction. */
export class TransactionalMetadataWrapper extends Part<DefaultState> {
  /** @throws `INVALID_ARGUMENT`, `UNSUPPORTED` as the constructor of {@link PresenceService}. */
  constructor(
    // biome-ignore lint/suspicious/noExplicitAny: metadata do not depend on states
    source: PartSource<any>,
    options: TransactionalMetadataOptions = {},
  ) {
    checkOptions('TransactionalMetadataWrapper', options);
    const { maxRetries, retryDelayMs, logger } = readKnown(options, TRANSACTIONAL_FIELDS);
    for (const [field, value] of Object.entries({ maxRetries, retryDelayMs })) {
      if (value !== undefined) {
        checkWhole(field, value);
      }
    }
    super('TransactionalMetadataWrapper', source, { logger });
  }

  setChannelMetadata(params: ChannelMetadataParams): Promise<ChannelMetadata> {
    return this.ended() ?? this.service.setChannelMetadata(params);
  }

  updateChannelMetadata(params: ChannelMetadataParams): Promise<ChannelMetadata> {
    return this.ended() ?? this.service.updateChannelMetadata(params);
  }

  removeChannelMetadata(params: ChannelMetadataParams): Promise<ChannelMetadata> {
    return this.ended() ?? this.service.removeChannelMetadata(params);
  }
}

const BATCHER_FIELDS = ['ttlMs', 'batchWindowMs', 'maxBatchSize', 'logger'] as const;
const EXECUTOR_FIELDS = ['ttlMs', 'logger'] as const;
const TRANSACTIONAL_FIELDS = ['maxRetries', 'retryDelayMs', 'logger'] as const;
