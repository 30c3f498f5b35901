// Converts members of rooms from the core's columns to the objects that applications get.
import type { PresenceSnapshotEntry } from './types.js';

/** A column for each field. A single text stands for a column with equal values. */
export type MemberColumns = [
  connIds: string[],
  userIds: string[] | string,
  roomIds: string[] | string,
  states: unknown[],
  /** An offset for each of the following values. */
  base: number,
  lastSeen: number[],
  epochs: number[],
];

/** Converts columns to entries and appends them. */
export function addMembers<State>(
  to: PresenceSnapshotEntry<State>[],
  columns: MemberColumns,
): void {
  const [connIds, userIds, roomIds, states, base, lastSeen, epochs] = columns;
  for (let i = 0; i < connIds.length; i++) {
    to.push({
      connId: connIds[i] as string,
      userId: typeof userIds === 'string' ? userIds : (userIds[i] as string),
      roomId: typeof roomIds === 'string' ? roomIds : (roomIds[i] as string),
      state: states[i] as State | null,
      lastSeenMs: base + (lastSeen[i] as number),
      epoch: base + (epochs[i] as number),
    });
  }
}
