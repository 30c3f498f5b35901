// Channel metadata in plain ioredis with optimistic locking: WATCH on a connection that only this
// writer uses, read, MULTI, and a retry after a conflict. (Read and write without WATCH, as the
// pure-TypeScript implementation does it, is faster but loses most of the updates.)
const CHANNEL = { channelType: 'bench', channelName: 'hot' };
const KEY = 'prs:{chan:bench:hot}:meta';
const EVENTS = 'prs:{chan:bench:hot}:meta_events';

/** Updates one item; resolves to the record after the update. Only this writer uses `redis`. */
export async function updateOptimistically(redis, key, value) {
  for (;;) {
    await redis.watch(KEY);
    const stored = await redis.hgetall(KEY);
    const metadata = JSON.parse(stored.items || '{}');
    const before = metadata[key];
    if (before === undefined) throw new Error(`Metadata item "${key}" does not exist`);
    const item = { ...before, value, revision: before.revision + 1 };
    metadata[key] = item;
    const majorRevision = Number(stored.majorRevision) + 1;
    const timestamp = Date.now();
    const totalCount = Object.keys(metadata).length;
    const items = [{ key, value, revision: item.revision }];
    const event = { ...CHANNEL, operation: 'update', items, majorRevision, timestamp };
    const done = await redis
      .multi()
      .hset(KEY, { items: JSON.stringify(metadata), totalCount, majorRevision })
      .publish(EVENTS, JSON.stringify(event))
      .exec();
    if (done !== null) return { ...CHANNEL, timestamp, totalCount, majorRevision, metadata };
  }
}

/** Runs the updates of one process one after the other, so that its writers do not conflict. */
export class OneAtATime {
  #redis;
  #last = Promise.resolve();

  constructor(redis) {
    this.#redis = redis;
  }

  update(key, value) {
    const next = this.#last.then(() => updateOptimistically(this.#redis, key, value));
    this.#last = next.catch(() => {});
    return next;
  }
}
