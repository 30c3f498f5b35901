// Checks the promises to writers of metadata and to lock holders: acknowledged changes are stored,
// granted locks are held, and no lock ever has two holders.
import type { Lock, PresenceClient } from 'rollcall';
import { expect } from 'vitest';
import type { Random } from '../support/random.js';
import type { Ledger } from './ledger.js';

// biome-ignore lint/suspicious/noExplicitAny: states of any kind
type Client = PresenceClient<any>;

const CHANNELS = 2;
const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

export interface Channels {
  /** Stops the writers; resolves when their last call has ended. */
  stop(): Promise<void>;
  /** Every acknowledged change is stored. */
  check(client: Client): Promise<void>;
  /** The last value of each node in each channel, as the client reads it. */
  written(client: Client): Promise<number[]>;
  /** The number of acknowledged changes that are missing. */
  lost(client: Client): Promise<number>;
  summary(): string;
}

let runs = 0;

/** Each node increments its own item in each of some channels, without pauses. */
export async function writeChannels(nodes: Client[], ledger: Ledger): Promise<Channels> {
  // Each call uses different channels.
  const run = ++runs;
  const of = (channel: number) => ({ channelType: 'fault', channelName: `c${run}-${channel}` });
  /** By channel and item, the last acknowledged and the last attempted value. */
  const acknowledged = new Map<string, number>();
  const tried = new Map<string, number>();
  const changes = Array.from({ length: CHANNELS }, () => ({ done: 0, tried: 0 }));
  const data = nodes.map((_, n) => ({ key: `n${n}`, value: '0' }));
  for (let c = 0; c < CHANNELS; c++) await nodes[0]?.metadata.set({ ...of(c), data });
  let stopped = false;
  const write = async (node: Client, n: number, c: number) => {
    const counter = changes[c] ?? { done: 0, tried: 0 };
    const key = `n${n}`;
    for (let value = 1; !stopped; value++) {
      tried.set(`${c} ${key}`, value);
      counter.tried += 1;
      const update = { ...of(c), data: [{ key, value: String(value) }] };
      const done = await ledger.follow(`update ${c} ${key}`, node.metadata.update(update));
      if (done) {
        acknowledged.set(`${c} ${key}`, value);
        counter.done += 1;
      }
      await pause(1);
    }
  };
  const writers = nodes.flatMap((node, n) => changes.map((_, c) => write(node, n, c)));
  return {
    stop: async () => {
      stopped = true;
      await Promise.all(writers);
    },
    check: async (client) => {
      const lost: string[] = [];
      for (const [c, { done, tried: most }] of changes.entries()) {
        const { metadata, majorRevision } = await client.metadata.get(of(c));
        for (const { key } of data) {
          const value = Number(metadata[key]?.value ?? -1);
          const least = acknowledged.get(`${c} ${key}`) ?? 0;
          if (value < least || value > (tried.get(`${c} ${key}`) ?? 0)) {
            lost.push(`c${c} ${key}: ${least} was acknowledged, ${value} is there`);
          }
        }
        // Plus one for the initial set.
        if (majorRevision < done + 1 || majorRevision > most + 1) {
          lost.push(`c${c}: ${done} changes, majorRevision ${majorRevision}`);
        }
      }
      expect(lost, 'lost changes').toEqual([]);
    },
    written: async (client) => {
      const values: number[] = [];
      for (const c of changes.keys()) {
        const { metadata } = await client.metadata.get(of(c));
        for (const { key } of data) values.push(Number(metadata[key]?.value ?? 0));
      }
      return values;
    },
    lost: async (client) => {
      let lost = 0;
      for (const [c, { done }] of changes.entries()) {
        // Each change adds one, and so does the initial set.
        const { majorRevision } = await client.metadata.get(of(c));
        lost += Math.max(0, done + 1 - majorRevision);
      }
      return lost;
    },
    summary: () => `${changes.reduce((sum, { done }) => sum + done, 0)} changes of metadata`,
  };
}

interface Holder {
  lock: Lock;
  name: string;
  released: boolean;
}

export interface Contention {
  readonly grants: number;
  stop(): Promise<void>;
  /** Every granted lock that is neither released nor lost is held; no lock had two holders. */
  check(client: Client): Promise<void>;
  /** No lock is held, and no key of a lock is left. */
  clear(client: Client): Promise<void>;
  summary(): string;
}

/** Nodes that compete for a few locks, and hold some others. */
export function contend(
  nodes: Client[],
  ledger: Ledger,
  random: Random,
  { keeps = true } = {},
): Contention {
  const names = ['l0', 'l1', 'l2'];
  const wrong: string[] = [];
  const kept: Holder[] = [];
  const holders = new Map<string, Holder>();
  const tokens = new Map<string, number>();
  let grants = 0;
  let stopped = false;

  /** Whether the holder may still rely on its lock. */
  const valid = ({ lock, released }: Holder) =>
    !released && !lock.lost.aborted && Number(lock.expiresAt) > Date.now();

  const granted = (name: string, lock: Lock): Holder => {
    grants += 1;
    const before = holders.get(name);
    if (before && valid(before)) {
      wrong.push(`${name} was granted to ${lock.ownerId} and is held by ${before.lock.ownerId}`);
    }
    if (lock.fencingToken <= (tokens.get(name) ?? 0)) {
      wrong.push(`${name}: token ${lock.fencingToken} after ${tokens.get(name)}`);
    }
    tokens.set(name, lock.fencingToken);
    const holder = { lock, name, released: false };
    holders.set(name, holder);
    return holder;
  };

  const drive = async (node: Client, ownerId: string) => {
    for (let turn = 0; !stopped; turn++) {
      const name = random.pick(names);
      const take = node.locks.acquire(name, { ownerId, ttlMs: 1500, waitMs: 1000 });
      const lock = await ledger.follow(`acquire ${name}`, take);
      if (!lock) {
        await pause(20);
        continue;
      }
      const holder = granted(name, lock);
      await pause(random.int(0, 10));
      holder.released = true;
      await ledger.follow(`release ${name}`, lock.release());
      if (keeps && turn % 10 === 0) {
        const own = `kept-${ownerId}-${turn}`;
        const keep = node.locks.acquire(own, { ownerId, ttlMs: 600_000 });
        const got = await ledger.follow(`acquire ${own}`, keep);
        if (got) kept.push(granted(own, got));
      }
    }
  };
  const drivers = nodes.flatMap((node, n) => [0, 1].map((i) => drive(node, `o${n}-${i}`)));
  return {
    get grants() {
      return grants;
    },
    stop: async () => {
      stopped = true;
      await Promise.all(drivers);
    },
    check: async (client) => {
      expect(wrong).toEqual([]);
      const lost: string[] = [];
      for (const { name, lock } of kept) {
        const held = await client.locks.inspect(name);
        if (held?.ownerId !== lock.ownerId) lost.push(name);
      }
      expect(lost, 'lost locks').toEqual([]);
    },
    clear: async (client) => {
      for (const name of [...names, ...kept.map((holder) => holder.name)]) {
        await client.locks.revoke(name);
      }
    },
    summary: () => `${grants} grants of locks, ${kept.length} of them kept`,
  };
}
