// Removes a defence from the Lua scripts for a negative control. A proxy between client and server
// does it, so that the addon stays unchanged.
import type { Redis } from 'ioredis';
import type { FaultProxy } from '../support/proxy.js';

/**
 * Replaces a part of every script that is sent through the proxy from now on. The replacement is
 * padded with spaces, because requests contain their length in bytes. A client without the proxy
 * loads the unchanged scripts for all clients of the server.
 */
export async function removeFromScripts(
  { redis, proxy }: { redis: Redis; proxy: FaultProxy },
  piece: string,
  replacement = '',
): Promise<void> {
  const filled = replacement.padEnd(piece.length);
  /**
   * The end of a connection's data, in which the part may have started. No request ends like that.
   */
  const heldBack = new WeakMap<object, string>();
  proxy.watch = (bytes, connection) => {
    const text = (heldBack.get(connection) ?? '') + bytes.toString('latin1');
    const sent = text.replaceAll(piece, filled);
    let begun = piece.length - 1;
    while (!sent.endsWith(piece.slice(0, begun))) begun--;
    heldBack.set(connection, sent.slice(sent.length - begun));
    return Buffer.from(sent.slice(0, sent.length - begun), 'latin1');
  };
  // Connected clients have already loaded the unchanged scripts.
  await redis.script('FLUSH');
}
