// What `import … from "rollcall"` gives: the CommonJS module, so that there is one copy of every
// class however a program loads it.

export type { ErrorCode, Metadata } from './index.js';
export { ERROR_CODES, PresenceClient, RollcallError } from './index.js';
export type * from './lock-types.js';
export type { Locks } from './locks.js';
export type * from './metadata-types.js';
export type * from './types.js';
