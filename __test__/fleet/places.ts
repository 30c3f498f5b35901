// Where the data of a fleet are: one Redis with each layout, and a cluster.
import type { Redis } from 'ioredis';
import { startCluster } from '../support/cluster.js';
import { startRedis } from '../support/redis.js';

export interface Place extends AsyncDisposable {
  url: string;
  /** A client of each server that has keys. */
  admins: Redis[];
}

async function oneRedis(): Promise<Place> {
  const server = await startRedis();
  return {
    url: server.url,
    admins: [await server.client()],
    [Symbol.asyncDispose]: () => server[Symbol.asyncDispose](),
  };
}

async function ofCluster(): Promise<Place> {
  const cluster = await startCluster();
  return {
    url: cluster.url,
    admins: await Promise.all((await cluster.masters()).map((one) => cluster.on(one))),
    [Symbol.asyncDispose]: () => cluster[Symbol.asyncDispose](),
  };
}

export const PLACES = [
  { title: 'v1', layout: 'v1', open: oneRedis },
  { title: 'slotted', layout: 'slotted', open: oneRedis },
  { title: 'a cluster', layout: 'slotted', open: ofCluster },
] as const;
