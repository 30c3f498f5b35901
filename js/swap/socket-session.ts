// One socket: where it is in presence, and what it asks for. Its joins and leaves are done in turn; what
// may have been done without an answer is remembered as such, and cleaned up (spec 3.12).

import { invalid, RollcallError } from '../errors.js';
import { logError } from '../log.js';
import type { DefaultState, Logger } from '../types.js';
import { isArray } from '../validate.js';
import {
  type ConnectionWatcher,
  type HeartbeatReport,
  type Joining,
  type Place,
  REPORT,
  WATCH,
} from './connections.js';
import type { PresenceService } from './service.js';
import { type Answer, refusalOf } from './socket-answers.js';
import { readHeartbeat, readJoin, readMetadata } from './socket-payloads.js';
import type { SocketAction, SocketPolicy } from './socket-policy.js';
import { type Kind, SocketBudget } from './socket-quotas.js';
import { type RoomCounts, SocketRooms } from './socket-rooms.js';
import { Turns } from './socket-turns.js';
import type { SocketLike } from './sockets.js';

/** What the sessions of a server share. */
export interface SessionContext {
  readonly service: PresenceService;
  readonly policy: SocketPolicy;
  readonly logger: Logger;
  readonly rooms: RoomCounts;
}

type MetadataMethod =
  | 'setChannelMetadata'
  | 'updateChannelMetadata'
  | 'removeChannelMetadata'
  | 'getChannelMetadata';

const METADATA: readonly [event: string, action: SocketAction, method: MetadataMethod][] = [
  ['metadata:setChannel', 'metadata:set', 'setChannelMetadata'],
  ['metadata:updateChannel', 'metadata:update', 'updateChannelMetadata'],
  ['metadata:removeChannel', 'metadata:remove', 'removeChannelMetadata'],
  ['metadata:getChannel', 'metadata:get', 'getChannelMetadata'],
];

type Listener = (...args: unknown[]) => Promise<void>;

export class SocketSession implements ConnectionWatcher {
  readonly #socket: SocketLike;
  readonly #context: SessionContext;
  readonly #onEnd: () => void;
  readonly #rooms: SocketRooms;
  readonly #budget: SocketBudget;
  readonly #turns = new Turns();
  readonly #listeners: [event: string, listener: Listener][] = [];
  readonly #unwatch: (() => void) | undefined;
  /** Joins on their way, the server's own included. */
  readonly #joins = new Set<Promise<void>>();
  /** Counts them: one that begins while a handler waits has been made by its call. */
  #joinsBegun = 0;
  /** Where it is, or may be; what is in the socket's `data` is only told, never believed. */
  #place: Place | undefined;
  /** The epoch of its connection; `undefined` if it is not known. */
  #epoch: number | undefined;
  /** Whether it may be in `#place`, or in another, or nowhere: a join or a leave whose outcome is not known. */
  #doubt = false;
  /** Whether it wants to be out of `#place`: a heartbeat that is accepted does not say that it is in. */
  #leaving = false;
  /** Changes with the place: answers to what was sent before say nothing of it. */
  #generation = 0;
  /** Whether the socket is no more. Then its rooms and its `data` may already be a recovered socket's. */
  #gone = false;
  #closing: Promise<void> | undefined;
  /** The user that `identify` gave; asked once, for metadata. */
  #identified: Promise<string | undefined> | undefined;
  /** Heartbeats whose authorization is waited for keep their order. */
  #inOrder: Promise<unknown> | undefined;

