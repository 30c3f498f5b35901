// The ES module entry: re-exports the CommonJS module, so that there is one copy of every class for
// both ways of loading.

export type * from './index.js';
export {
  ERROR_CODES,
  HeartbeatBatcher,
  initPresence,
  LuaHeartbeatExecutor,
  MetadataConflictError,
  MetadataError,
  MetadataLockError,
  MetadataValidationError,
  PresenceClient,
  PresenceService,
  presenceKeys,
  RollcallError,
  registerPresenceHandlers,
  TransactionalMetadataWrapper,
} from './index.js';
