// Calls the users' handlers so that none affects another: exceptions and rejections are logged
// (spec 4.1).

import { logError } from './log.js';
import type { Logger } from './types.js';

/** The handlers of one kind of event. */
export class Handlers<Event> {
  readonly #handlers = new Set<(event: Event) => unknown>();
  readonly #what: string;
  readonly #logger: Logger;

  /** `what` names the handlers in the log: "Presence event". */
  constructor(what: string, logger: Logger) {
    this.#what = what;
    this.#logger = logger;
  }

  get size(): number {
    return this.#handlers.size;
  }

  /**
   * Adds a handler and returns a function that removes it. A function that is added twice is called
   * twice, because each subscription is separate.
   */
  add(handler: (event: Event) => unknown): () => void {
    const own = (event: Event) => handler(event);
    this.#handlers.add(own);
    return () => void this.#handlers.delete(own);
  }

  call(event: Event): void {
    // A Set can be changed during an iteration: a removed handler is not called.
    for (const handler of this.#handlers) {
      let result: unknown;
      try {
        result = handler(event);
      } catch (error) {
        this.#log('threw', error);
        continue;
      }
      // The result may be any thenable; Promise.resolve also handles a `then` that throws.
      if (typeof result === 'object' && result !== null) {
        Promise.resolve(result).catch((error: unknown) => this.#log('rejected', error));
      }
    }
  }

  #log(how: string, error: unknown): void {
    logError(this.#logger, `${this.#what} handler ${how}`, error);
  }
}
