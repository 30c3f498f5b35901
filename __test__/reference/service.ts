// The reference: stands in for the legacy servers that Rollcall replaces. It implements presence
// and channel metadata in plain TypeScript on ioredis, from the tables of the specification. It
// behaves like a legacy node, including its weaknesses: it reads and then writes, a connection that
// moves stays listed in its first room, every reaper announces the same dead connection, and the
// last writer of metadata wins. It accepts the same invalid values (`null`, text for numbers, empty
// names). It is not part of the package; tests and the benchmark run it.
import type { Redis } from 'ioredis';

export interface ReferenceOptions {
  ttlMs: number;
  reaperIntervalMs: number;
  reaperLookbackMs: number;
  logger?: { error(...args: unknown[]): void };
}

export interface ReferenceEntry {
  connId: string;
  userId: string;
  state: unknown;
  lastSeenMs: number;
  epoch: number;
}

export interface ReferenceEvent {
  type: 'join' | 'leave' | 'update';
  roomId: string;
  userId: string;
  connId: string;
  state: unknown;
  ts: number;
  epoch: number;
}

export interface ReferenceItem {
  key: string;
  value?: string;
  revision?: number;
}

export interface ReferenceMetadataParams {
  channelName: string;
  channelType: string;
  data?: ReferenceItem[];
  options?: {
    majorRevision?: number;
    lockName?: string;
    addTimestamp?: boolean;
    addUserId?: boolean;
  };
  actorUserId?: string;
}

interface StoredItem {
  value: string;
  revision: number;
  updated?: string;
  authorUid?: string;
}

export interface ReferenceMetadata {
  timestamp: number;
  channelName: string;
  channelType: string;
  totalCount: number;
  majorRevision: number;
  metadata: Record<string, StoredItem>;
}

export class MetadataRefused extends Error {
  constructor(
    readonly code: 'METADATA_CONFLICT' | 'METADATA_INVALID' | 'METADATA_LOCK',
    message: string,
  ) {
    super(message);
  }
}

type Stop = () => Promise<void>;

const ACTIVE_ROOMS = 'prs:active_rooms';
const room = (roomId: string, part: string) => `prs:{room:${roomId}}:${part}`;
const conn = (connId: string) => `prs:conn:${connId}`;
const userConns = (userId: string) => `prs:user:${userId}:conns`;
const meta = (type: string, name: string) => `prs:{chan:${type}:${name}}:meta`;
const metaEvents = (type: string, name: string) => `prs:{chan:${type}:${name}}:meta_events`;

export class ReferencePresenceService {
  readonly #redis: Redis;
  readonly #options: ReferenceOptions;
  readonly #subscribers = new Set<Redis>();
  #reaper: NodeJS.Timeout | undefined;

  constructor(redis: Redis, options: ReferenceOptions) {
    this.#redis = redis;
    this.#options = options;
  }

