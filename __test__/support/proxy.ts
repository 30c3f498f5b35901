// A TCP proxy between clients and a server that does what networks do: cuts connections, swallows
// what is sent, holds it back, takes it to pieces, or loses the reply to a request that arrived.
import { once } from 'node:events';
import { connect, createServer, type Socket } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import { deferred } from './wait.js';

/** A client's connection and the one to the server that stands for it. */
interface Pair {
  client: Socket;
  server: Socket;
  /** What the server says from now on is lost, and the connection ends with it. */
  loseReply: boolean;
}

/**
 * Asked about all that clients send, piece by piece. What it gives is sent on: the piece itself, or
 * another; as a Promise, when that resolves, and everything later of that connection waits. `connection` is
 * the same object for all pieces of one connection.
 */
export type Watch = (piece: Buffer, connection: object) => Buffer | Promise<Buffer>;

export class FaultProxy implements AsyncDisposable {
  readonly host = '127.0.0.1';
  port = 0;
  watch: Watch = (piece) => piece;
  /** Milliseconds by which everything is late, in both directions. */
  delayMs = 0;
  /** Whether everything goes byte by byte, in both directions. */
  splits = false;
  /** Connections that have come so far. */
  accepted = 0;
  /** Pieces that were swallowed so far. */
  swallowed = 0;

  readonly #pairs = new Set<Pair>();
  readonly #listener = createServer((client) => this.#accept(client));
  #target: { host: string; port: number };
  #swallows = false;
  #refuses = false;
  #losing: { request: RegExp; times: number; done: () => void } | undefined;

  /** Only {@link startProxy} makes one. */
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

  /** New connections go elsewhere. */
  retarget(target: { host: string; port: number }): void {
    this.#target = target;
  }

  /** Ends all connections at once, as a reset. */
  cut(): void {
    for (const { client, server } of this.#pairs) {
      client.resetAndDestroy();
      server.destroy();
    }
  }

  /** Ends all connections, and every new one. */
  refuse(on: boolean): void {
    this.#refuses = on;
    if (on) this.cut();
  }

  /**
   * Everything is taken and nothing arrives, also of new connections, as when a cable is pulled.
   * What was swallowed is gone: off again, the connections of before still lead nowhere.
   */
  blackhole(on: boolean): void {
    this.#swallows = on;
  }

  /**
   * Lets the next `times` requests that match arrive, and ends their connections when the server
   * has answered: the answer is lost. Resolves when that has happened.
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
    // Swallowed once, swallowed for ever: the other side's TCP would know that bytes are missing.
    let deaf = false;
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
        deaf ||= this.#swallows;
        if (deaf) {
          this.swallowed += 1;
          return;
        }
        // Late, not slow: pieces that come together also arrive together.
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
      // A turn of the event loop between any two, so that they are packets of their own.
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
