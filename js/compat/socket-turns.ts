// Joins and leaves of a socket are done one after the other, in the order in which they came.

type Waiting = { start(): void; drop(error: Error): void };

export class Turns {
  #running = false;
  readonly #waiting: Waiting[] = [];
  readonly #idle: (() => void)[] = [];
  #closed: Error | undefined;

  /** Whether something is being done. */
  get busy(): boolean {
    return this.#running;
  }

  /** Does `work` when all that came before it is done. Rejects with the reason once it is closed. */
  run<T>(work: () => Promise<T>): Promise<T> {
    if (this.#closed !== undefined) {
      return Promise.reject(this.#closed);
    }
    if (!this.#running) {
      return this.#do(work);
    }
    return new Promise((resolve, reject) => {
      this.#waiting.push({ start: () => resolve(this.#do(work)), drop: reject });
    });
  }

  /** Drops what waits, and refuses what comes later. What is being done goes on. */
  close(reason: Error): void {
    this.#closed ??= reason;
    for (const { drop } of this.#waiting.splice(0)) {
      drop(reason);
    }
  }

  /** Resolves when nothing is being done and nothing waits. */
  idle(): Promise<void> {
    return this.#running ? new Promise((resolve) => this.#idle.push(resolve)) : Promise.resolve();
  }

  async #do<T>(work: () => Promise<T>): Promise<T> {
    this.#running = true;
    try {
      return await work();
    } finally {
      this.#running = false;
      const next = this.#waiting.shift();
      if (next !== undefined) {
        next.start();
      } else {
        for (const resolve of this.#idle.splice(0)) {
          resolve();
        }
      }
    }
  }
}
