// Rooms that nodes attend (docs/expiry.md): a fleet whose TTL is long enough for it, and heartbeats for
// some of its connections.
import type { Redis } from 'ioredis';
import { PresenceClient } from 'rollcall';
import { onTestFinished } from 'vitest';
import { type AnyState, type Client, silent } from '../conformance/stores.js';
import { eventually } from '../support/wait.js';
import { millis } from './expiry.js';

export const TTL_MS = 4000;
export const SWEEP_MS = 200;
export const BEAT_MS = 500;
export const OPTIONS = { ttlMs: TTL_MS, sweepIntervalMs: SWEEP_MS };

/** A connection of a room of the fleet. */
export function place(name: string, room: number) {
  return { roomId: `r${room}`, userId: `u${room % 3}`, connId: `${name}${room}`, snapshot: false };
}

/** A client that sends heartbeats for those that it has joined until told to let some go. */
export interface Beating {
  readonly client: Client;
  /** Joins a connection in each of so many rooms, named so. */
  join(name: string, rooms: number): Promise<void>;
  /** Sends no more heartbeats for what is named so. */
  drop(name: string): void;
}

export async function startBeating(url: string): Promise<Beating> {
  const client = await PresenceClient.connect<AnyState>({ url, ...OPTIONS, logger: silent });
  let beats: { connId: string; epoch: number }[] = [];
  const pulse = setInterval(() => {
    if (beats.length > 0) void client.heartbeatMany(beats).catch(() => {});
  }, BEAT_MS);
  onTestFinished(async () => {
    clearInterval(pulse);
    await client.close();
  });
  return {
    client,
    async join(name, rooms) {
      const places = Array.from({ length: rooms }, (_, room) => place(name, room));
      const joined = await Promise.all(places.map((one) => client.join(one)));
      beats.push(...places.map(({ connId }, i) => ({ connId, epoch: joined[i]?.epoch ?? 0 })));
    },
    drop(name) {
      beats = beats.filter(({ connId }) => connId.replace(/\d+$/, '') !== name);
    },
  };
}

/** Resolves when Redis's clock has gone on so far. */
export async function passed(redis: Redis, ms: number): Promise<void> {
  const end = (await millis(redis)) + ms;
  await eventually(async () => (await millis(redis)) >= end, { timeoutMs: ms + 10_000 });
}

/**
 * How many looks there were while that went on. A machine that is so busy that a node does not come to renew
 * its word costs a look at each of its rooms: so it may try again, twice.
 */
export async function fewestLooks(looks: () => number, work: () => Promise<void>): Promise<number> {
  const counts: number[] = [];
  while (counts.length < 3 && !counts.includes(0)) {
    const before = looks();
    await work();
    counts.push(looks() - before);
  }
  return Math.min(...counts);
}

/** The marks of nodes in the due index: member and shard. */
export async function nodeMarks(redis: Redis): Promise<string[]> {
  const marks: string[] = [];
  for (const shard of await redis.keys('prs:due:*')) {
    const members = await redis.zrangebyscoreBuffer(shard, 2 ** 52, '+inf');
    for (const member of members)
      if (member[0] === 0xff) marks.push(`${member.subarray(1)} ${shard}`);
  }
  return marks;
}

/** By room: the node that the due index says attends it, or `undefined`. */
export async function attendants(redis: Redis): Promise<Map<string, string | undefined>> {
  const found = new Map<string, string | undefined>();
  for (const shard of await redis.keys('prs:due:*')) {
    const flat = await redis.zrangebyscore(shard, '-inf', `(${2 ** 52}`, 'WITHSCORES');
    for (let at = 0; at < flat.length; at += 2) {
      const score = flat[at + 1] ?? '';
      found.set(flat[at] ?? '', score.startsWith('-') ? score.slice(1) : undefined);
    }
  }
  return found;
}
