// The presence of a socket, as far as its server knows: from joins and leaves by the socket's
// requests or by the server itself, and from their results.

import { hasCode } from '../errors.js';
import { isArray } from '../validate.js';
import type { ConnectionWatcher, Joining, Place } from './connections.js';

export class SocketPresence implements ConnectionWatcher {
  /** Its certain or possible place. */
  place: Place | undefined;
  /** The epoch of its connection; `undefined` if it is unknown. */
  epoch: number | undefined;
  /**
   * Whether a join or leave has an unknown outcome: it may be in `place`, in another, or in none.
   */
  doubt = false;
  /**
   * Whether it has asked to leave `place`: an accepted heartbeat then does not confirm the place.
   */
  leaving = false;
  /** Changes with the place: answers to earlier requests do not apply to it. */
  generation = 0;
  /**
   * The number of started joins: one that starts while a handler waits belongs to that handler's
   * call.
   */
  joinsBegun = 0;
  /** The joined and patched state, if it is to be kept. */
  #state: object | undefined;
  readonly #keepsState: boolean;
  /** The first epoch of this socket that its client may still use, if it was recovered since. */
  #since: number | undefined;
  readonly #joins = new Map<Promise<void>, Joining>();
  readonly #changed: (left: boolean) => void;

  /** @param changed is called when the place changes or ends. */
  constructor(keepsState: boolean, changed: (left: boolean) => void) {
    this.#keepsState = keepsState;
    this.#changed = changed;
  }

  joining(joining: Joining, epoch: Promise<number>): void {
    this.joinsBegun++;
    const ended: Promise<void> = epoch
      .then(
        (joined) => this.isIn(joining, joined),
        (error) => this.mayBeIn(joining, error),
      )
      .finally(() => this.#joins.delete(ended));
    this.#joins.set(ended, joining);
  }

  left(): void {
    this.isNowhere();
  }

  /** Whether joins are in flight. */
  get joinsPending(): boolean {
    return this.#joins.size > 0;
  }

  async joinsEnded(): Promise<void> {
    await Promise.all(this.#joins.keys());
  }

  isIn({ roomId, userId, state }: Joining, epoch: number | undefined): void {
    this.#is({ roomId, userId }, epoch, false);
    this.#state = this.#keepsState ? state : undefined;
    this.#changed(false);
  }

  /** A join has failed. Unless it certainly had no effect, it may have been applied. */
  mayBeIn({ roomId, userId, state }: Joining, error: unknown): void {
    if (!certain(error)) {
      this.#is({ roomId, userId }, undefined, true);
      this.#state = this.#keepsState ? state : undefined;
    }
  }

  isNowhere(): void {
    this.#is(undefined, undefined, false);
    this.#state = undefined;
    this.#changed(true);
  }

  #is(place: Place | undefined, epoch: number | undefined, doubt: boolean): void {
    this.generation++;
    this.place = place;
    this.epoch = epoch;
    this.doubt = doubt;
    this.leaving = false;
    this.#since = undefined;
  }

  /** A leave is in flight: until it is confirmed, the place is unknown. */
  isLeaving(): void {
    this.doubt = true;
    this.leaving = true;
  }

  /** A heartbeat was accepted. Returns whether it confirms an unanswered join. */
  isAlive(epoch: number, patch: object | undefined): boolean {
    if (this.epoch === undefined || epoch > this.epoch) {
      this.epoch = epoch;
    }
    if (patch !== undefined && this.#keepsState) {
      this.#state = { ...this.#state, ...patch };
    }
    if (this.place === undefined) {
      // Another client has joined it, which is not watched.
      this.doubt = true;
      return false;
    }
    if (!this.doubt || this.leaving) {
      return false;
    }
    this.doubt = false;
    this.#changed(false);
    return true;
  }

  /** A heartbeat with this epoch has failed. */
  mayBeDead(error: unknown, sent: number | undefined): void {
    if (isNotFound(error)) {
      // It may join another room.
      this.doubt = true;
    } else if (sent !== undefined && this.epoch !== undefined && !certain(error)) {
      // A higher epoch may have been adopted; a leave with the old one would have no effect.
      this.epoch = Math.max(this.epoch, sent);
    }
  }

  /** The state for the recovery of a socket: its current or pending place. */
  get recovery(): { joining: Joining; since: number | undefined } | undefined {
    const since = this.#since ?? this.epoch;
    const [pending] = [...this.#joins.values()].slice(-1);
    if (pending !== undefined) {
      return { joining: pending, since };
    }
    if (this.place === undefined || this.leaving) {
      return undefined;
    }
    return { joining: { ...this.place, state: this.#state }, since };
  }

  /** It was joined again after a recovery, which the client does not know. */
  isRecovered(since: number | undefined): void {
    this.#since = since;
  }

  /** The current epoch for an epoch of the client: one from before a recovery is converted. */
  current(epoch: number | undefined): number | undefined {
    const known =
      epoch !== undefined &&
      this.#since !== undefined &&
      this.epoch !== undefined &&
      epoch >= this.#since &&
      epoch < this.epoch;
    return known ? this.epoch : epoch;
  }
}

/** Whether a call that failed with this error certainly had no effect. */
function certain(error: unknown): boolean {
  return hasCode(error, 'INVALID_ARGUMENT', 'FORBIDDEN', 'OVERLOADED');
}

export function isNotFound(error: unknown): boolean {
  return hasCode(error, 'CONNECTION_NOT_FOUND');
}

/** The epoch of a connection, from the snapshot after its join. */
export function ownEpoch(snapshot: unknown, connId: string): number | undefined {
  const entry = isArray(snapshot)
    ? (snapshot as readonly { connId?: string; epoch?: number }[]).find(
        (one) => one?.connId === connId,
      )
    : undefined;
  return typeof entry?.epoch === 'number' ? entry.epoch : undefined;
}
