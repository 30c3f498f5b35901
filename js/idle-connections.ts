// The last sign of life of each connection, for `idleTimeoutMs`. A record may outlive its
// connection: ending a connection that does not exist, or belongs to another node, has no effect. A
// missing record would let a connection live as long as its node.

interface Activity {
  epoch: number;
  /** The time of the last heartbeat or join, by `performance.now()`. */
  at: number;
}

/** A connection, and the epoch that it was joined with. */
export type ConnectionEpoch = readonly [connId: string, epoch: number];

/** The longest period of a timer in Node.js is 2^31-1 ms; a longer one becomes 1 ms. */
const MAX_PERIOD_MS = 2 ** 30;

export class IdleConnections {
  /** How often to look for idle connections. */
  readonly periodMs: number;
  readonly #timeoutMs: number;
  readonly #activities = new Map<string, Activity>();
  #lastLook = performance.now();

  constructor(timeoutMs: number) {
    this.#timeoutMs = timeoutMs;
    this.periodMs = Math.min(Math.max(50, timeoutMs / 10), MAX_PERIOD_MS);
  }

  /** A join or a heartbeat has succeeded. Answers can overtake each other. */
  add(connId: string, epoch: number): void {
    const activity = this.#activities.get(connId);
    if (activity === undefined) {
      this.#activities.set(connId, { epoch, at: performance.now() });
    } else {
      activity.epoch = Math.max(activity.epoch, epoch);
      activity.at = performance.now();
    }
  }

  /** A heartbeat has arrived; -1: without an epoch. One with an older epoch does not count. */
  refresh(connId: string, epoch: number, now: number): void {
    const activity = this.#activities.get(connId);
    if (activity !== undefined && (epoch === -1 || epoch >= activity.epoch)) {
      activity.at = now;
    }
  }

  /** It has a new epoch, if it is recorded. */
  raiseEpoch(connId: string, epoch: number): void {
    const activity = this.#activities.get(connId);
    if (activity !== undefined) {
      activity.epoch = Math.max(activity.epoch, epoch);
    }
  }

  epochOf(connId: string): number | undefined {
    return this.#activities.get(connId)?.epoch;
  }

  /** It has ended, unless it has been joined with a higher epoch since. */
  remove(connId: string, epoch: number): void {
    const activity = this.#activities.get(connId);
    if (activity !== undefined && activity.epoch <= epoch) {
      this.#activities.delete(connId);
    }
  }

  clear(): void {
    this.#activities.clear();
  }

  /** Removes and returns the connections that are idle. */
  take(): ConnectionEpoch[] {
    const now = performance.now();
    const isLate = now - this.#lastLook > 2 * this.periodMs;
    this.#lastLook = now;
    if (isLate) {
      // The thread was blocked, or the process stopped. The heartbeats of that time may not have
      // been read yet.
      return [];
    }
    const idle: ConnectionEpoch[] = [];
    for (const [connId, { epoch, at }] of this.#activities) {
      if (now - at >= this.#timeoutMs) {
        this.#activities.delete(connId);
        idle.push([connId, epoch]);
      }
    }
    return idle;
  }
}
