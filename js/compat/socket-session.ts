// The session of one socket: its presence and its requests. Joins and leaves run in order; requests
// of unknown outcome are recorded and cleaned up (spec 3.12).

import { hasCode, invalid, RollcallError } from '../errors.js';
import { logError } from '../log.js';
import type { DefaultState, Logger } from '../types.js';
import type { ChannelMetadataParams } from './coerce.js';
import { type HeartbeatReport, type Joining, REPORT, WATCH } from './connections.js';
import type { PresenceService } from './service.js';
import { type Answer, refusalOf } from './socket-answers.js';
import { type HeartbeatRequest, readHeartbeat, readJoin, readMetadata } from './socket-payloads.js';
import type { SocketAction, SocketPolicy } from './socket-policy.js';
import { isNotFound, ownEpoch, SocketPresence } from './socket-presence.js';
import { type Kind, SocketBudget } from './socket-quotas.js';
import { isRecoverable, leaveRecovery, type Recovery, takeRecovery } from './socket-recovery.js';
import { type RoomCounts, SocketRooms } from './socket-rooms.js';
import { Turns } from './socket-turns.js';
import type { SocketLike } from './socket-types.js';

/** Shared by the sessions of a server. */
export interface SessionContext {
  readonly service: PresenceService;
  /** The senders of heartbeats and metadata changes: the service, or the server's own parts. */
  readonly heartbeats: Pick<PresenceService, 'heartbeat'>;
  readonly metadata: Pick<PresenceService, MetadataChange>;
  readonly policy: SocketPolicy;
  readonly logger: Logger;
  readonly rooms: RoomCounts;
}

export const METADATA_CHANGES = [
  'setChannelMetadata',
  'updateChannelMetadata',
  'removeChannelMetadata',
] as const;
type MetadataChange = (typeof METADATA_CHANGES)[number];
type MetadataMethod = MetadataChange | 'getChannelMetadata';

const METADATA: readonly [event: string, action: SocketAction, method: MetadataMethod][] = [
  ['metadata:setChannel', 'metadata:set', 'setChannelMetadata'],
  ['metadata:updateChannel', 'metadata:update', 'updateChannelMetadata'],
  ['metadata:removeChannel', 'metadata:remove', 'removeChannelMetadata'],
  ['metadata:getChannel', 'metadata:get', 'getChannelMetadata'],
];

type Listener = (...args: unknown[]) => Promise<void>;

export class SocketSession {
  readonly #socket: SocketLike;
  readonly #context: SessionContext;
  readonly #onEnd: () => void;
  readonly #rooms: SocketRooms;
  readonly #budget: SocketBudget;
  readonly #presence: SocketPresence;
  readonly #turns = new Turns();
  readonly #listeners: [event: string, listener: Listener][] = [];
  readonly #unwatch: (() => void) | undefined;
  /** The join in progress. */
  #asked: { roomId: string; userId: string | undefined; state: object | undefined } | undefined;
  /** The session that this socket was recovered from, until a heartbeat confirms its presence. */
  #recovered: Recovery | undefined;
  /**
   * Whether the socket has ended. Its rooms and its `data` may then belong to a recovered socket.
   */
  #gone = false;
  #closing: Promise<void> | undefined;
  /** The result of `identify`; called once, for metadata. */
  #identified: Promise<string | undefined> | undefined;
  /** Keeps the order of heartbeats that wait for authorization. */
  #inOrder: Promise<unknown> | undefined;

