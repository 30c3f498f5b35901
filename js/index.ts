// What `require("rollcall")` gives.

export { PresenceClient } from './client.js';
export { ERROR_CODES, type ErrorCode, RollcallError } from './errors.js';
export type * from './lock-types.js';
export type { Locks } from './locks.js';
export type { Metadata } from './metadata.js';
export type * from './metadata-types.js';
export type * from './types.js';
