// The socket bridge: presence events go to the sockets of their room, metadata events to those of the
// room that has the channel's name.

import type { PresenceClient } from '../client.js';
import { invalid } from '../errors.js';
import type { MetadataEvent } from '../metadata-types.js';
import type { PresenceEvent, Unsubscribe } from '../types.js';
import { checkName, checkOptions, messageOf, readKnown } from '../validate.js';
import { eventOf } from './coerce.js';

/** What events are emitted by; a Socket.IO server or namespace is one. */
export interface RoomEmitter {
  to(room: string): { emit(event: string, payload: never): unknown };
}

export interface SocketBridgeOptions {
  /** Default `"presence:event"`. */
  eventName?: string | undefined;
  /** Default `"metadata:event"`. */
  metadataEventName?: string | undefined;
}

export interface Bridge {
  /** Ends the bridge: once it has resolved, nothing more is emitted. */
  stop(): Promise<void>;
}

/**
 * @param connect - gives the client of both subscriptions. It is asked once: after a `stop()` between
 * the two, a second question would open a new client that nobody closes.
 */
export async function bridge<State extends object>(
  connect: () => Promise<PresenceClient<State>>,
  adapter: RoomEmitter,
  options: SocketBridgeOptions,
): Promise<Bridge> {
  checkAdapter(adapter);
  checkOptions('createSocketBridge', options);
  const { eventName = 'presence:event', metadataEventName = 'metadata:event' } = readKnown(
    options,
    ['eventName', 'metadataEventName'],
  );
  checkName('eventName', eventName);
  checkName('metadataEventName', metadataEventName);
  const client = await connect();
  const stopPresence = await client.subscribe((event: PresenceEvent<State>) => {
    local(adapter)
      .to(event.roomId)
      .emit(eventName, event as never);
  });
  let stopMetadata: Unsubscribe;
  try {
    stopMetadata = await client.metadata.subscribe((published: MetadataEvent) => {
      const event = eventOf(published);
      local(adapter)
        .to(event.channelName)
        .emit(metadataEventName, event as never);
    });
  } catch (error) {
    await stopPresence();
    throw error;
  }
  return {
    stop: async () => {
      await Promise.all([stopPresence(), stopMetadata()]);
    },
  };
}

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
 * A Socket.IO server emits to the sockets of all processes, if it has an adapter that can; each
 * process has a bridge, so a socket would get an event once for each of them.
 */
function local(adapter: RoomEmitter): RoomEmitter {
  const { local } = adapter as { local?: RoomEmitter };
  return typeof local?.to === 'function' ? local : adapter;
}