  /** @param onEnd is called when nothing more will come of it. */
  constructor(socket: SocketLike, context: SessionContext, onEnd: () => void) {
    this.#socket = socket;
    this.#context = context;
    this.#onEnd = onEnd;
    this.#rooms = new SocketRooms(socket, context.rooms);
    this.#budget = new SocketBudget(context.policy.quotas);
    // A wrapper around a service may not have it.
    this.#unwatch = context.service[WATCH]?.(socket.id, this);
    this.#answer('presence:join', 'joinsPerSecond', (payload) => this.#join(payload));
    this.#answer('presence:leave', 'joinsPerSecond', () => this.#turns.run(() => this.#leave()));
    this.#answer('presence:heartbeat', 'patchesPerSecond', (payload) => this.#heartbeat(payload));
    for (const [event, action, method] of METADATA) {
      this.#answer(event, 'metadataPerSecond', (payload) =>
        this.#metadata(event, action, method, payload),
      );
    }
    this.#listen('disconnect', () => {
      this.#gone = true;
      this.#rooms.forgetAll();
      return this.close();
    });
  }

  /** Takes the listeners away. */
  detach(): void {
    for (const [event, listener] of this.#listeners) {
      this.#socket.off(event, listener);
    }
    this.#unwatch?.();
  }

  /**
   * Drops what waits, lets what is being done end, and takes the connection out of its room. What comes
   * later is answered with `CLOSED`. Never rejects.
   */
  close(): Promise<void> {
    this.#closing ??= (async () => {
      this.#turns.close(closed());
      await this.#turns.idle();
      await Promise.all(this.#joins);
      try {
        await this.#leaveNow();
      } catch (error) {
        logError(this.#context.logger, 'Leaving after a disconnection failed', error);
      }
      this.#unwatch?.();
      this.#onEnd();
    })();
    return this.#closing;
  }

  joining(joining: Joining, epoch: Promise<number>): void {
    this.#joinsBegun++;
    const ended = epoch
      .then(
        (joined) => this.#isIn(joining, joined),
        (error) => this.#mayBeIn(joining, error),
      )
      .finally(() => this.#joins.delete(ended));
    this.#joins.add(ended);
  }

  left(): void {
    this.#isNowhere();
    if (!this.#gone) {
      this.#rooms.keepOnly(undefined).catch((error) => {
        logError(this.#context.logger, 'Leaving a room failed', error);
      });
    }
  }

  async #join(payload: unknown): Promise<Answer> {
    const { policy } = this.#context;
    const { roomId, userId: claimed, state } = readJoin(payload, policy.identifies);
    return this.#turns.run(async () => {
      const socket = this.#socket;
      const userId = await policy.userOf(socket, claimed);
      await policy.check({ socket, userId, action: 'join', roomId, data: state });
      if (this.#place !== undefined && !this.#doubt && this.#place.roomId !== roomId) {
        throw invalid('Socket already joined a different presence room');
      }
      await this.#rooms.check(roomId);
      return this.#joinNow({ roomId, userId, state });
    });
  }

  async #joinNow(joining: Joining): Promise<Answer> {
    const { service } = this.#context;
    const { roomId, userId, state } = joining;
    const connId = this.#socket.id;
    // Before the join: a socket hears of its own.
    const entered = await this.#rooms.enter(roomId);
    this.#checkOpen();
    const before = this.#place;
    const begun = this.#joinsBegun;
    try {
      const options = { roomId, userId, connId };
      const snapshot = await service.join(
        state === undefined ? options : { ...options, state: state as DefaultState },
      );
      if (this.#joinsBegun === begun) {
        // A wrapper that has another way of joining, or that does not let itself be watched.
        this.#isIn(joining, ownEpoch(snapshot, connId) ?? (await this.#storedEpoch()));
      }
      if (!this.#gone) {
        // A wrapper may have chosen another room.
        const room = this.#place?.roomId ?? roomId;
        await this.#rooms.enter(room);
        await this.#rooms.keepOnly(room);
      }
      return { ok: true, snapshot, self: { connId, epoch: this.#epoch } };
    } catch (error) {
      if (this.#unwatch === undefined) {
        this.#mayBeIn(joining, error);
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
      userId: this.#place?.userId,
      action: 'leave',
      roomId: this.#place?.roomId,
    });
    await this.#leaveNow();
    return { ok: true };
  }

  async #leaveNow(): Promise<void> {
    if (this.#place === undefined && !this.#doubt) {
      return;
    }
    const { service } = this.#context;
    const connId = this.#socket.id;
    const epoch = this.#epoch;
    const begun = this.#joinsBegun;
    // Until it is known to be gone: a socket that has left may join another room, whatever came of it.
    this.#doubt = true;
    this.#leaving = true;
    await (epoch === undefined ? service.leave(connId) : service.leave(connId, { epoch }));
    if (this.#joinsBegun !== begun) {
      // The server has joined it anew meanwhile.
      return;
    }
    this.#isNowhere();
    if (!this.#gone) {
      await this.#rooms.keepOnly(undefined);
    }
  }

  async #heartbeat(payload: unknown): Promise<Answer> {
    const { patchState, epoch } = readHeartbeat(payload);
    await this.#afterTurns();
    const { service, policy } = this.#context;
    const socket = this.#socket;
    if (this.#place === undefined && this.#unwatch !== undefined) {
      throw notJoined();
    }
    await this.#ordered(
      policy.check({
        socket,
        userId: this.#place?.userId,
        action: 'heartbeat',
        roomId: this.#place?.roomId,
        data: patchState,
      }),
    );
    this.#checkOpen();
    const generation = this.#generation;
    const report: HeartbeatReport = {};
    const options = {
      connId: socket.id,
      ...(epoch === undefined ? {} : { epoch }),
      ...(patchState === undefined ? {} : { patchState }),
      [REPORT]: report,
    };
    try {
      const changed = await service.heartbeat(options);
      if (report.error !== undefined) {
        throw report.error;
      }
      const stored = report.result?.epoch ?? (await this.#unreported(changed, epoch));
      if (generation === this.#generation) {
        await this.#isAlive(stored);
      }
      return { ok: true, changed, epoch: stored };
    } catch (error) {
      if (generation === this.#generation) {
        this.#mayBeDead(error, epoch);
      }
      throw error;
    }
  }

  /** The epoch after a heartbeat of which a wrapper handed on only whether it changed something. */
  async #unreported(changed: boolean, epoch: number | undefined): Promise<number> {
    if (changed && this.#epoch !== undefined) {
      return Math.max(this.#epoch, epoch ?? 0);
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

  /** A heartbeat has been accepted: the connection is there. */
  async #isAlive(epoch: number): Promise<void> {
    if (this.#epoch === undefined || epoch > this.#epoch) {
      this.#epoch = epoch;
    }
    if (this.#place === undefined) {
      // Somebody else has joined it, who is not watched.
      this.#doubt = true;
    } else if (this.#doubt && !this.#leaving && !this.#turns.busy && !this.#gone) {
      // A join without an answer was made after all.
      this.#doubt = false;
      this.#tell();
      await this.#rooms.enter(this.#place.roomId);
    }
  }

  #mayBeDead(error: unknown, sent: number | undefined): void {
    const code = error instanceof RollcallError ? error.code : undefined;
    if (code === 'CONNECTION_NOT_FOUND') {
      // It may join elsewhere.
      this.#doubt = true;
    } else if (sent !== undefined && this.#epoch !== undefined && !certain(error)) {
      // A higher epoch may have been adopted; a leave with the old one would end nothing.
      this.#epoch = Math.max(this.#epoch, sent);
    }
  }

  async #metadata(
    event: string,
    action: SocketAction,
    method: MetadataMethod,
    payload: unknown,
  ): Promise<Answer> {
    const params = readMetadata(event, payload);
    await this.#afterTurns();
    const { service, policy } = this.#context;
    const actor = this.#place?.userId ?? (await this.#user()) ?? this.#told();
    const { channelType, channelName, data } = params;
    await policy.check({
      socket: this.#socket,
      userId: actor,
      action,
      roomId: this.#place?.roomId,
      channel: { channelType, channelName },
      data,
    });
    this.#checkOpen();
    const record = await service[method](
      actor === undefined ? params : { ...params, actorUserId: actor },
    );
    return { ok: true, ...record };
  }

  #user(): Promise<string | undefined> {
    this.#identified ??= this.#context.policy.identify(this.#socket).catch((error) => {
      this.#identified = undefined;
      throw error;
    });
    return this.#identified;
  }

  /** The user that a middleware of the server has put into the socket's data, before any join. */
  #told(): string | undefined {
    const userId: unknown = this.#socket.data?.presenceUserId;
    return typeof userId === 'string' && userId !== '' ? userId : undefined;
  }

  /** What was sent behind a join belongs to it. */
  async #afterTurns(): Promise<void> {
    if (this.#turns.busy) {
      await this.#turns.idle();
    }
    this.#checkOpen();
  }

  async #ordered(check: void | Promise<void>): Promise<void> {
    if (check === undefined && this.#inOrder === undefined) {
      return;
    }
    const before = this.#inOrder;
    const both = Promise.allSettled([before, check]);
    this.#inOrder = both;
    await both;
    if (this.#inOrder === both) {
      this.#inOrder = undefined;
    }
    await check;
  }

  #isIn({ roomId, userId }: Place, epoch: number | undefined): void {
    this.#generation++;
    this.#place = { roomId, userId };
    this.#epoch = epoch;
    this.#doubt = false;
    this.#leaving = false;
    this.#tell();
  }

  /** A join has failed. Unless it is certain that nothing was done, it may have been made. */
  #mayBeIn({ roomId, userId }: Place, error: unknown): void {
    if (!certain(error)) {
      this.#generation++;
      this.#place = { roomId, userId };
      this.#epoch = undefined;
      this.#doubt = true;
      this.#leaving = false;
    }
  }

  #isNowhere(): void {
    this.#generation++;
    this.#place = undefined;
    this.#epoch = undefined;
    this.#doubt = false;
    this.#leaving = false;
    this.#tell();
  }

  /** For the server's own handlers. */
  #tell(): void {
    const { data } = this.#socket;
    if (!this.#gone && typeof data === 'object' && data !== null) {
      data.presenceRoomId = this.#place?.roomId;
      data.presenceUserId = this.#place?.userId;
    }
  }

  #checkOpen(): void {
    if (this.#closing !== undefined) {
      throw closed();
    }
  }

  /** Listens for an event of the protocol, and acknowledges it if the client wants that. */
  #answer(event: string, kind: Kind, work: (payload: unknown) => Promise<Answer>): void {
    this.#listen(event, async (...args) => {
      const last = args.at(-1);
      const acknowledge = typeof last === 'function' ? last : undefined;
      const payload = typeof args[0] === 'function' ? undefined : args[0];
      const log = (error: unknown) => logError(this.#context.logger, `${event} failed`, error);
      try {
        const answer = await this.#admitted(kind, payload, work);
        // The encoder of the socket server throws here for what it cannot encode.
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

  async #admitted(
    kind: Kind,
    payload: unknown,
    work: (payload: unknown) => Promise<Answer>,
  ): Promise<Answer> {
    this.#checkOpen();
    this.#budget.admit(kind, payload);
    try {
      return await work(payload);
    } finally {
      this.#budget.answered();
    }
  }

  #listen(event: string, listener: Listener): void {
    this.#listeners.push([event, listener]);
    this.#socket.on(event, listener);
  }
}

function ownEpoch(snapshot: unknown, connId: string): number | undefined {
  const entry = isArray(snapshot)
    ? (snapshot as readonly { connId?: string; epoch?: number }[]).find(
        (one) => one?.connId === connId,
      )
    : undefined;
  return typeof entry?.epoch === 'number' ? entry.epoch : undefined;
}

/** Whether a call that failed with this has certainly changed nothing. */
function certain(error: unknown): boolean {
  return (
    error instanceof RollcallError &&
    (error.code === 'INVALID_ARGUMENT' || error.code === 'FORBIDDEN' || error.code === 'OVERLOADED')
  );
}

function closed(): RollcallError {
  return new RollcallError('CLOSED', 'the socket has disconnected, or presence was disposed');
}

function notJoined(): RollcallError {
  return new RollcallError('CONNECTION_NOT_FOUND', 'Socket has not joined a presence room');
}
