// Runs the joins and leaves of a socket one after the other, in the order of their arrival.

type Waiting = { start(): void; drop(error: Error): void };

export class Turns {
  #running = false;
  readonly #waiting: Waiting[] = [];
  readonly #idle: (() => void)[] = [];
  #closed: Error | undefined;

  /** Whether work is running. */
  get busy(): boolean {
    return this.#running;
  }

  /** Runs `work` after all earlier work. Rejects with the reason after it is closed. */
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

  /** Drops waiting work, and refuses later work. Running work continues. */
  close(reason: Error): void {
    this.#closed ??= reason;
    for (const { drop } of this.#waiting.splice(0)) {
      drop(reason);
    }
  }

  /** Resolves when no work is running or waiting. */
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
