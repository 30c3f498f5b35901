// Servers other than Redis, for the tests of this folder. Each ends with its test.
import { once } from 'node:events';
import { createServer as createHttpServer } from 'node:http';
import { createServer, type Server, type Socket } from 'node:net';
import { onTestFinished } from 'vitest';

async function listen(server: Server): Promise<number> {
  const sockets = new Set<Socket>();
  server.on('connection', (socket) => {
    sockets.add(socket);
    socket.on('error', () => {});
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  onTestFinished(async () => {
    for (const socket of sockets) socket.destroy();
    if (server.listening) {
      server.close();
      await once(server, 'close');
    }
  });
  return (server.address() as { port: number }).port;
}

/** Accepts connections and never answers. */
export function silentPort(): Promise<number> {
  return listen(createServer((socket) => socket.resume()));
}

/** Answers everything with these bytes. */
export function answeringPort(bytes: string | Buffer): Promise<number> {
  return listen(createServer((socket) => socket.on('data', () => socket.write(bytes))));
}

/** Closes every connection at once. */
export function closingPort(): Promise<number> {
  return listen(createServer((socket) => socket.destroy()));
}

/** A web server. */
export function httpPort(): Promise<number> {
  return listen(createHttpServer((_, response) => response.end('<html>hello</html>')));
}

/** A port without a listener. */
export async function refusedPort(): Promise<number> {
  const server = createServer();
  const port = await listen(server);
  server.close();
  await once(server, 'close');
  return port;
}
