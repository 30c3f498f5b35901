// The socket protocol: what clients send, what they are told, and which room a socket is in. Payloads
// come from anybody: every field is checked before anything is done.

import { invalid, RollcallError } from '../errors.js';
import type { ChannelMetadata } from '../metadata-types.js';
import type { DefaultState, Logger, StatePatch } from '../types.js';
import {
  checkEpoch,
  checkId,
  checkLogger,
  checkObject,
  checkOptions,
  isArray,
  readKnown,
  shown,
} from '../validate.js';
import type { RoomEmitter } from './bridge.js';
import type { ChannelMetadataParams, PresenceService } from './service.js';

// biome-ignore lint/suspicious/noExplicitAny: Socket.IO's own listeners take anything
type Listener = (...args: any[]) => void;

/** What of a socket is used; Socket.IO's is one. */
export interface SocketLike {
  readonly id: string;
  /** Is told `presenceRoomId` and `presenceUserId`, for the server's own handlers. */
  // biome-ignore lint/suspicious/noExplicitAny: Socket.IO's is whatever the server makes of it
  readonly data?: any;
  join(room: string): unknown;
  leave(room: string): unknown;
  on(event: string, listener: Listener): unknown;
  off(event: string, listener: Listener): unknown;
}

/** What of a socket server is used; a Socket.IO server or namespace is one. */
export interface SocketServerLike extends RoomEmitter {
  on(event: 'connection', listener: Listener): unknown;
  off(event: 'connection', listener: Listener): unknown;
}

export interface PresenceHandlersOptions {
  io: SocketServerLike;
  /** Not used: the service has its own connections. */
  redis?: unknown | undefined;
  /** Gets failures that are not the client's. Default: `console`. */
  logger?: Logger | undefined;
  /** Not used, as the next two: the handlers call the service, which works like all three. */
  heartbeatBatcher?: unknown;
  luaHeartbeatExecutor?: unknown;
  transactionalMetadata?: unknown;
}

type Fields = Record<string, unknown>;
type Answer = { ok: true } & Fields;
type Refusal = { ok: false; error: string; code?: string; current?: ChannelMetadata };
type Ack = (answer: Answer | Refusal) => void;

interface Place {
  roomId: string;
  userId: string;
}

type MetadataMethod =
  | 'setChannelMetadata'
  | 'updateChannelMetadata'
  | 'removeChannelMetadata'
  | 'getChannelMetadata';

const METADATA_EVENTS: readonly [event: string, method: MetadataMethod][] = [
  ['metadata:setChannel', 'setChannelMetadata'],
  ['metadata:updateChannel', 'updateChannelMetadata'],
  ['metadata:removeChannel', 'removeChannelMetadata'],
  ['metadata:getChannel', 'getChannelMetadata'],
];

/** Codes whose messages are for the client; others speak of the server's own affairs. */
const CLIENTS_OWN: ReadonlySet<string> = new Set([
  'INVALID_ARGUMENT',
  'CONNECTION_NOT_FOUND',
  'STALE_EPOCH',
  'METADATA_INVALID',
  'METADATA_CONFLICT',
  'METADATA_LOCK',
  'OVERLOADED',
]);

/**
 * Answers the presence and metadata events of every socket that connects from now on.
 *
 * | event | payload | acknowledgement |
 * | --- | --- | --- |
 * | `presence:join` | `{ roomId, userId, state? }` | `{ ok: true, snapshot, self: { connId, epoch } }` |
 * | `presence:heartbeat` | `{ patchState?, epoch? }` | `{ ok: true, changed, epoch }` |
 * | `presence:leave` | – | `{ ok: true }` |
 * | `metadata:setChannel` `:updateChannel` `:removeChannel` `:getChannel` | `{ channelName, channelType, data?, options? }` | `{ ok: true, …record }` |
 *
 * Changes of metadata are made as the user that joined on the socket. A failure is acknowledged with
 * `{ ok: false, error, code? }`, one by another revision also with `current`, the record as it is. A socket that disconnects leaves.
 *
 * @returns what takes the handlers away again, also from the sockets that are there.
 */
