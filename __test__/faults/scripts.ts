// Takes a defence out of the Lua scripts for a negative control: between client and server, so that the
// addon sends the scripts that it always sends.
import type { Redis } from 'ioredis';
import type { FaultProxy } from '../support/proxy.js';

/**
 * Replaces a piece of every script that is sent through the proxy from now on. The replacement is filled up
 * with spaces: requests name their length in bytes. A client that does not use the proxy loads the scripts as
 * they are, for all clients of the server.
 */
export async function removeFromScripts(
  { redis, proxy }: { redis: Redis; proxy: FaultProxy },
  piece: string,
  replacement = '',
): Promise<void> {
  const filled = replacement.padEnd(piece.length);
  /** The end of what a connection has sent, where the piece may have begun. No request ends like that. */
  const heldBack = new WeakMap<object, string>();
  proxy.watch = (bytes, connection) => {
    const text = (heldBack.get(connection) ?? '') + bytes.toString('latin1');
    const sent = text.replaceAll(piece, filled);
    let begun = piece.length - 1;
    while (!sent.endsWith(piece.slice(0, begun))) begun--;
    heldBack.set(connection, sent.slice(sent.length - begun));
    return Buffer.from(sent.slice(0, sent.length - begun), 'latin1');
  };
  // Clients that are connected already have loaded the scripts as they are.
  await redis.script('FLUSH');
}
