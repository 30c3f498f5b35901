// The connections that the node still has to end: idle ones, and those whose `leave` failed. Their
// node answers for them, so no TTL would end them.

import type { ConnectionEpoch } from './idle-connections.js';

/** Removes a connection with reason `timeout`, if this node owns it with this epoch. */
export type LeaveIdle = (connId: string, epoch: number) => Promise<unknown>;

/** How many are sent together. */
const GROUP = 256;

export class DeferredLeaves {
  readonly #leaveIdle: LeaveIdle;
  readonly #onError: (error: unknown) => void;
  readonly #epochs = new Map<string, number>();
  #running = false;
  #failing = false;

  /** @param onError is called for the first of several failures in a row. */
  constructor(leaveIdle: LeaveIdle, onError: (error: unknown) => void) {
    this.#leaveIdle = leaveIdle;
    this.#onError = onError;
  }

  add(connId: string, epoch: number): void {
    this.#epochs.set(connId, epoch);
  }

  /** It has a new epoch, if it is recorded. */
  raiseEpoch(connId: string, epoch: number): void {
    const deferred = this.#epochs.get(connId);
    if (deferred !== undefined && deferred < epoch) {
      this.#epochs.set(connId, epoch);
    }
  }

  /** It does not have to end any more. */
  cancel(connId: string): void {
    if (this.#epochs.size > 0) {
      this.#epochs.delete(connId);
    }
  }

  clear(): void {
    this.#epochs.clear();
  }

  /** Sends them. After a failure the rest waits for the next call. Never rejects. */
  async run(): Promise<void> {
    if (this.#running) {
      return;
    }
    this.#running = true;
    try {
      let succeeds = true;
      while (succeeds && this.#epochs.size > 0) {
        succeeds = await this.#sendGroup();
      }
    } finally {
      this.#running = false;
    }
  }

  async #sendGroup(): Promise<boolean> {
    const group: ConnectionEpoch[] = [];
    for (const entry of this.#epochs) {
      if (group.push(entry) === GROUP) {
        break;
      }
    }
    const succeeded = await Promise.all(group.map((entry) => this.#send(entry)));
    return succeeded.every(Boolean);
  }

  async #send([connId, epoch]: ConnectionEpoch): Promise<boolean> {
    try {
      await this.#leaveIdle(connId, epoch);
    } catch (error) {
      if (!this.#failing) {
        this.#failing = true;
        this.#onError(error);
      }
      return false;
    }
    this.#failing = false;
    if (this.#epochs.get(connId) === epoch) {
      this.#epochs.delete(connId);
    }
    return true;
  }
}
