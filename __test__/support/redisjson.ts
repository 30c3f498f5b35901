// A Redis server with RedisJSON, one for each test process, or the reason why there is none.
import { locateRedisJson } from '../../scripts/lib/redisjson.mjs';
import { type RedisServer, startRedis } from './redis.js';

const found = locateRedisJson();

/** Why tests that need RedisJSON are skipped; empty if they are not. */
export const noRedisJson = 'why' in found ? found.why : '';
if (noRedisJson) console.warn(`tests of RedisJSON are skipped: ${noRedisJson}`);

let shared: Promise<RedisServer> | undefined;
let nextDb = 0;

/** An empty database of the shared server, like `sharedDb` without the module. */
export async function jsonDb(): Promise<{ server: RedisServer; db: number; url: string }> {
  if (!('file' in found)) throw new Error(noRedisJson);
  shared ??= startRedis({ config: { loadmodule: found.file } });
  const server = await shared;
  const db = 1 + (nextDb++ % 15);
  await server.flush(db);
  return { server, db, url: server.urlFor({ db }) };
}
