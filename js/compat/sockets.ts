// The socket protocol of a server: a session for every connected socket.

import { invalid } from '../errors.js';
import type { ChannelMetadata } from '../metadata-types.js';
import type { DefaultState, HeartbeatOptions, Logger } from '../types.js';
import { checkHandler, checkLogger, checkOptions, readKnown } from '../validate.js';
import type { ChannelMetadataParams } from './coerce.js';
import type { PresenceService } from './service.js';
import { POLICY_FIELDS, SocketPolicy, type SocketPolicyOptions } from './socket-policy.js';
import { METADATA_CHANGES, type SessionContext, SocketSession } from './socket-session.js';
import type { SocketLike, SocketServerLike } from './socket-types.js';

/** Sends heartbeats: a `HeartbeatBatcher`, a `LuaHeartbeatExecutor`, or a wrapper around one. */
export interface HeartbeatSender {
  heartbeat(options: HeartbeatOptions): Promise<boolean>;
}

/** Changes metadata: a `TransactionalMetadataWrapper`, or a wrapper around one. */
export interface MetadataChanger {
  setChannelMetadata(params: ChannelMetadataParams): Promise<ChannelMetadata>;
  updateChannelMetadata(params: ChannelMetadataParams): Promise<ChannelMetadata>;
  removeChannelMetadata(params: ChannelMetadataParams): Promise<ChannelMetadata>;
}

export interface PresenceHandlersOptions extends SocketPolicyOptions {
  io: SocketServerLike;
  /** Not used: the service has its own connections. */
  redis?: unknown | undefined;
  /** Logs failures that the client did not cause. Default: `console`. */
  logger?: Logger | undefined;
  /**
   * Sends the heartbeats of the sockets instead of the service; the executor has precedence over
   * the batcher. If the service has `liveness: "node"`, create it from that service: with
   * connections of its own it would make the sockets depend on their heartbeats.
   */
  heartbeatBatcher?: HeartbeatSender | null | undefined;
  luaHeartbeatExecutor?: HeartbeatSender | null | undefined;
  /** Makes the metadata changes of the sockets instead of the service. */
  transactionalMetadata?: MetadataChanger | null | undefined;
}

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
 * `{ ok: false, error, code? }`, a revision conflict also with `current`, the current record. A socket
 * that disconnects leaves. The service's public methods are called, so that a subclass or a wrapper sees
 * every request. Listeners return a Promise that resolves when the request is done, and never rejects.
 *
 * @returns a function that removes the handlers, including those of connected sockets.
 */
export function registerPresenceHandlers<State extends object = DefaultState>(
  options: PresenceHandlersOptions,
  service: PresenceService<State>,
): () => void {
  const handlers = new PresenceHandlers(options, service as unknown as PresenceService);
  return () => handlers.detach();
}

/** The sessions of a server's sockets. */
export class PresenceHandlers {
  readonly #io: SocketServerLike;
  readonly #context: SessionContext;
  /** The sessions that have not ended. */
  readonly #sessions = new Set<SocketSession>();
  /** The newest session of each id: a recovered socket has the id of the disconnected one. */
  readonly #byId = new Map<string, SocketSession>();
  readonly #onConnection: (socket: SocketLike) => void;

  constructor(options: PresenceHandlersOptions, service: PresenceService) {
    checkOptions('registerPresenceHandlers', options);
    const {
      io,
      logger = console,
      heartbeatBatcher,
      luaHeartbeatExecutor,
      transactionalMetadata,
      ...policy
    } = readKnown(options, ['io', 'logger', ...PARTS, ...POLICY_FIELDS]);
    if (!isSocketServer(io)) {
      throw invalid('io must be a Socket.IO server or namespace');
    }
    checkLogger(logger);
    this.#io = io;
    const batcher = part('heartbeatBatcher', heartbeatBatcher, ['heartbeat']);
    const executor = part('luaHeartbeatExecutor', luaHeartbeatExecutor, ['heartbeat']);
    const changer = part('transactionalMetadata', transactionalMetadata, METADATA_CHANGES);
    this.#context = {
      service,
      heartbeats: (executor ?? batcher ?? service) as HeartbeatSender,
      metadata: (changer ?? service) as MetadataChanger,
      policy: new SocketPolicy(policy, logger),
      logger,
      rooms: new Map(),
    };
    this.#onConnection = (socket) => this.#connected(socket);
    io.on('connection', this.#onConnection);
  }

  /**
   * Removes the handlers. Connections stay until they leave or their TTL ends; with `liveness:
   * "node"`, until the service is stopped.
   */
  detach(): void {
    this.#io.off('connection', this.#onConnection);
    for (const session of this.#sessions) {
      session.detach();
    }
    this.#sessions.clear();
    this.#byId.clear();
  }

  /**
   * Removes the connections of all sockets from their rooms, including sockets that have just
   * disconnected. Connected sockets are answered with `CLOSED` from now on. Never rejects.
   */
  async close(): Promise<void> {
    this.#io.off('connection', this.#onConnection);
    await Promise.all([...this.#sessions].map((session) => session.close()));
  }

  #connected(socket: SocketLike): void {
    const { id } = socket;
    const ended = () => {
      this.#sessions.delete(session);
      if (this.#byId.get(id) === session) {
        this.#byId.delete(id);
      }
    };
    const before = this.#byId.get(id);
    const session: SocketSession = new SocketSession(socket, this.#context, ended, before);
    this.#sessions.add(session);
    this.#byId.set(id, session);
  }
}

const PARTS = ['heartbeatBatcher', 'luaHeartbeatExecutor', 'transactionalMetadata'] as const;

/** A part of the server with these methods; `undefined` without one. */
function part(field: string, given: unknown, methods: readonly string[]): object | undefined {
  if (given === undefined || given === null) {
    return undefined;
  }
  checkOptions(field, given);
  for (const [name, method] of Object.entries(readKnown(given, methods))) {
    checkHandler(`${field}.${name}`, method);
  }
  return given;
}

function isSocketServer(io: unknown): io is SocketServerLike {
  try {
    return typeof (io as SocketServerLike | undefined)?.on === 'function';
  } catch {
    return false;
  }
}
