// A TCP proxy between clients and a server that simulates network faults: closes connections, drops
// or delays data, splits it, or loses the reply to a request that arrived.
import { once } from 'node:events';
import { connect, createServer, type Socket } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import { deferred } from './wait.js';

/** A client's connection and the corresponding connection to the server. */
interface Pair {
  client: Socket;
  server: Socket;
  /** The server's further data are dropped, and the connection is closed. */
  loseReply: boolean;
}

/**
 * Called for each piece of data from clients. The result is forwarded: the piece itself, or
 * another. If it is a Promise, it is forwarded when it resolves, and later data of that connection
 * wait. `connection` is the same object for all pieces of one connection.
 */
export type Watch = (piece: Buffer, connection: object) => Buffer | Promise<Buffer>;

export class FaultProxy implements AsyncDisposable {
  readonly host = '127.0.0.1';
  port = 0;
  watch: Watch = (piece) => piece;
  /** Milliseconds of delay for all data, in both directions. */
  delayMs = 0;
  /** Whether data are sent byte by byte, in both directions. */
  splits = false;
  /** The number of connections so far. */
  accepted = 0;
  /** The number of dropped pieces so far. */
  swallowed = 0;

  readonly #pairs = new Set<Pair>();
  readonly #listener = createServer((client) => this.#accept(client));
  #target: { host: string; port: number };
  #swallows = false;
  #refuses = false;
  #losing: { request: RegExp; times: number; done: () => void } | undefined;

  /** Only {@link startProxy} creates proxies. */
  constructor(target: { host: string; port: number }) {
    this.#target = target;
  }

  async listen(): Promise<void> {
    this.#listener.listen(0, this.host);
    await once(this.#listener, 'listening');
    const address = this.#listener.address();
    this.port = typeof address === 'object' ? (address?.port ?? 0) : 0;
  }

  get url(): string {
    return `redis://${this.host}:${this.port}`;
  }

  /** Open connections. */
  get connections(): number {
    return this.#pairs.size;
  }

  /** New connections lead to another server. */
  retarget(target: { host: string; port: number }): void {
    this.#target = target;
  }

  /** Closes all connections at once with a reset. */
  cut(): void {
    for (const { client, server } of this.#pairs) {
      client.resetAndDestroy();
      server.destroy();
    }
  }

  /** Closes all connections, and every new one. */
  refuse(on: boolean): void {
    this.#refuses = on;
    if (on) this.cut();
  }

  /**
   * Accepts all data and forwards none, including new connections, as with an unplugged cable.
   * Dropped data are lost: after it is turned off, the existing connections stay dead.
   */
  blackhole(on: boolean): void {
    this.#swallows = on;
  }

  /**
   * Forwards the next `times` matching requests, and closes their connections when the server has
   * answered: the answer is lost. Resolves when all are done.
   */
  loseReplies(request: RegExp, times = 1): Promise<void> {
    const { promise, resolve } = deferred();
    this.#losing = { request, times, done: resolve };
    return promise;
  }

  #accept(client: Socket): void {
    this.accepted += 1;
    if (this.#refuses) {
      client.resetAndDestroy();
      return;
    }
    const server = connect(this.#target.port, this.#target.host);
    const pair: Pair = { client, server, loseReply: false };
    this.#pairs.add(pair);
    // A connection that has dropped data stays dead: the other side's TCP would detect missing
    // bytes.
    let dropping = false;
    for (const [from, to] of [
      [client, server],
      [server, client],
    ] as const) {
      from.setNoDelay(true);
      from.on('error', () => {});
      from.on('close', () => {
        this.#pairs.delete(pair);
        to.destroy();
      });
      let before: Promise<unknown> = Promise.resolve();
      from.on('data', (piece: Buffer) => {
        dropping ||= this.#swallows;
        if (dropping) {
          this.swallowed += 1;
          return;
        }
        // Delayed, not slow: pieces that arrive together are also forwarded together.
        const arrives = performance.now() + this.delayMs;
        before = before.then(async () => {
          const now = from === client ? await this.watch(piece, pair) : piece;
          const early = arrives - performance.now();
          if (early > 0) await delay(early);
          if (from === server && pair.loseReply) {
            this.#lost(pair);
            return;
          }
          if (from === client) this.#match(pair, now);
          await this.#write(to, now);
        });
      });
    }
  }

  #match(pair: Pair, piece: Buffer): void {
    if (this.#losing && !pair.loseReply && this.#losing.request.test(piece.toString('latin1'))) {
      pair.loseReply = true;
    }
  }

  #lost(pair: Pair): void {
    pair.client.resetAndDestroy();
    pair.server.destroy();
    const losing = this.#losing;
    if (losing && --losing.times <= 0) {
      this.#losing = undefined;
      losing.done();
    }
  }

  async #write(to: Socket, piece: Buffer): Promise<void> {
    if (!this.splits) {
      to.write(piece);
      return;
    }
    for (let at = 0; at < piece.length && !to.destroyed; at++) {
      to.write(piece.subarray(at, at + 1));
      // A turn of the event loop between two bytes, so that they are separate packets.
      await new Promise(setImmediate);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.cut();
    this.#listener.close();
    await once(this.#listener, 'close');
  }
}

export async function startProxy(
  target: number | { host: string; port: number },
): Promise<FaultProxy> {
  const proxy = new FaultProxy(
    typeof target === 'number' ? { host: '127.0.0.1', port: target } : target,
  );
  await proxy.listen();
  return proxy;
}