  async join(o: {
    roomId: string;
    userId: string;
    connId: string;
    state?: unknown;
  }): Promise<ReferenceEntry[]> {
    const { roomId, userId, connId } = o;
    const state = o.state ?? {};
    const now = Date.now();
    const before = Number((await this.#redis.hget(conn(connId), 'epoch')) ?? 0);
    const epoch = Math.max(before + 1, now);
    await this.#redis
      .multi()
      .sadd(room(roomId, 'members'), userId)
      .sadd(room(roomId, 'conns'), connId)
      .hset(conn(connId), {
        conn_id: connId,
        user_id: userId,
        room_id: roomId,
        last_seen_ms: String(now),
        epoch: String(epoch),
        state: JSON.stringify(state),
      })
      .pexpire(conn(connId), this.#options.ttlMs)
      .zadd(room(roomId, 'last_seen'), now, connId)
      .hset(room(roomId, 'conn_meta'), connId, JSON.stringify({ userId, epoch }))
      .sadd(userConns(userId), connId)
      .sadd(ACTIVE_ROOMS, roomId)
      .exec();
    await this.#publish({ type: 'join', roomId, userId, connId, state, ts: now, epoch });
    return this.fetchRoomSnapshot(roomId);
  }

  async heartbeat(o: {
    connId: string;
    patchState?: Record<string, unknown>;
    epoch?: number;
  }): Promise<boolean> {
    const { connId, patchState, epoch } = o;
    const details = await this.#redis.hgetall(conn(connId));
    const { room_id: roomId, user_id: userId } = details;
    if (roomId === undefined || userId === undefined) return false;
    const stored = Number(details.epoch);
    if (epoch !== undefined && epoch < stored) return false;
    const now = Date.now();
    const commands = this.#redis
      .multi()
      .hset(conn(connId), 'last_seen_ms', String(now))
      .pexpire(conn(connId), this.#options.ttlMs)
      .zadd(room(roomId, 'last_seen'), now, connId);
    const adopted = Math.max(epoch ?? 0, stored);
    if (adopted > stored) {
      commands.hset(conn(connId), 'epoch', String(adopted));
      commands.hset(room(roomId, 'conn_meta'), connId, JSON.stringify({ userId, epoch: adopted }));
    }
    const isPatch = Object.keys(patchState ?? {}).length > 0;
    const next = isPatch ? { ...readState(details.state), ...patchState } : undefined;
    const text = next && JSON.stringify(next);
    const changed = text !== undefined && text !== details.state;
    if (changed) commands.hset(conn(connId), 'state', text);
    await commands.exec();
    if (changed) {
      const state = JSON.parse(text);
      await this.#publish({
        type: 'update',
        roomId,
        userId,
        connId,
        state,
        ts: now,
        epoch: adopted,
      });
    }
    return changed;
  }

  async leave(connId: string): Promise<{ roomId: string; userId: string } | null> {
    const { room_id: roomId, user_id: userId, epoch } = await this.#redis.hgetall(conn(connId));
    if (roomId === undefined || userId === undefined) return null;
    await this.#remove(roomId, userId, connId, Number(epoch));
    return { roomId, userId };
  }

  async fetchRoomSnapshot(roomId: string): Promise<ReferenceEntry[]> {
    const connIds = await this.#redis.smembers(room(roomId, 'conns'));
    const reads = this.#redis.pipeline();
    for (const connId of connIds) reads.hgetall(conn(connId));
    const entries: ReferenceEntry[] = [];
    for (const [error, found] of (await reads.exec()) ?? []) {
      if (error) throw error;
      const details = found as Record<string, string>;
      if (details.conn_id === undefined) continue;
      entries.push({
        connId: details.conn_id,
        userId: details.user_id ?? '',
        state: readState(details.state),
        lastSeenMs: Number(details.last_seen_ms),
        epoch: Number(details.epoch),
      });
    }
    return entries;
  }

  async epochOf(connId: string): Promise<number | undefined> {
    const epoch = await this.#redis.hget(conn(connId), 'epoch');
    return epoch === null ? undefined : Number(epoch);
  }

  subscribe(handler: (event: ReferenceEvent) => void): Promise<Stop> {
    return this.#follow('prs:{room:*}:events', handler);
  }

  subscribeMetadata(handler: (event: unknown) => void): Promise<Stop> {
    return this.#follow('prs:{chan:*}:meta_events', handler);
  }

  async setChannelMetadata(params: ReferenceMetadataParams): Promise<ReferenceMetadata> {
    await this.#checkLock(params);
    const { majorRevision } = await this.#expected(params);
    const data = params.data ?? [];
    const items: Record<string, StoredItem> = {};
    for (const { key, value, revision } of data) {
      const given = revision && revision > 0 ? revision : 1;
      items[key] = this.#stamped({ value: textOf(value), revision: given }, params);
    }
    return this.#write(params, 'set', items, majorRevision + 1, pick(items, data));
  }

  async updateChannelMetadata(params: ReferenceMetadataParams): Promise<ReferenceMetadata> {
    if (!params.data?.length) {
      throw new MetadataRefused('METADATA_INVALID', 'At least one metadata item is required');
    }
    await this.#checkLock(params);
    if ((await this.getChannelMetadata(params)).totalCount === 0) {
      throw new MetadataRefused('METADATA_INVALID', 'Channel metadata does not exist');
    }
    const { majorRevision, metadata } = await this.#expected(params);
    for (const { key, value, revision } of params.data) {
      const before = metadata[key];
      if (before === undefined) {
        throw new MetadataRefused('METADATA_INVALID', `Metadata item "${key}" does not exist`);
      }
      if (revision !== undefined && revision >= 0 && revision !== before.revision) {
        throw new MetadataRefused('METADATA_CONFLICT', `Revision mismatch for key "${key}"`);
      }
      const kept = value === undefined ? before.value : textOf(value);
      const next = { ...before, value: kept, revision: before.revision + 1 };
      metadata[key] = this.#stamped(next, params);
    }
    const changed = pick(metadata, params.data);
    return this.#write(params, 'update', metadata, majorRevision + 1, changed);
  }

  async removeChannelMetadata(params: ReferenceMetadataParams): Promise<ReferenceMetadata> {
    await this.#checkLock(params);
    const current = await this.#expected(params);
    const { metadata } = current;
    const all = Object.keys(metadata).map((key) => ({ key }));
    const removed = pick(metadata, params.data?.length ? params.data : all);
    if (removed.length === 0) return current;
    for (const [key] of removed) delete metadata[key];
    return this.#write(params, 'remove', metadata, current.majorRevision + 1, removed);
  }

  async getChannelMetadata(params: ReferenceMetadataParams): Promise<ReferenceMetadata> {
    const { channelName, channelType } = params;
    const stored = await this.#redis.hgetall(meta(channelType, channelName));
    return {
      timestamp: Date.now(),
      channelName,
      channelType,
      totalCount: Number(stored.totalCount ?? 0),
      majorRevision: Number(stored.majorRevision ?? 0),
      metadata: readItems(stored.items),
    };
  }

  /** Scans every active room periodically. */
  startReaper(): void {
    this.#reaper ??= setInterval(() => {
      this.#reap().catch((error) => this.#options.logger?.error('Reaper failed', error));
    }, this.#options.reaperIntervalMs);
  }

  async stop(): Promise<void> {
    clearInterval(this.#reaper);
    for (const subscriber of this.#subscribers) subscriber.disconnect();
    this.#subscribers.clear();
  }

  async #reap(): Promise<void> {
    const before = Date.now() - this.#options.reaperLookbackMs;
    const rooms = await this.#redis.smembers(ACTIVE_ROOMS);
    await Promise.all(rooms.map((roomId) => this.#reapRoom(roomId, before)));
  }

  async #reapRoom(roomId: string, before: number): Promise<void> {
    for (const connId of await this.#redis.zrangebyscore(room(roomId, 'last_seen'), 0, before)) {
      if (await this.#redis.exists(conn(connId))) continue;
      const known = await this.#redis.hget(room(roomId, 'conn_meta'), connId);
      if (known === null) continue;
      const { userId, epoch } = JSON.parse(known);
      await this.#remove(roomId, userId, connId, epoch);
    }
  }

  async #remove(roomId: string, userId: string, connId: string, epoch: number): Promise<void> {
    const metas = await this.#redis.hgetall(room(roomId, 'conn_meta'));
    const stays = Object.entries(metas).some(
      ([other, text]) => other !== connId && JSON.parse(text).userId === userId,
    );
    const commands = this.#redis
      .multi()
      .srem(room(roomId, 'conns'), connId)
      .hdel(room(roomId, 'conn_meta'), connId)
      .zrem(room(roomId, 'last_seen'), connId)
      .srem(userConns(userId), connId)
      .del(conn(connId));
    if (!stays) commands.srem(room(roomId, 'members'), userId);
    await commands.exec();
    await this.#publish({
      type: 'leave',
      roomId,
      userId,
      connId,
      state: null,
      ts: Date.now(),
      epoch,
    });
    if ((await this.#redis.scard(room(roomId, 'conns'))) === 0) {
      await this.#redis.srem(ACTIVE_ROOMS, roomId);
    }
  }

  async #publish(event: ReferenceEvent): Promise<void> {
    await this.#redis.publish(room(event.roomId, 'events'), JSON.stringify(event));
  }

  async #follow(pattern: string, handler: (event: never) => void): Promise<Stop> {
    const subscriber = this.#redis.duplicate();
    this.#subscribers.add(subscriber);
    subscriber.on('pmessage', (_pattern, _channel, message) => {
      try {
        handler(JSON.parse(message) as never);
      } catch (error) {
        this.#options.logger?.error('Presence event handler threw', error);
      }
    });
    await subscriber.psubscribe(pattern);
    return async () => {
      this.#subscribers.delete(subscriber);
      subscriber.disconnect();
    };
  }

