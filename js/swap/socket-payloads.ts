// Reading what sockets send. Payloads come from anybody: every field is checked before anything is done.

import { invalid } from '../errors.js';
import type { StatePatch } from '../types.js';
import { checkEpoch, checkId, checkObject, isArray, shown } from '../validate.js';
import type { ChannelMetadataParams } from './service.js';

export interface JoinRequest {
  roomId: string;
  /** Absent only where the server identifies its sockets itself. */
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
  const { patchState, epoch } = fieldsOf('presence:heartbeat', payload);
  checkEpoch(epoch);
  if (patchState !== undefined) {
    checkObject('patchState', patchState);
  }
  return { epoch: epoch as number | undefined, patchState: patchState as StatePatch<object> };
}

/** The service checks the fields, and names the one that does not fit. */
export function readMetadata(event: string, payload: unknown): ChannelMetadataParams {
  const { channelName, channelType, data, options } = fieldsOf(event, payload);
  return { channelName, channelType, data, options } as ChannelMetadataParams;
}

function fieldsOf(event: string, payload: unknown): Record<string, unknown> {
  if (typeof payload !== 'object' || payload === null || isArray(payload)) {
    throw invalid(`the payload of ${event} must be an object, got ${shown(payload)}`);
  }
  return payload as Record<string, unknown>;
}
