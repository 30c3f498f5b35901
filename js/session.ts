// What every part of a client's surface shares: calls through the bridge that are refused once the
// client is closed, and subscriptions. Knows nothing of what is called or subscribed.

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
   * Throws `CLOSED` once the client is closed. Whatever a client does comes by here, and so no lease
   * that is over goes unnoticed.
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
   * Subscribes to a feed. `remove` takes the handler out again that has been added for it.
   *
   * @returns what ends the subscription, once the store has confirmed it. An open one keeps the
   * process alive.
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
        // From here on the handler is not called, whatever is still on its way.
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

  /** Has `ended` called when the client is closed; returns what forgets it. */
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
      try {
        await this.bridge.call('close');
      } finally {
        // However it ended, nothing keeps the process alive any more.
        this.bridge.end(closed());
      }
    })();
    return this.#closing;
  }
}

function closed(): RollcallError {
  return new RollcallError('CLOSED', 'the client is closed; connect a new one');
}
