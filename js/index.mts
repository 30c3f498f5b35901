// What `import … from "rollcall"` gives: the CommonJS module, so that there is one copy of every
// class however a program loads it.

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
