// The common part of a client's interface: calls through the bridge that are refused after the
// client is closed, and subscriptions. It has no knowledge of the calls and feeds themselves.

import { RollcallError } from './errors.js';
import type { Bridge } from './native.js';
import type { Unsubscribe } from './types.js';

export class Session {
  readonly bridge: Bridge;
  readonly #onClose = new Set<() => void>();
  #closing: Promise<void> | undefined;

  constructor(bridge: Bridge) {
    this.bridge = bridge;
  }

  /**
   * Throws `CLOSED` after the client is closed. Every call of a client passes here, so that an
   * ended lease is always detected.
   */
  checkOpen(): void {
    this.bridge.leases.check();
    if (this.#closing !== undefined) {
      throw closed();
    }
  }

  call: Bridge['call'] = async (name, ...args) => {
    this.checkOpen();
    return this.bridge.call(name, ...args);
  };

  callInPieces: Bridge['callInPieces'] = async (name, take, ...args) => {
    this.checkOpen();
    return this.bridge.callInPieces(name, take, ...args);
  };

  /**
   * Subscribes to a feed. `remove` removes the handler that was added for it.
   *
   * @returns a function that ends the subscription, after the store has confirmed it. An open
   * subscription keeps the process alive.
   */
  async subscribe(feed: number, name: string, remove: () => void): Promise<Unsubscribe> {
    this.bridge.ref();
    try {
      await this.call('subscribe', feed, name);
    } catch (error) {
      remove();
      this.bridge.unref();
      throw error;
    }
    let ended: Promise<void> | undefined;
    return () => {
      ended ??= (async () => {
        // From here on the handler is not called, even for events in transit.
        remove();
        try {
          if (this.#closing === undefined) {
            await this.call('unsubscribe', feed, name);
          }
        } finally {
          this.bridge.unref();
        }
      })();
      return ended;
    };
  }

  /** Calls `ended` when the client is closed; returns a function that removes it. */
  onClose(ended: () => void): () => void {
    this.#onClose.add(ended);
    return () => this.#onClose.delete(ended);
  }

  close(): Promise<void> {
    this.#closing ??= (async () => {
      for (const ended of this.#onClose) {
        ended();
      }
      this.bridge.leases.end();
      this.bridge.owned?.end();
      try {
        await this.bridge.call('close');
      } finally {
        // After any kind of end, nothing keeps the process alive any more.
        this.bridge.end(closed());
      }
    })();
    return this.#closing;
  }
}

function closed(): RollcallError {
  return new RollcallError('CLOSED', 'the client is closed; connect a new one');
}
