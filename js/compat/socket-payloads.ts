// Parses payloads from sockets. Payloads are untrusted: every field is checked before anything is
// done.

import { invalid } from '../errors.js';
import type { MetadataItemInput, UpdateMetadataOptions } from '../metadata-types.js';
import type { StatePatch } from '../types.js';
import {
  checkEpoch,
  checkFlag,
  checkId,
  checkName,
  checkObject,
  checkOptions,
  checkRevision,
  checkText,
  displayValue,
  isArray,
} from '../validate.js';
import type { ChannelMetadataParams } from './coerce.js';
import { numberOf } from './coerce.js';

export interface JoinRequest {
  roomId: string;
  /** Absent only if the server identifies its sockets itself. */
  userId: string | undefined;
  state: object | undefined;
}

export interface HeartbeatRequest {
  epoch: number | undefined;
  patchState: StatePatch<object> | undefined;
}

export function readJoin(payload: unknown, identified: boolean): JoinRequest {
  const { roomId, userId, state } = fieldsOf('presence:join', payload);
  checkId('roomId', roomId);
  if (userId !== undefined || !identified) {
    checkId('userId', userId);
  }
  if (state !== undefined) {
    checkObject('state', state);
  }
  return { roomId, userId: userId as string | undefined, state: state as object | undefined };
}

export function readHeartbeat(payload: unknown): HeartbeatRequest {
  // The payload of a heartbeat is optional.
  const { patchState, epoch: given } = fieldsOf('presence:heartbeat', payload ?? {});
  const epoch = numberOf(given);
  checkEpoch(epoch);
  if (patchState !== undefined) {
    checkObject('patchState', patchState);
  }
  return { epoch: epoch as number | undefined, patchState: patchState as StatePatch<object> };
}

/**
 * Stricter than the service, which accepts everything that servers have always passed: values must
 * be text, flags must be booleans, and numbers may be text. The client checks the ids.
 */
export function readMetadata(event: string, payload: unknown): ChannelMetadataParams {
  const { channelName, channelType, data, options } = fieldsOf(event, payload);
  return {
    channelName,
    channelType,
    data: data === undefined ? undefined : readItems(data),
    options: options === undefined ? undefined : readOptions(options),
  } as ChannelMetadataParams;
}

function readItems(data: unknown): MetadataItemInput[] {
  if (!isArray(data)) {
    throw invalid('data must be an array of items, each with a key');
  }
  return Array.from(data, (item: unknown, place) => {
    const field = `data[${place}]`;
    checkOptions(field, item);
    const { key, value, revision } = item as Record<string, unknown>;
    checkName(`${field}.key`, key);
    if (value !== undefined) {
      checkText(`${field}.value`, value);
    }
    return { key, value, revision: checkRevision(`${field}.revision`, numberOf(revision)) };
  });
}

function readOptions(options: unknown): UpdateMetadataOptions {
  checkOptions('options', options);
  // Only the server sets the TTL of a record: `ttlMs` is an unknown field here.
  const { majorRevision, lockName, addTimestamp, addUserId, upsert } = options as Record<
    string,
    unknown
  >;
  if (lockName !== undefined) {
    checkId('options.lockName', lockName);
  }
  return {
    majorRevision: checkRevision('options.majorRevision', numberOf(majorRevision)),
    lockName,
    addTimestamp: checkFlag('options.addTimestamp', addTimestamp, false),
    addUserId: checkFlag('options.addUserId', addUserId, false),
    upsert: checkFlag('options.upsert', upsert, false),
  };
}

function fieldsOf(event: string, payload: unknown): Record<string, unknown> {
  if (typeof payload !== 'object' || payload === null || isArray(payload)) {
    throw invalid(`the payload of ${event} must be an object, got ${displayValue(payload)}`);
  }
  return payload as Record<string, unknown>;
}
