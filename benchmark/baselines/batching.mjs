// `With Batching`: heartbeats wait for 50 ms, or until there are 100. One pipeline then reads all
// of them, and a second pipeline writes them.
import { patched, writeHeartbeat } from './as-written.mjs';

const WINDOW_MS = 50;
const MOST = 100;

export class Batching {
  #redis;
  #buffer = [];
  #timer;

  constructor(redis) {
    this.#redis = redis;
  }

  heartbeat(options) {
    return new Promise((resolve, reject) => {
      this.#buffer.push({ options, resolve, reject });
      if (this.#buffer.length >= MOST) this.#flush();
      else this.#timer ??= setTimeout(() => this.#flush(), WINDOW_MS);
    });
  }

  async #flush() {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    const batch = this.#buffer;
    this.#buffer = [];
    try {
      const reads = this.#redis.pipeline();
      for (const { options } of batch) reads.hgetall(`prs:conn:${options.connId}`);
      const found = await reads.exec();
      const writes = this.#redis.pipeline();
      const now = Date.now();
      const results = batch.map(({ options: { connId, epoch, patchState } }, i) => {
        const [error, details] = found[i];
        if (error) throw error;
        const stored = Number(details.epoch);
        if (!details.room_id || (epoch !== undefined && epoch < stored)) return false;
        const next = patched(details.state, patchState);
        const { room_id: roomId, user_id: userId } = details;
        writeHeartbeat(writes, { connId, roomId, userId, stored, epoch, next, now });
        return next !== undefined;
      });
      await writes.exec();
      batch.forEach(({ resolve }, i) => {
        resolve(results[i]);
      });
    } catch (error) {
      for (const { reject } of batch) reject(error);
    }
  }
}
