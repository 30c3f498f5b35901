// Rooms that nodes attend (docs/expiry.md): a fleet whose TTL is long enough for it, and heartbeats for
// some of its connections.
import type { Redis } from 'ioredis';
import { PresenceClient } from 'rollcall';
import { expect, onTestFinished } from 'vitest';
import { type AnyState, type Client, silent } from '../conformance/stores.js';
import { MARKS } from '../redis/indices.js';
import { eventually } from '../support/wait.js';
import { MARGIN_MS, millis } from './expiry.js';
import { type Node, startNode } from './nodes.js';

export const TTL_MS = 4000;
export const SWEEP_MS = 200;
export const BEAT_MS = 500;
export const OPTIONS = { ttlMs: TTL_MS, sweepIntervalMs: SWEEP_MS };
/** How late a leave may be. */
export const LATE = { ttlMs: TTL_MS, latestMs: SWEEP_MS + MARGIN_MS };
export const ROOMS = 30;
export const ROOM_IDS = Array.from({ length: ROOMS }, (_, room) => `r${room}`);

/** A connection of a room of the fleet. Its name is followed by the number of the room. */
export function place(name: string, room: number) {
  return { roomId: `r${room}`, userId: `u${room % 3}`, connId: `${name}${room}`, snapshot: false };
}

export function nameOf(connId: string): string {
  return connId.replace(/\d+$/, '');
}

/** A client that sends heartbeats for those that it has joined until told to let some go. */
export interface Beating {
  readonly client: Client;
  /** Joins a connection in each of the rooms, or of so many of them, named so. */
  join(name: string, rooms?: number): Promise<void>;
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
    async join(name, rooms = ROOMS) {
      const places = Array.from({ length: rooms }, (_, room) => place(name, room));
      const joined = await Promise.all(places.map((one) => client.join(one)));
      beats.push(...places.map(({ connId }, i) => ({ connId, epoch: joined[i]?.epoch ?? 0 })));
    },
    drop(name) {
      beats = beats.filter(({ connId }) => nameOf(connId) !== name);
    },
  };
}

/** One that reaps, and has a connection in each room. */
export async function startReaping(url: string, name: string): Promise<Beating> {
  const node = await startBeating(url);
  await node.join(name);
  await node.client.startReaper();
  return node;
}

/** How many rooms they attend together. */
export function roomsAttended(nodes: readonly { client: Client }[]): number {
  return nodes.reduce((sum, { client }) => sum + client.metrics().roomsAttended, 0);
}

/** A node as a process of its own that attends all rooms, and is to come to harm. */
export async function startVictim(url: string, env: Record<string, string> = {}): Promise<Node> {
  const victim = await startNode({ url, ...OPTIONS }, env);
  const items = ROOM_IDS.map((_, room) => place('v', room));
  const alive = items.map(({ connId }) => connId);
  await victim.tell('join', { items, alive, everyMs: BEAT_MS });
  await victim.tell('startReaper');
  await eventually(async () => expect(await attendedBy(victim)).toBe(ROOMS), {
    timeoutMs: 4 * TTL_MS,
  });
  return victim;
}

export async function attendedBy(node: Node): Promise<number | undefined> {
  return (await node.tell('metrics')).metrics?.roomsAttended;
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
    const members = await redis.zrangebyscoreBuffer(shard, MARKS, '+inf');
    for (const member of members)
      if (member[0] === 0xff) marks.push(`${member.subarray(1)} ${shard}`);
  }
  return marks;
}

/** By room: the node that the due index says attends it, or `undefined`. */
export async function attendants(redis: Redis): Promise<Map<string, string | undefined>> {
  const found = new Map<string, string | undefined>();
  for (const shard of await redis.keys('prs:due:*')) {
    const flat = await redis.zrangebyscore(shard, '-inf', `(${MARKS}`, 'WITHSCORES');
    for (let at = 0; at < flat.length; at += 2) {
      const score = flat[at + 1] ?? '';
      found.set(flat[at] ?? '', score.startsWith('-') ? score.slice(1) : undefined);
    }
  }
  return found;
}