  /**
   * @param onEnd is called when the session has ended.
   * @param before the session of the socket that this one was recovered from, if it was here.
   */
  constructor(
    socket: SocketLike,
    context: SessionContext,
    onEnd: () => void,
    before: SocketSession | undefined,
  ) {
    this.#socket = socket;
    this.#context = context;
    this.#onEnd = onEnd;
    this.#rooms = new SocketRooms(socket, context.rooms);
    this.#budget = new SocketBudget(context.policy.quotas);
    this.#presence = new SocketPresence(isRecoverable(socket), (left) => this.#moved(left));
    // A wrapper around a service may not have this method.
    this.#unwatch = context.service[WATCH]?.(socket.id, this.#presence);
    this.#answer('presence:join', 'joinsPerSecond', (payload) => this.#join(payload));
    this.#answer('presence:leave', 'joinsPerSecond', () => this.#inTurn(() => this.#leave()));
    this.#answer('presence:heartbeat', 'patchesPerSecond', (payload) => this.#heartbeat(payload));
    for (const [event, action, method] of METADATA) {
      this.#answer(event, 'metadataPerSecond', (payload) =>
        this.#metadata(event, action, method, payload),
      );
    }
    this.#listen('disconnecting', async () => this.#leaveRecovery());
    this.#listen('disconnect', () => {
      this.#gone = true;
      this.#rooms.forgetAll();
      return this.close();
    });
    if (socket.recovered === true) {
      this.#rooms.reclaimPrivate().catch((error) => {
        logError(
          context.logger,
          'Others could not be kept out of the private room of a socket',
          error,
        );
      });
    }
    this.#recovered = takeRecovery(socket);
    if (before !== undefined || this.#recovered !== undefined) {
      this.#turns.run(() => this.#recover(before)).catch(() => {});
    }
  }

  /** Removes the listeners. */
  detach(): void {
    for (const [event, listener] of this.#listeners) {
      this.#socket.off(event, listener);
    }
    this.#unwatch?.();
  }

  /**
   * Drops waiting requests, lets the running one end, and removes the connection from its room.
   * Later requests are answered with `CLOSED`. Never rejects.
   */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  /** Sends the leave synchronously if possible, because the service may be stopped next. */
  async #close(): Promise<void> {
    this.#turns.close(closed());
    if (this.#turns.busy) {
      await this.#turns.idle();
    }
    if (this.#presence.joinsPending) {
      await this.#presence.joinsEnded();
    }
    try {
      await this.#leaveNow();
    } catch (error) {
      logError(this.#context.logger, 'Leaving after a disconnection failed', error);
    }
    this.#unwatch?.();
    this.#onEnd();
  }

  /** For a socket that may be recovered. */
  #leaveRecovery(): void {
    if (!isRecoverable(this.#socket)) {
      return;
    }
    const { joining = this.#asked, since } = this.#presence.recovery ?? {};
    leaveRecovery(
      this.#socket,
      joining && { ...joining, since, owned: this.#rooms.owns(joining.roomId) },
    );
  }

  /**
   * @param before the session whose joins and leaves come first, because unknown outcomes of them
   * have no fence.
   */
  async #recover(before: SocketSession | undefined): Promise<void> {
    await before?.close();
    if (this.#recovered?.owned) {
      this.#rooms.adopt(this.#recovered.roomId);
    }
    await this.#rejoin();
  }

  /** Joins the place from before the disconnection. After a failure, the next heartbeat retries. */
  async #rejoin(): Promise<void> {
    const recovered = this.#recovered;
    if (recovered === undefined) {
      return;
    }
    try {
      await this.#joinAs(recovered.roomId, recovered.userId, recovered.state);
      this.#presence.isRecovered(recovered.since);
    } catch (error) {
      logError(this.#context.logger, 'A recovered socket could not join again', error);
      if (hasCode(error, 'FORBIDDEN')) {
        this.#recovered = undefined;
        // An earlier attempt may have joined.
        await this.#leaveNow();
        this.#presence.isNowhere();
      }
    }
  }

  async #join(payload: unknown): Promise<Answer> {
    const { roomId, userId, state } = readJoin(payload, this.#context.policy.identifies);
    return this.#inTurn(async () => {
      this.#recovered = undefined;
      this.#asked = { roomId, userId, state };
      try {
        return await this.#joinAs(roomId, userId, state);
      } finally {
        this.#asked = undefined;
      }
    });
  }

  async #joinAs(
    roomId: string,
    claimed: string | undefined,
    state: object | undefined,
  ): Promise<Answer> {
    const { policy } = this.#context;
    const socket = this.#socket;
    const userId = await policy.userOf(socket, claimed);
    await policy.check({ socket, userId, action: 'join', roomId, data: state });
    const { place, doubt } = this.#presence;
    if (place !== undefined && !doubt && place.roomId !== roomId) {
      throw invalid('Socket already joined a different presence room');
    }
    await this.#rooms.check(roomId);
    return this.#joinNow({ roomId, userId, state });
  }

  async #joinNow(joining: Joining): Promise<Answer> {
    const { service } = this.#context;
    const { roomId, userId, state } = joining;
    const connId = this.#socket.id;
    const presence = this.#presence;
    const before = presence.place;
    // Before the join, so that a socket receives its own event.
    const entered = await this.#rooms.enter(roomId);
    const begun = presence.joinsBegun;
    try {
      this.#checkOpen();
      const options = { roomId, userId, connId };
      const snapshot = await service.join(
        state === undefined ? options : { ...options, state: state as DefaultState },
      );
      if (presence.joinsBegun === begun) {
        // A wrapper that joins in another way, or that cannot be watched.
        presence.isIn(joining, ownEpoch(snapshot, connId) ?? (await this.#storedEpoch()));
      }
      if (!this.#gone) {
        // A wrapper may have chosen another room.
        const room = presence.place?.roomId ?? roomId;
        await this.#rooms.enter(room);
        await this.#rooms.keepOnly(room);
      }
      return { ok: true, snapshot, self: { connId, epoch: presence.epoch } };
    } catch (error) {
      if (this.#unwatch === undefined) {
        presence.mayBeIn(joining, error);
      }
      if (entered && !this.#gone && before?.roomId !== roomId) {
        await this.#rooms.leave(roomId);
      }
      throw error;
    }
  }

  async #leave(): Promise<Answer> {
    await this.#context.policy.check({
      socket: this.#socket,
      userId: this.#presence.place?.userId,
      action: 'leave',
      roomId: this.#presence.place?.roomId,
    });
    this.#recovered = undefined;
    await this.#leaveNow();
    return { ok: true };
  }

  async #leaveNow(): Promise<void> {
    const { service } = this.#context;
    const { place, doubt, epoch, joinsBegun } = this.#presence;
    if (place === undefined && !doubt) {
      return;
    }
    const connId = this.#socket.id;
    this.#presence.isLeaving();
    await (epoch === undefined ? service.leave(connId) : service.leave(connId, { epoch }));
    // Otherwise the server has joined it again in the meantime.
    if (this.#presence.joinsBegun === joinsBegun) {
      this.#presence.isNowhere();
    }
  }

  async #heartbeat(payload: unknown): Promise<Answer> {
    const request = readHeartbeat(payload);
    try {
      return await this.#behind(() => this.#sendHeartbeat(request));
    } catch (error) {
      if (!isNotFound(error) || this.#recovered === undefined) {
        throw error;
      }
      // The repeated join failed, or an earlier request has removed the connection.
      await this.#turns.run(() => this.#rejoin());
      return await this.#sendHeartbeat(request);
    }
  }

  async #sendHeartbeat({ patchState, epoch: given }: HeartbeatRequest): Promise<Answer> {
    const { heartbeats, policy } = this.#context;
    const socket = this.#socket;
    const presence = this.#presence;
    if (presence.place === undefined && this.#unwatch !== undefined) {
      throw notJoined();
    }
    const { userId, roomId } = presence.place ?? {};
    const check = policy.check({ socket, userId, action: 'heartbeat', roomId, data: patchState });
    if (check !== undefined || this.#inOrder !== undefined) {
      await this.#ordered(check);
    }
    this.#checkOpen();
    const { generation } = presence;
    const epoch = presence.current(given);
    const report: HeartbeatReport = {};
    try {
      const changed = await heartbeats.heartbeat({
        connId: socket.id,
        ...(epoch === undefined ? {} : { epoch }),
        ...(patchState === undefined ? {} : { patchState }),
        ...{ [REPORT]: report },
      });
      if (report.error !== undefined) {
        throw report.error;
      }
      const stored = report.result?.epoch ?? (await this.#unreported(changed, epoch));
      this.#recovered = undefined;
      if (generation === presence.generation && presence.isAlive(stored, patchState)) {
        const room = presence.place?.roomId as string;
        await this.#rooms.check(room);
        await this.#rooms.enter(room);
      }
      return { ok: true, changed, epoch: stored };
    } catch (error) {
      if (generation === presence.generation) {
        presence.mayBeDead(error, epoch);
      }
      throw error;
    }
  }

  /** The epoch after a heartbeat for which a wrapper returned only whether it changed the state. */
  async #unreported(changed: boolean, epoch: number | undefined): Promise<number> {
    const known = this.#presence.epoch;
    if (changed && known !== undefined) {
      return Math.max(known, epoch ?? 0);
    }
    const stored = await this.#storedEpoch();
    if (stored === undefined) {
      throw notJoined();
    }
    if (epoch !== undefined && epoch < stored) {
      throw new RollcallError(
        'STALE_EPOCH',
        `epoch ${epoch} is older than the stored epoch ${stored}; a newer join has been made`,
      );
    }
    return stored;
  }

  async #storedEpoch(): Promise<number | undefined> {
    const client = await this.#context.service.client?.();
    return (await client?.getEpoch(this.#socket.id)) ?? undefined;
  }

  async #metadata(
    event: string,
    action: SocketAction,
    method: MetadataMethod,
    payload: unknown,
  ): Promise<Answer> {
    const params = readMetadata(event, payload);
    return this.#behind(() => this.#metadataNow(action, method, params));
  }

  async #metadataNow(
    action: SocketAction,
    method: MetadataMethod,
    params: ChannelMetadataParams,
  ): Promise<Answer> {
    const { service, metadata, policy } = this.#context;
    const { place } = this.#presence;
    const actor = place?.userId ?? (await this.#user()) ?? this.#socketDataUser();
    const { channelType, channelName, data } = params;
    await policy.check({
      socket: this.#socket,
      userId: actor,
      action,
      roomId: place?.roomId,
      channel: { channelType, channelName },
      data,
    });
    this.#checkOpen();
    const request = actor === undefined ? params : { ...params, actorUserId: actor };
    const record = await (method === 'getChannelMetadata'
      ? service.getChannelMetadata(request)
      : metadata[method](request));
    return { ok: true, ...record };
  }

  #user(): Promise<string | undefined> {
    this.#identified ??= this.#context.policy.identify(this.#socket).catch((error) => {
      this.#identified = undefined;
      throw error;
    });
    return this.#identified;
  }

  /** The user that a middleware of the server has stored in the socket's data, before any join. */
  #socketDataUser(): string | undefined {
    const userId: unknown = this.#socket.data?.presenceUserId;
    return typeof userId === 'string' && userId !== '' ? userId : undefined;
  }

  /** Joins that the server makes itself also come first. */
  #inTurn<T>(work: () => Promise<T>): Promise<T> {
    return this.#turns.run(async () => {
      if (this.#presence.joinsPending) {
        await this.#presence.joinsEnded();
      }
      return work();
    });
  }

  /** Requests sent after a join belong to it, and start before requests that follow them. */
  async #behind<T>(work: () => Promise<T>): Promise<T> {
    if (!this.#turns.busy && !this.#presence.joinsPending) {
      return work();
    }
    const [begun] = await this.#inTurn(async () => {
      const result = work();
      // It is awaited below; the next turn does not wait for it.
      result.catch(() => {});
      return [result];
    });
    return begun;
  }

  /** Resolves when the earlier heartbeats and this one are authorized. */
  async #ordered(check: void | Promise<void>): Promise<void> {
    const both = Promise.allSettled([this.#inOrder, check]);
    this.#inOrder = both;
    await both;
    if (this.#inOrder === both) {
      this.#inOrder = undefined;
    }
    await check;
  }

  /**
   * Stores the socket's place for the server's own handlers, and removes a socket that has left
   * from its rooms.
   */
  #moved(left: boolean): void {
    if (this.#gone) {
      return;
    }
    const { data } = this.#socket;
    if (typeof data === 'object' && data !== null) {
      data.presenceRoomId = this.#presence.place?.roomId;
      data.presenceUserId = this.#presence.place?.userId;
    }
    if (left) {
      this.#rooms.keepOnly(undefined).catch((error) => {
        logError(this.#context.logger, 'Leaving a room failed', error);
      });
    }
  }

  #checkOpen(): void {
    if (this.#closing !== undefined) {
      throw closed();
    }
  }

  /** Listens for an event of the protocol, and acknowledges it if the client requests that. */
  #answer(event: string, kind: Kind, work: (payload: unknown) => Promise<Answer>): void {
    this.#listen(event, async (...args) => {
      const last = args.at(-1);
      const acknowledge = typeof last === 'function' ? last : undefined;
      const payload = typeof args[0] === 'function' ? undefined : args[0];
      const log = (error: unknown) => logError(this.#context.logger, `${event} failed`, error);
      try {
        const answer = await this.#admitted(kind, args, () => work(payload));
        // The encoder of the socket server throws here for values that it cannot encode.
        acknowledge?.(answer);
      } catch (error) {
        try {
          acknowledge?.(refusalOf(error, () => log(error)));
        } catch (failure) {
          log(failure);
        }
      }
    });
  }

  /** @param args all arguments, of which only the first is used. */
  async #admitted(kind: Kind, args: unknown[], work: () => Promise<Answer>): Promise<Answer> {
    this.#checkOpen();
    this.#budget.admit(kind, args);
    try {
      return await work();
    } finally {
      this.#budget.answered();
    }
  }

  #listen(event: string, listener: Listener): void {
    this.#listeners.push([event, listener]);
    this.#socket.on(event, listener);
  }
}

function closed(): RollcallError {
  return new RollcallError('CLOSED', 'the socket has disconnected, or presence was disposed');
}

function notJoined(): RollcallError {
  return new RollcallError('CONNECTION_NOT_FOUND', 'Socket has not joined a presence room');
}
