// Identity, permissions and quotas of a socket, checked before each request is handled.

import { RollcallError } from '../errors.js';
import { logError } from '../log.js';
import type { Logger } from '../types.js';
import { checkHandler } from '../validate.js';
import { checkedQuotas, type Quotas, type SocketQuotas } from './socket-quotas.js';
import type { SocketLike } from './socket-types.js';

/** The action that a socket requests. */
export type SocketAction =
  | 'join'
  | 'heartbeat'
  | 'leave'
  | 'metadata:set'
  | 'metadata:update'
  | 'metadata:remove'
  | 'metadata:get';

export interface SocketRequest<Socket = SocketLike> {
  socket: Socket;
  /**
   * The user: the result of `identify`, or without it the user that joined or wants to join on the
   * socket.
   */
  userId: string | undefined;
  action: SocketAction;
  /** The room to join, or the room of the socket. */
  roomId?: string | undefined;
  /** The channel, for metadata. */
  channel?: { channelType: string; channelName: string } | undefined;
  /**
   * The state of a join, the patch of a heartbeat, or the items of a metadata change, unmodified.
   */
  data?: unknown;
}

export interface SocketPolicyOptions {
  /**
   * Returns the user of a socket; called at each join, and once for metadata before any join. With
   * it, a `userId` in a payload is optional, and must be equal otherwise. An invalid id, an
   * exception and a rejection refuse the request.
   */
  // biome-ignore lint/suspicious/noExplicitAny: any socket class
  identify?: ((socket: any) => string | Promise<string>) | undefined;
  /**
   * Whether a request is allowed; called for every action of a socket. Any value but `true`, an
   * exception and a rejection refuse it with `FORBIDDEN`.
   */
  // biome-ignore lint/suspicious/noExplicitAny: any socket class
  authorize?: ((request: SocketRequest<any>) => boolean | Promise<boolean>) | undefined;
  /** The limits for one socket; above them `RATE_LIMITED`, for that socket only. */
  quotas?: SocketQuotas | undefined;
}

export const POLICY_FIELDS = ['identify', 'authorize', 'quotas'] as const;

export class SocketPolicy {
  readonly quotas: Quotas;
  /** Whether the server identifies sockets. */
  readonly identifies: boolean;
  readonly #identify: SocketPolicyOptions['identify'];
  readonly #authorize: SocketPolicyOptions['authorize'];
  readonly #logger: Logger;

  constructor(options: { [Name in (typeof POLICY_FIELDS)[number]]: unknown }, logger: Logger) {
    const { identify, authorize, quotas } = options;
    if (identify !== undefined) {
      checkHandler('identify', identify);
    }
    if (authorize !== undefined) {
      checkHandler('authorize', authorize);
    }
    this.#identify = identify as SocketPolicyOptions['identify'];
    this.#authorize = authorize as SocketPolicyOptions['authorize'];
    this.identifies = identify !== undefined;
    this.quotas = checkedQuotas(quotas);
    this.#logger = logger;
  }

  /** The user of a socket, from the server; `undefined` if it does not identify sockets. */
  async identify(socket: SocketLike): Promise<string | undefined> {
    if (this.#identify === undefined) {
      return undefined;
    }
    let userId: unknown;
    try {
      userId = await this.#identify(socket);
    } catch (error) {
      logError(this.#logger, 'identify failed', error);
    }
    if (typeof userId !== 'string' || userId.length === 0) {
      throw forbidden('the server does not know who is on this socket');
    }
    return userId;
  }

  /** The user in a payload, if the socket may act for this user. */
  async userOf(socket: SocketLike, claimed: string | undefined): Promise<string> {
    const known = await this.identify(socket);
    if (known !== undefined && claimed !== undefined && claimed !== known) {
      throw forbidden('userId is not the user of this socket; leave it out, or send your own');
    }
    return (known ?? claimed) as string;
  }

  /**
   * Throws or rejects with `FORBIDDEN` if the request is not allowed. Synchronous if nothing has to
   * be awaited, because heartbeats are frequent.
   */
  check(request: SocketRequest): void | Promise<void> {
    if (this.#authorize === undefined) {
      return;
    }
    let allowed: unknown;
    try {
      allowed = this.#authorize(request);
    } catch (error) {
      throw this.#failed(request, error);
    }
    if (typeof allowed === 'object' && allowed !== null) {
      return Promise.resolve(allowed).then(
        (value) => allow(request, value),
        (error) => {
          throw this.#failed(request, error);
        },
      );
    }
    allow(request, allowed);
  }

  #failed(request: SocketRequest, error: unknown): RollcallError {
    logError(this.#logger, `authorize failed for ${request.action}`, error);
    return refused(request);
  }
}

function allow(request: SocketRequest, allowed: unknown): void {
  if (allowed !== true) {
    throw refused(request);
  }
}

function refused({ action }: SocketRequest): RollcallError {
  return forbidden(`the server does not allow this socket: ${action}`);
}

export function forbidden(message: string): RollcallError {
  return new RollcallError('FORBIDDEN', message);
}
