// What stands between a node and Redis, so that a test can act at the very moment at which the node
// sends a certain call.
import { once } from 'node:events';
import { connect, createServer, type Socket } from 'node:net';

/** What the reaper's scripts look like on the wire: their number of keys, and the first of them. */
export const CALLS = {
  /** What is due has been claimed, the node looks at it. */
  rooms: /EVALSHA\r\n\$40\r\n\w+\r\n\$\d+\r\n\d+\r\n\$\d+\r\nprs:due:/,
  candidates: /EVALSHA\r\n\$40\r\n\w+\r\n\$1\r\n2\r\n\$\d+\r\nprs:\{room:[^}]*\}:last_seen\r\n/,
  reap: /EVALSHA\r\n\$40\r\n\w+\r\n\$\d+\r\n\d+\r\n\$\d+\r\nprs:\{room:[^}]*\}:conns\r\n\$\d+\r\nprs:\{room:[^}]*\}:members\r\n\$\d+\r\nprs:\{room:[^}]*\}:last_seen\r\n\$\d+\r\nprs:\{room:[^}]*\}:conn_meta/,
} as const;

export interface Proxy extends AsyncDisposable {
  readonly url: string;
  /**
   * Asked about all that the node sends, piece by piece. What it gives is sent on: the piece itself,
   * or another; as a Promise, when that resolves, and everything later waits.
   */
  watch: (piece: Buffer) => Buffer | Promise<Buffer>;
}

export async function startProxy(port: number): Promise<Proxy> {
  const sockets = new Set<Socket>();
  const proxy = {
    url: '',
    watch: (piece: Buffer): Buffer | Promise<Buffer> => piece,
    [Symbol.asyncDispose]: async () => {
      for (const socket of sockets) socket.destroy();
      server.close();
      await once(server, 'close');
    },
  };
  const server = createServer((node) => {
    const redis = connect(port, '127.0.0.1');
    for (const [socket, other] of [
      [node, redis],
      [redis, node],
    ] as const) {
      sockets.add(socket);
      socket.setNoDelay(true);
      socket.on('error', () => {});
      socket.on('close', () => {
        sockets.delete(socket);
        other.destroy();
      });
    }
    redis.on('data', (piece) => node.write(piece));
    let before: Promise<unknown> = Promise.resolve();
    node.on('data', (piece) => {
      before = before.then(async () => redis.write(await proxy.watch(piece)));
    });
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  proxy.url = `redis://127.0.0.1:${typeof address === 'object' ? address?.port : ''}`;
  return proxy;
}
