// What `require("rollcall")` gives.

export { PresenceClient } from './client.js';
export {
  ERROR_CODES,
  type ErrorCode,
  MetadataConflictError,
  MetadataError,
  MetadataLockError,
  MetadataValidationError,
  RollcallError,
} from './errors.js';
export type * from './lock-types.js';
export type { Locks } from './locks.js';
export type { Metadata } from './metadata.js';
export type * from './metadata-types.js';
export type { Bridge as SocketBridge, RoomEmitter, SocketBridgeOptions } from './swap/bridge.js';
export {
  type InitPresenceOptions,
  initPresence,
  type PresenceHandle,
  type PresenceOptimizations,
  type StartingPresence,
} from './swap/init.js';
export { presenceKeys } from './swap/keys.js';
export type * from './swap/names.js';
export {
  HeartbeatBatcher,
  type HeartbeatBatcherOptions,
  LuaHeartbeatExecutor,
  type LuaHeartbeatExecutorOptions,
  type PartSource,
  type TransactionalMetadataOptions,
  TransactionalMetadataWrapper,
} from './swap/parts.js';
export {
  type ChannelMetadataParams,
  PresenceService,
  type PresenceServiceOptions,
  type ServiceClientOptions,
} from './swap/service.js';
export type { ConnectionSettings, RedisClientLike, RedisSource } from './swap/settings.js';
export type { SocketAction, SocketPolicyOptions, SocketRequest } from './swap/socket-policy.js';
export type { SocketQuotas } from './swap/socket-quotas.js';
export {
  type HeartbeatSender,
  type MetadataChanger,
  type PresenceHandlersOptions,
  registerPresenceHandlers,
  type SocketLike,
  type SocketServerLike,
} from './swap/sockets.js';
export type * from './types.js';