export function registerPresenceHandlers<State extends object = DefaultState>(
  options: PresenceHandlersOptions,
  service: PresenceService<State>,
): () => void {
  checkOptions('registerPresenceHandlers', options);
  const { io, logger = console } = readKnown(options, ['io', 'logger']);
  if (!isSocketServer(io)) {
    throw invalid('io must be a Socket.IO server or namespace');
  }
  checkLogger(logger);
  const sessions = new Set<SocketSession<State>>();
  const onConnection = (socket: SocketLike) => {
    const session = new SocketSession(socket, service, logger, (ended) => sessions.delete(ended));
    sessions.add(session);
  };
  io.on('connection', onConnection);
  return () => {
    io.off('connection', onConnection);
    for (const session of sessions) {
      session.detach();
    }
    sessions.clear();
  };
}

function isSocketServer(io: unknown): io is SocketServerLike {
  try {
    return typeof (io as SocketServerLike | undefined)?.on === 'function';
  } catch {
    return false;
  }
}

/** One socket: the room it is in, and under which user. */
class SocketSession<State extends object> {
  readonly #socket: SocketLike;
  readonly #service: PresenceService<State>;
  readonly #logger: Logger;
  readonly #listeners: [event: string, listener: (...args: unknown[]) => void][] = [];
  /** Where it is; what is in the socket's `data` is only told, never believed. */
  #place: Place | undefined;
  /** Joins and leaves of a socket come one after the other, and its disconnection after them. */
  #turn: Promise<unknown> | undefined;

