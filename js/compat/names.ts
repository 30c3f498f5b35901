// The type names of the legacy implementation, so that only the import of a server's file changes.
// Where Rollcall's own type is stricter, the name stands for the common part: code that creates or
// accepts such a value compiles as before. No code.

import type {
  ChannelMetadata,
  MetadataItem,
  MetadataItemInput,
  UpdateMetadataOptions,
} from '../metadata-types.js';
import type { Bridge, SocketBridgeOptions } from './bridge.js';
import type { InitPresenceOptions, PresenceOptimizations } from './init.js';
import type {
  HeartbeatBatcher,
  LuaHeartbeatExecutor,
  TransactionalMetadataWrapper,
} from './parts.js';
import type { PresenceHandlersOptions } from './sockets.js';

/** The options of `initPresence`. */
export type PresenceInitOptions = InitPresenceOptions;

/** The result of `initPresence`; the getters of a `PresenceHandle` never return `null`. */
export interface PresenceRuntime {
  dispose(): Promise<void>;
  getHeartbeatBatcher(): HeartbeatBatcher | null;
  getLuaHeartbeatExecutor(): LuaHeartbeatExecutor | null;
  getTransactionalMetadata(): TransactionalMetadataWrapper | null;
}

export type PresenceOptimizationOptions = PresenceOptimizations;

export interface PresenceLogger {
  debug(message: string, meta?: unknown): void;
  info(message: string, meta?: unknown): void;
  warn(message: string, meta?: unknown): void;
  error(message: string, meta?: unknown): void;
}

/** The options of `registerPresenceHandlers`. */
export type PresenceHandlerContext = PresenceHandlersOptions;

/** Identifies a connection that leaves. */
export interface LeaveOptions {
  connId: string;
}

/** The JSON value of each connection in a room's `conn_meta`. */
export interface PresenceConnectionMetadata {
  userId: string;
  epoch: number;
}

export type PresenceEventType = 'join' | 'leave' | 'update';

/** A presence event; a `PresenceEvent` is one. */
export interface PresenceEventPayload {
  type: PresenceEventType;
  roomId: string;
  userId: string;
  connId: string;
  state?: Record<string, unknown> | null | undefined;
  ts: number;
  epoch?: number | undefined;
  reason?: 'left' | 'timeout' | 'replaced' | undefined;
}

export type PresenceEventHandler = (event: PresenceEventPayload) => void | Promise<void>;

export interface PresenceSocketRoomEmitter {
  emit(event: string, payload: PresenceEventPayload): unknown;
}

/** The emitter of a bridge; a Socket.IO server is one. */
export interface PresenceSocketAdapter {
  to(roomId: string): PresenceSocketRoomEmitter;
}

export type PresenceEventBridge = Bridge;
export type PresenceEventBridgeOptions = SocketBridgeOptions;
export interface PresenceBridgeOptions extends SocketBridgeOptions {}

export type ChannelMetadataOperation = 'set' | 'update' | 'remove';
export type ChannelMetadataItemInput = MetadataItemInput;
export type ChannelMetadataEntry = MetadataItem;
export type ChannelMetadataRecord = Record<string, MetadataItem>;
export type ChannelMetadataOptions = UpdateMetadataOptions;
export type ChannelMetadataResponse = ChannelMetadata;

/** A metadata event; a `MetadataEvent` is one. */
export interface ChannelMetadataEventPayload {
  channelName: string;
  channelType: string;
  operation: ChannelMetadataOperation;
  items: ChannelMetadataItemInput[];
  majorRevision: number;
  timestamp: number;
  authorUid?: string | undefined;
}

export type ChannelMetadataEventHandler = (
  event: ChannelMetadataEventPayload,
) => void | Promise<void>;

export interface ChannelMetadataGetParams {
  channelName: string;
  channelType: string;
}

export interface ChannelMetadataMutationParams extends ChannelMetadataGetParams {
  data: ChannelMetadataItemInput[];
  options?: ChannelMetadataOptions | undefined;
  actorUserId?: string | undefined;
}

export interface ChannelMetadataRemovalParams extends ChannelMetadataGetParams {
  data?: ChannelMetadataItemInput[] | undefined;
  options?: ChannelMetadataOptions | undefined;
  actorUserId?: string | undefined;
}
