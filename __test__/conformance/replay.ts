// Builds a view of rooms from their events, and checks clauses 3.7 and 4.2 for each event: no event
// is missing, duplicated or out of order.
import type { AnyEvent, AnyState } from './stores.js';

interface Present {
  userId: string;
  epoch: number;
  state: AnyState;
}

export class Replay {
  /**
   * The present connections by room and connection, including expired ones that are not announced
   * yet.
   */
  readonly rooms = new Map<string, Map<string, Present>>();
  readonly joins = new Set<string>();
  readonly leaves = new Map<string, AnyEvent>();

  /** Throws on an event that does not follow from the earlier ones. */
  apply(event: AnyEvent): void {
    const { roomId, connId, userId, epoch } = event;
    const room = this.rooms.get(roomId) ?? new Map<string, Present>();
    this.rooms.set(roomId, room);
    const present = room.get(connId);
    const key = `${connId} ${epoch}`;
    const wrong = (why: string): never => {
      throw new Error(`${why}: ${JSON.stringify(event)} after ${JSON.stringify(present)}`);
    };
    if (event.type === 'join') {
      if (this.joins.has(key)) wrong('a second join');
      this.joins.add(key);
      // Without a leave, only a rejoin of the same place with a higher epoch is valid.
      if (present && present.userId !== userId) wrong('a join over another user');
      if (present && present.epoch >= epoch) wrong('a join with a lower epoch');
      room.set(connId, { userId, epoch, state: event.state });
      return;
    }
    if (!present) throw new Error(`of a connection that is not there: ${JSON.stringify(event)}`);
    if (present.userId !== userId) wrong('of another user');
    // An adopted higher epoch has no event.
    if (present.epoch > epoch) wrong('of an older epoch');
    if (event.type === 'update') {
      room.set(connId, { userId, epoch, state: event.state });
      return;
    }
    if (this.leaves.has(key)) wrong('a second leave');
    this.leaves.set(key, event);
    if (event.state !== null) wrong('a leave with a state');
    room.delete(connId);
  }

  /** `[room, connection, user]` of all present connections, sorted. */
  get present(): string[] {
    return [...this.rooms]
      .flatMap(([roomId, room]) =>
        [...room].map(([connId, { userId }]) => `${roomId} ${connId} ${userId}`),
      )
      .sort();
  }
}
