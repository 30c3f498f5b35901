// Members of rooms: what the core hands over, made into what applications get.
import type { PresenceSnapshotEntry } from './types.js';

/** A column for each field. One text stands for a column that is the same for all. */
export type MemberColumns = [
  connIds: string[],
  userIds: string[] | string,
  roomIds: string[] | string,
  states: unknown[],
  /** To be added to each of what follows. */
  base: number,
  lastSeen: number[],
  epochs: number[],
];

/** Makes entries of the columns and appends them. */
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
