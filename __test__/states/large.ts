// Large states, whose patches are written by transactions if they are stored separately, and nodes
// with every form of storage.
import { readFileSync } from 'node:fs';
import { Redis } from 'ioredis';
import type { PresenceClient } from 'rollcall';
import { onTestFinished } from 'vitest';
import type { StoreUnderTest } from '../conformance/stores.js';
import { ReferencePresenceService } from '../reference/service.js';
import type { Untyped } from '../support/clients.js';
import type { Random } from '../support/random.js';

/** Trained on states of all kinds of the benchmark's corpus (`benchmark/lib/train.mjs`). */
export const DICTIONARY = readFileSync(new URL('fixtures/states.dict', import.meta.url));

/** An object of about `bytes` bytes of JSON that compresses like real states. */
export function largeState(random: Random, bytes = 20_000): Untyped {
  const shapes = [];
  for (let size = 0; size < bytes; size += 90) {
    shapes.push({
      id: random.int(0, 2 ** 48).toString(36),
      type: random.pick(['rectangle', 'ellipse', 'arrow']),
      x: random.int(-2000, 2000) / 8,
      y: random.int(-2000, 2000) / 8,
      strokeColor: '#1e1e1e',
    });
  }
  return { cursor: { x: 0, y: 0 }, shapes, tool: 'hand', ünïcode: '😀' };
}

/** The commands of other clients on the test's database during `act`, from MONITOR. */
export async function commandsOf(
  store: StoreUnderTest,
  act: () => Promise<unknown>,
): Promise<string[][]> {
  const { server, db } = store.redis();
  const marker = await server.client(db);
  const monitor = await new Redis({ path: server.socketPath }).monitor();
  const lines: string[][] = [];
  const waiting = new Map<string, () => void>();
  monitor.on('monitor', (_time: string, args: string[], source: string, of: string) => {
    if (of !== String(db)) return;
    if (args[0]?.toLowerCase() === 'echo') waiting.get(args[1] ?? '')?.();
    // Commands of scripts have the source "lua".
    else if (source !== 'lua') lines.push(args);
  });
  const passed = (mark: string) =>
    new Promise<void>((resolve) => {
      waiting.set(mark, resolve);
      void marker.echo(mark);
    });
  try {
    await passed('begin');
    lines.length = 0;
    await act();
    await passed('end');
    return lines.filter(([name]) => name?.toLowerCase() !== 'ping');
  } finally {
    monitor.disconnect();
    marker.disconnect();
  }
}

/** A legacy node on the test's database. */
export async function referenceNode(
  store: StoreUnderTest,
): Promise<{ service: ReferencePresenceService; redis: Redis }> {
  const { server, db } = store.redis();
  const redis = await server.client(db);
  onTestFinished(() => redis.disconnect());
  const options = { ttlMs: 600_000, reaperIntervalMs: 3_000, reaperLookbackMs: 1_200_000 };
  return { service: new ReferencePresenceService(redis, options), redis };
}

export type Node = PresenceClient<Untyped>;