  constructor(
    socket: SocketLike,
    service: PresenceService<State>,
    logger: Logger,
    onEnd: (session: SocketSession<State>) => void,
  ) {
    this.#socket = socket;
    this.#service = service;
    this.#logger = logger;
    this.#answer('presence:join', (payload) => this.#inTurn(() => this.#join(payload)));
    this.#answer('presence:leave', () => this.#inTurn(() => this.#leave()));
    this.#answer('presence:heartbeat', (payload) => this.#heartbeat(payload));
    for (const [event, method] of METADATA_EVENTS) {
      this.#answer(event, (payload) => this.#metadata(event, method, payload));
    }
    this.#listen('disconnect', () => {
      onEnd(this);
      this.#inTurn(() => this.#leave()).catch((error) =>
        this.#log('Leaving after a disconnection failed', error),
      );
    });
  }

  detach(): void {
    for (const [event, listener] of this.#listeners) {
      this.#socket.off(event, listener);
    }
  }

  async #join(payload: unknown): Promise<Answer> {
    const { roomId, userId, state } = fieldsOf('presence:join', payload);
    checkId('roomId', roomId);
    checkId('userId', userId);
    if (state !== undefined) {
      checkObject('state', state);
    }
    if (this.#place !== undefined && this.#place.roomId !== roomId) {
      throw invalid('Socket already joined a different presence room');
    }
    const client = await this.#service.client();
    const isNew = this.#place === undefined;
    // Before the join: a socket hears of its own.
    await this.#socket.join(roomId);
    const connId = this.#socket.id;
    try {
      const { epoch, snapshot } = await client.join({
        roomId,
        userId,
        connId,
        ...(state === undefined ? {} : { state: state as State }),
      });
      this.#isIn({ roomId, userId });
      return { ok: true, snapshot, self: { connId, epoch } };
    } catch (error) {
      if (isNew) {
        await this.#socket.leave(roomId);
      }
      throw error;
    }
  }

  async #leave(): Promise<Answer> {
    const place = this.#place;
    if (place !== undefined) {
      await (await this.#service.client()).leave(this.#socket.id);
      this.#isIn(undefined);
      await this.#socket.leave(place.roomId);
    }
    return { ok: true };
  }

  #isIn(place: Place | undefined): void {
    this.#place = place;
    const { data } = this.#socket;
    if (typeof data === 'object' && data !== null) {
      data.presenceRoomId = place?.roomId;
      data.presenceUserId = place?.userId;
    }
  }

  async #heartbeat(payload: unknown): Promise<Answer> {
    const { patchState, epoch } = fieldsOf('presence:heartbeat', payload);
    checkEpoch(epoch);
    if (patchState !== undefined) {
      checkObject('patchState', patchState);
    }
    if (this.#turn !== undefined) {
      await this.#turn;
    }
    if (this.#place === undefined) {
      throw new RollcallError('CONNECTION_NOT_FOUND', 'Socket has not joined a presence room');
    }
    const client = await this.#service.client();
    const result = await client.heartbeat({
      connId: this.#socket.id,
      ...(epoch === undefined ? {} : { epoch: epoch as number }),
      ...(patchState === undefined ? {} : { patchState: patchState as StatePatch<State> }),
    });
    return { ok: true, changed: result.changed, epoch: result.epoch };
  }

  async #metadata(event: string, method: MetadataMethod, payload: unknown): Promise<Answer> {
    const { channelName, channelType, data, options } = fieldsOf(event, payload);
    if (this.#turn !== undefined) {
      await this.#turn;
    }
    const actor = this.#place?.userId;
    // The client checks the fields, and names the one that does not fit.
    const params = { channelName, channelType, data, options } as ChannelMetadataParams;
    const record = await this.#service[method](
      actor === undefined ? params : { ...params, actorUserId: actor },
    );
    return { ok: true, ...record };
  }

  #inTurn<T>(work: () => Promise<T>): Promise<T> {
    const before = this.#turn;
    const result = before === undefined ? work() : before.then(work);
    const turn: Promise<void> = result.then(ignore, ignore).then(() => {
      if (this.#turn === turn) {
        this.#turn = undefined;
      }
    });
    this.#turn = turn;
    return result;
  }

  /** Listens for an event of the protocol, and acknowledges it if the client wants that. */
  #answer(event: string, work: (payload: unknown) => Promise<Answer>): void {
    this.#listen(event, (...args) => {
      const ack = args.at(-1);
      const payload = typeof args[0] === 'function' ? undefined : args[0];
      const acknowledge = typeof ack === 'function' ? (ack as Ack) : ignore;
      work(payload)
        .then(acknowledge)
        // Also when the answer cannot be encoded: Socket.IO's encoder throws in the acknowledgement.
        .catch((error) => acknowledge(this.#failure(event, error)))
        .catch((error) => this.#log(`${event} could not be acknowledged`, error));
    });
  }

  #failure(event: string, error: unknown): Refusal {
    if (!(error instanceof RollcallError)) {
      this.#log(`${event} failed`, error);
      return { ok: false, error: 'Presence failed on the server' };
    }
    const { code, message, current } = error;
    if (CLIENTS_OWN.has(code)) {
      const refusal: Refusal = { ok: false, error: message, code };
      return current === undefined ? refusal : { ...refusal, current };
    }
    this.#log(`${event} failed`, error);
    return { ok: false, error: 'Presence is not available; try again', code };
  }

  #listen(event: string, listener: (...args: unknown[]) => void): void {
    this.#listeners.push([event, listener]);
    this.#socket.on(event, listener);
  }

  #log(message: string, error: unknown): void {
    try {
      this.#logger.error?.(message, error);
    } catch {
      // A logger that throws has nobody left to tell.
    }
  }
}

function fieldsOf(event: string, payload: unknown): Fields {
  if (typeof payload !== 'object' || payload === null || isArray(payload)) {
    throw invalid(`the payload of ${event} must be an object, got ${shown(payload)}`);
  }
  return payload as Fields;
}

function ignore(): void {}
