// The public types of Rollcall. Generated from js/ by `npm run types`; do not edit.
export type * from './index.js';
export { ERROR_CODES, HeartbeatBatcher, initPresence, LuaHeartbeatExecutor, MetadataConflictError, MetadataError, MetadataLockError, MetadataValidationError, PresenceClient, PresenceService, presenceKeys, RollcallError, registerPresenceHandlers, TransactionalMetadataWrapper, } from './index.js';

