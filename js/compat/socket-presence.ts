// Where a socket is in presence, as far as its server knows: from the joins and leaves that were made for
// it, by its own requests or by the server itself, and from what came of them.

import { RollcallError } from '../errors.js';
import { isArray } from '../validate.js';
import type { ConnectionWatcher, Joining, Place } from './connections.js';

export class SocketPresence implements ConnectionWatcher {
  /** Where it is, or may be. */
  place: Place | undefined;
  /** The epoch of its connection; `undefined` if it is not known. */
  epoch: number | undefined;
  /** Whether it may be in `place`, or in another, or nowhere: a join or a leave whose outcome is not known. */
  doubt = false;
  /** Whether it wants to be out of `place`: a heartbeat that is accepted does not say that it is in. */
  leaving = false;
  /** Changes with the place: answers to what was sent before say nothing of it. */
  generation = 0;
  /** Joins that have begun so far: one that begins while a handler waits has been made by its call. */
  joinsBegun = 0;
  /** The state as it was joined and patched, if it is to be kept. */
  #state: object | undefined;
  readonly #keepsState: boolean;
  /** The first epoch of this socket's that its client may still know it by, if it was recovered since. */
  #since: number | undefined;
  readonly #joins = new Map<Promise<void>, Joining>();
  readonly #changed: (left: boolean) => void;

  /** @param changed is called when the place is another one, or none any more. */
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

  /** Whether joins are on their way. */
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

  /** A join has failed. Unless it is certain that nothing was done, it may have been made. */
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

  /** A leave is being made: until it is known to be gone, the socket may be anywhere. */
  isLeaving(): void {
    this.doubt = true;
    this.leaving = true;
  }

  /** A heartbeat has been accepted. Returns whether it shows that a join without an answer was made. */
  isAlive(epoch: number, patch: object | undefined): boolean {
    if (this.epoch === undefined || epoch > this.epoch) {
      this.epoch = epoch;
    }
    if (patch !== undefined && this.#keepsState) {
      this.#state = { ...this.#state, ...patch };
    }
    if (this.place === undefined) {
      // Somebody else has joined it, who is not watched.
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
      // It may join elsewhere.
      this.doubt = true;
    } else if (sent !== undefined && this.epoch !== undefined && !certain(error)) {
      // A higher epoch may have been adopted; a leave with the old one would end nothing.
      this.epoch = Math.max(this.epoch, sent);
    }
  }

  /** What a recovered socket goes on from: where it is, or is about to be. */
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

  /** It was joined again after a recovery, of which the client does not know. */
  isRecovered(since: number | undefined): void {
    this.#since = since;
  }

  /** The epoch that a client means: one from before a recovery is the current one. */
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

/** Whether a call that failed with this has certainly changed nothing. */
function certain(error: unknown): boolean {
  return (
    error instanceof RollcallError &&
    (error.code === 'INVALID_ARGUMENT' || error.code === 'FORBIDDEN' || error.code === 'OVERLOADED')
  );
}

export function isNotFound(error: unknown): boolean {
  return error instanceof RollcallError && error.code === 'CONNECTION_NOT_FOUND';
}

/** The epoch of a connection, by the snapshot after its join. */
export function ownEpoch(snapshot: unknown, connId: string): number | undefined {
  const entry = isArray(snapshot)
    ? (snapshot as readonly { connId?: string; epoch?: number }[]).find(
        (one) => one?.connId === connId,
      )
    : undefined;
  return typeof entry?.epoch === 'number' ? entry.epoch : undefined;
}