  async #checkLock({ options, actorUserId }: ReferenceMetadataParams): Promise<void> {
    const name = options?.lockName;
    if (!name) return;
    const owner = await this.#redis.get(`prs:lock:${name}`);
    const refuse = (why: string) => new MetadataRefused('METADATA_LOCK', `Lock "${name}" ${why}`);
    if (!owner) throw refuse('is not held by any user');
    if (!actorUserId) throw refuse('requires an authenticated user');
    if (owner !== actorUserId) throw refuse('is held by a different user');
  }

  /**
   * The record, checked against the caller's expectations; a later write may see another record.
   */
  async #expected(params: ReferenceMetadataParams): Promise<ReferenceMetadata> {
    const current = await this.getChannelMetadata(params);
    const expected = params.options?.majorRevision;
    if (expected !== undefined && !(expected < 0) && expected !== current.majorRevision) {
      throw new MetadataRefused(
        'METADATA_CONFLICT',
        `Expected major revision ${expected}, but got ${current.majorRevision}`,
      );
    }
    return current;
  }

  async #write(
    params: ReferenceMetadataParams,
    operation: 'set' | 'update' | 'remove',
    metadata: Record<string, StoredItem>,
    majorRevision: number,
    changed: [string, StoredItem][],
  ): Promise<ReferenceMetadata> {
    const { channelName, channelType, actorUserId } = params;
    const timestamp = Date.now();
    const totalCount = Object.keys(metadata).length;
    await this.#redis.hset(meta(channelType, channelName), {
      items: JSON.stringify(metadata),
      totalCount: String(totalCount),
      majorRevision: String(majorRevision),
    });
    const items = changed.map(([key, { value, revision }]) => ({ key, value, revision }));
    const authorUid = actorUserId === undefined ? {} : { authorUid: actorUserId };
    const event = { channelName, channelType, operation, items, majorRevision, timestamp };
    await this.#redis.publish(
      metaEvents(channelType, channelName),
      JSON.stringify({ ...event, ...authorUid }),
    );
    return { timestamp, channelName, channelType, totalCount, majorRevision, metadata };
  }

  #stamped(item: StoredItem, { options, actorUserId }: ReferenceMetadataParams): StoredItem {
    if (options?.addTimestamp) item.updated = new Date().toISOString();
    if (options?.addUserId && actorUserId) item.authorUid = actorUserId;
    return item;
  }
}

