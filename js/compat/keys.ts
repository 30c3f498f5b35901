// `presenceKeys`: the names in Redis, for programs that read the data directly. They come from the
// core, which is the only place that defines them.

import { presenceKey } from '../../binding/binding.js';
import { checkName } from '../validate.js';

/** A name with one id. */
function of(kind: string, field: string): (id: string) => string {
  return (id) => {
    checkName(field, id);
    return presenceKey(kind, id, '');
  };
}

/** A name with a channel's type and name, for any characters. */
function ofChannel(kind: string): (channelType: string, channelName: string) => string {
  return (channelType, channelName) => {
    checkName('channelType', channelType);
    checkName('channelName', channelName);
    return presenceKey(kind, channelType, channelName);
  };
}

/** The names of keys and channels under the default prefix, `prs:`. */
export const presenceKeys = {
  /** Set: rooms with at least one connection. */
  activeRoomsKey: (): string => presenceKey('activeRooms', '', ''),
  /** Set: the distinct user ids of a room. */
  roomMembersKey: of('roomMembers', 'roomId'),
  /** Set: the connection ids of a room. */
  roomConnectionsKey: of('roomConnections', 'roomId'),
  /** Hash: connection id → `{"userId":…,"epoch":…}`. */
  roomConnMetadataKey: of('roomConnMetadata', 'roomId'),
  /** Sorted set: connection id → time of the last heartbeat. */
  roomLastSeenKey: of('roomLastSeen', 'roomId'),
  /** Channel: the presence events of a room. */
  roomEventsChannel: of('roomEvents', 'roomId'),
  /** Hash: a connection. */
  connKey: of('conn', 'connId'),
  /** Set: the connection ids of a user. */
  userConnsKey: of('userConns', 'userId'),
  /** Pattern of the channels of all rooms' presence events. */
  eventsPattern: presenceKey('eventsPattern', '', ''),
  /** Hash: a channel's record. */
  channelMetadataKey: ofChannel('channelMetadata'),
  /** Channel: the metadata events of a channel. */
  channelMetadataEventsChannel: ofChannel('channelMetadataEvents'),
  /** Pattern of the channels of all metadata events. */
  metadataEventsPattern: presenceKey('metadataEventsPattern', '', ''),
  /** String: the owner of a lock. */
  lockKey: of('lock', 'lockName'),
} as const;
