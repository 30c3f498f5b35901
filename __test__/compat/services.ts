// Shared by the tests of the legacy interface: services on a separate database, a recorded log, and
// connected sockets.
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { Redis } from 'ioredis';
import {
  initPresence,
  PresenceService,
  type PresenceServiceOptions,
  type StartingPresence,
} from 'rollcall';
import { Server, type ServerOptions } from 'socket.io';
import { type Socket as ClientSocket, io as connectSocket } from 'socket.io-client';
import { onTestFinished } from 'vitest';
import type { Untyped } from '../support/clients.js';
import { sharedDb } from '../support/redis.js';

export const OPTIONS = { ttlMs: 10_000, reaperIntervalMs: 50, reaperLookbackMs: 20_000 };

/** An ioredis client on an empty database, as a server would create it. */
export async function ioredis(): Promise<Redis> {
  const { url } = await sharedDb();
  const redis = new Redis(url);
  onTestFinished(() => redis.disconnect());
  return redis;
}

/** A service; stopped with the test. */
export function serviceOn<State extends object = Record<string, unknown>>(
  redis: ConstructorParameters<typeof PresenceService>[0],
  options: Partial<PresenceServiceOptions> = {},
): PresenceService<State> {
  const service = new PresenceService<State>(redis, { ...OPTIONS, logger: {}, ...options });
  onTestFinished(() => service.stop());
  return service;
}

/** Presence for the sockets of a server; disposed with the test. */
export function startPresence(io: Server, redis: Redis, options: Untyped = {}): StartingPresence {
  const started = initPresence({ io, redis, logger: {}, ...options });
  onTestFinished(() => started.dispose());
  return started;
}

/** Joins a room with a socket, by default as the user `u`. */
export const join = (socket: ClientSocket, roomId: string, more: Untyped = {}) =>
  socket.emitWithAck('presence:join', { roomId, userId: 'u', ...more });

export const heartbeat = (socket: ClientSocket, payload: Untyped = {}) =>
  socket.emitWithAck('presence:heartbeat', payload);

export interface SocketServer {
  io: Server;
  url: string;
  /** A connected socket; closed with the test. */
  connect(): Promise<ClientSocket>;
}

/** A Socket.IO server on a free port; closed with the test. */
export async function socketServer(options: Partial<ServerOptions> = {}): Promise<SocketServer> {
  const http = createServer();
  const io = new Server(http, options);
  await new Promise<void>((resolve) => http.listen(0, '127.0.0.1', resolve));
  const { port } = http.address() as AddressInfo;
  const clients: ClientSocket[] = [];
  onTestFinished(async () => {
    for (const client of clients) client.close();
    await io.close();
  });
  const url = `http://127.0.0.1:${port}`;
  return { io, url, connect: () => connected(url, clients) };
}

/** A socket that is connected to a server. */
export async function connected(url: string, opened: ClientSocket[]): Promise<ClientSocket> {
  const socket = connectSocket(url, { transports: ['websocket'], forceNew: true });
  opened.push(socket);
  await new Promise<void>((resolve, reject) => {
    socket.once('connect', resolve);
    socket.once('connect_error', reject);
  });
  return socket;
}