/** The items with these keys, each once, in the order of the keys. */
function pick(
  items: Record<string, StoredItem>,
  named: readonly { key: string }[],
): [string, StoredItem][] {
  const keys = [...new Set(named.map(({ key }) => key))];
  return keys.flatMap((key) => (items[key] === undefined ? [] : [[key, items[key]]]));
}

function textOf(value: unknown): string {
  return value === undefined || value === null ? '' : String(value);
}

/** Invalid text counts as absent. */
function parsed(text: string | undefined): Record<string, unknown> | null {
  try {
    const value = JSON.parse(text || 'null');
    return typeof value === 'object' ? value : null;
  } catch {
    return null;
  }
}

const readState = parsed;

function readItems(text: string | undefined): Record<string, StoredItem> {
  const items: Record<string, StoredItem> = {};
  for (const [key, item] of Object.entries(parsed(text) ?? {})) {
    if (typeof item !== 'object' || item === null) continue;
    const { value, revision, updated, authorUid } = item as Record<string, unknown>;
    const number = Number(revision);
    items[key] = { value: textOf(value), revision: Number.isFinite(number) ? number : 0 };
    if (typeof updated === 'string') items[key].updated = updated;
    if (typeof authorUid === 'string') items[key].authorUid = authorUid;
  }
  return items;
}
