// The socket bridge: presence events are emitted to the sockets of their room, metadata events to
// those of the room with the channel's name. After a gap in the events, each room gets a snapshot.

import type { PresenceClient } from '../client.js';
import { invalid } from '../errors.js';
import type { MetadataEvent } from '../metadata-types.js';
import type { Logger, PresenceEvent, PresenceSnapshotEntry, Unsubscribe } from '../types.js';
import { checkName, checkOptions, messageOf, readKnown } from '../validate.js';
import { eventOf } from './coerce.js';
import { RoomResync } from './resync.js';
import type { RoomEmitter } from './socket-types.js';

export interface SocketBridgeOptions {
  /** Default `"presence:event"`. */
  eventName?: string | undefined;
  /** Default `"metadata:event"`. */
  metadataEventName?: string | undefined;
  /** Default `"presence:resync"`. */
  resyncEventName?: string | undefined;
}

export interface Bridge {
  /** Ends the bridge: after it has resolved, nothing is emitted. */
  stop(): Promise<void>;
}

/** The methods of a service that a bridge uses. */
export interface BridgedService<State extends object> {
  /**
   * Returns the client for all subscriptions. It is called once: after a `stop()` between two
   * subscriptions, another call would open a new client that is never closed.
   */
  client(): Promise<PresenceClient<State>>;
  fetchRoomSnapshot(roomId: string): Promise<PresenceSnapshotEntry<State>[]>;
}

/** @param stopped fires when the service is stopped: nothing is read afterwards. */
export async function bridge<State extends object>(
  service: BridgedService<State>,
  adapter: RoomEmitter,
  options: SocketBridgeOptions,
  logger: Logger,
  stopped: AbortSignal,
): Promise<Bridge> {
  checkAdapter(adapter);
  checkOptions('createSocketBridge', options);
  const {
    eventName = 'presence:event',
    metadataEventName = 'metadata:event',
    resyncEventName = 'presence:resync',
  } = readKnown(options, BRIDGE_OPTION_FIELDS);
  checkName('eventName', eventName);
  checkName('metadataEventName', metadataEventName);
  checkName('resyncEventName', resyncEventName);
  const emit = (room: string, event: string, payload: unknown) => {
    local(adapter)
      .to(room)
      .emit(event, payload as never);
  };
  const resync = new RoomResync<State>({
    adapter,
    fetch: (roomId) => service.fetchRoomSnapshot(roomId),
    emit: (roomId, snapshot) => emit(roomId, resyncEventName, { roomId, snapshot }),
    release: (event) => emit(event.roomId, eventName, event),
    logger,
  });
  stopped.addEventListener('abort', () => resync.stop(), { once: true });
  const client = await service.client();
  const ends: (() => unknown)[] = [() => resync.stop(), client.on('resync', () => resync.start())];
  const stop = async () => {
    await Promise.all(ends.map((end) => end()));
  };
  const add = (end: Unsubscribe) => ends.push(end);
  try {
    add(
      await client.subscribe((event: PresenceEvent<State>) => {
        if (!resync.holds(event)) {
          emit(event.roomId, eventName, event);
        }
      }),
    );
    add(
      await client.metadata.subscribe((published: MetadataEvent) => {
        const event = eventOf(published);
        emit(event.channelName, metadataEventName, event);
      }),
    );
  } catch (error) {
    await stop();
    throw error;
  }
  return { stop };
}

export const BRIDGE_OPTION_FIELDS = [
  'eventName',
  'metadataEventName',
  'resyncEventName',
] as const satisfies readonly (keyof SocketBridgeOptions)[];

function checkAdapter(adapter: unknown): asserts adapter is RoomEmitter {
  let to: unknown;
  try {
    to = (adapter as RoomEmitter | undefined)?.to;
  } catch (error) {
    throw invalid(`adapter cannot be read: ${messageOf(error)}`, error);
  }
  if (typeof to !== 'function') {
    throw invalid('adapter must have a method to(room), as a Socket.IO server has');
  }
}

/**
 * With a suitable adapter, a Socket.IO server emits to the sockets of all processes. Each process
 * has a bridge, so a socket would get an event once for each process.
 */
function local(adapter: RoomEmitter): RoomEmitter {
  const { local } = adapter as { local?: RoomEmitter };
  return typeof local?.to === 'function' ? local : adapter;
}
