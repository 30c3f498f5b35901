// The CommonJS entry.

export { PresenceClient } from './client.js';
export type { Bridge as SocketBridge, SocketBridgeOptions } from './compat/bridge.js';
export type { ChannelMetadataParams } from './compat/coerce.js';
export {
  type InitPresenceOptions,
  initPresence,
  type PresenceHandle,
  type PresenceOptimizations,
  type StartingPresence,
} from './compat/init.js';
export { presenceKeys } from './compat/keys.js';
export type * from './compat/names.js';
export {
  HeartbeatBatcher,
  type HeartbeatBatcherOptions,
  LuaHeartbeatExecutor,
  type LuaHeartbeatExecutorOptions,
  type PartSource,
  type TransactionalMetadataOptions,
  TransactionalMetadataWrapper,
} from './compat/parts.js';
export {
  PresenceService,
  type PresenceServiceOptions,
  type ServiceClientOptions,
} from './compat/service.js';
export type { ConnectionSettings, RedisClientLike, RedisSource } from './compat/settings.js';
export type { SocketAction, SocketPolicyOptions, SocketRequest } from './compat/socket-policy.js';
export type { SocketQuotas } from './compat/socket-quotas.js';
export type { RoomEmitter, SocketLike, SocketServerLike } from './compat/socket-types.js';
export {
  type HeartbeatSender,
  type MetadataChanger,
  type PresenceHandlersOptions,
  registerPresenceHandlers,
} from './compat/sockets.js';
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
export type * from './types.js';
