// The commands that a server has run, by its own count.
import type { Redis } from 'ioredis';

/**
 * The number of calls of each command since the server started or its counts were reset. Commands that scripts
 * call count too.
 */
export async function commandCalls(redis: Redis): Promise<Record<string, number>> {
  const stats = await redis.info('commandstats');
  const found = [...stats.matchAll(/^cmdstat_(\S+?):calls=(\d+)/gm)];
  return Object.fromEntries(found.map(([, name, calls]) => [name, Number(calls)]));
}
