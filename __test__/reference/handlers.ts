// The socket protocol on the reference service, as a legacy server serves it. Payloads are
// validated like its schemas do: text is accepted for numbers, unknown fields are ignored, and
// other values are refused.
import type { Server, Socket } from 'socket.io';
import type {
  MetadataRefused,
  ReferenceMetadata,
  ReferenceMetadataParams,
  ReferencePresenceService,
} from './service.js';

type Fields = Record<string, unknown>;
type Ack = ((answer: object) => void) | undefined;

const refuse = (field: string): never => {
  throw new Error(`${field} is invalid`);
};

function fieldsOf(value: unknown, field: string): Fields {
  const fits = typeof value === 'object' && value !== null && !Array.isArray(value);
  return fits ? (value as Fields) : refuse(field);
}

const text = (fields: Fields, name: string): string => {
  const value = fields[name];
  return typeof value === 'string' && value !== '' ? value : refuse(name);
};

function optional<T>(fields: Fields, name: string, read: (value: unknown) => T): T | undefined {
  return fields[name] === undefined ? undefined : read(fields[name]);
}

const whole = (name: string, least: number) => (value: unknown) => {
  const number = Number(value);
  return Number.isInteger(number) && number >= least ? number : refuse(name);
};

const flag = (name: string) => (value: unknown) =>
  typeof value === 'boolean' ? value : refuse(name);

function readChannel(raw: unknown): ReferenceMetadataParams {
  const fields = fieldsOf(raw ?? {}, 'payload');
  return { channelName: text(fields, 'channelName'), channelType: text(fields, 'channelType') };
}

function readChange(raw: unknown, least: number): ReferenceMetadataParams {
  const fields = fieldsOf(raw ?? {}, 'payload');
  const data = optional(fields, 'data', (list) =>
    Array.isArray(list) ? list.map(readItem) : refuse('data'),
  );
  if ((data?.length ?? 0) < least) refuse('data');
  const options = optional(fields, 'options', readOptions);
  return { ...readChannel(raw), ...(data && { data }), ...(options && { options }) };
}

function readItem(given: unknown) {
  const item = fieldsOf(given, 'item');
  const value = optional(item, 'value', (value) =>
    typeof value === 'string' ? value : refuse('value'),
  );
  const revision = optional(item, 'revision', whole('revision', Number.NEGATIVE_INFINITY));
  return {
    key: text(item, 'key'),
    ...(value === undefined ? {} : { value }),
    ...(revision === undefined ? {} : { revision }),
  };
}

function readOptions(given: unknown): NonNullable<ReferenceMetadataParams['options']> {
  const options = fieldsOf(given, 'options');
  const least = Number.NEGATIVE_INFINITY;
  const majorRevision = optional(options, 'majorRevision', whole('majorRevision', least));
  const lockName = optional(options, 'lockName', () => text(options, 'lockName'));
  const addTimestamp = optional(options, 'addTimestamp', flag('addTimestamp'));
  const addUserId = optional(options, 'addUserId', flag('addUserId'));
  return {
    ...(majorRevision === undefined ? {} : { majorRevision }),
    ...(lockName === undefined ? {} : { lockName }),
    ...(addTimestamp === undefined ? {} : { addTimestamp }),
    ...(addUserId === undefined ? {} : { addUserId }),
  };
}

export async function registerReferenceHandlers(
  io: Server,
  service: ReferencePresenceService,
): Promise<void> {
  await service.subscribe((event) => {
    io.local.to(event.roomId).emit('presence:event', event);
  });
  await service.subscribeMetadata((event) => {
    io.local.to((event as ReferenceMetadata).channelName).emit('metadata:event', event);
  });
  io.on('connection', (socket) => serve(socket, service));
}

function serve(socket: Socket, service: ReferencePresenceService): void {
  const connId = socket.id;
  const answer = (event: string, work: (raw: unknown) => Promise<object>) => {
    socket.on(event, async (raw: unknown, ack: Ack) => {
      try {
        const done = await work(raw);
        ack?.({ ok: true, ...done });
      } catch (error) {
        const { message, code } = error as MetadataRefused;
        ack?.({ ok: false, error: message, ...(code === undefined ? {} : { code }) });
      }
    });
  };
  answer('presence:join', async (raw) => {
    const fields = fieldsOf(raw, 'payload');
    const [roomId, userId] = [text(fields, 'roomId'), text(fields, 'userId')];
    const state = optional(fields, 'state', (value) => fieldsOf(value, 'state'));
    const { presenceRoomId } = socket.data;
    if (presenceRoomId && presenceRoomId !== roomId) {
      throw new Error('Socket already joined a different presence room');
    }
    await socket.join(roomId);
    const snapshot = await service.join({ roomId, userId, connId, state });
    Object.assign(socket.data, { presenceRoomId: roomId, presenceUserId: userId });
    const epoch = snapshot.find((entry) => entry.connId === connId)?.epoch;
    return { snapshot, self: { connId, epoch } };
  });
  answer('presence:heartbeat', async (raw) => {
    const fields = fieldsOf(raw ?? {}, 'payload');
    const patchState = optional(fields, 'patchState', (value) => fieldsOf(value, 'patchState'));
    const epoch = optional(fields, 'epoch', whole('epoch', 0));
    const changed = await service.heartbeat({
      connId,
      ...(patchState === undefined ? {} : { patchState }),
      ...(epoch === undefined ? {} : { epoch }),
    });
    const stored = await service.epochOf(connId);
    return stored === undefined ? { changed } : { changed, epoch: stored };
  });
  answer('presence:leave', async () => {
    const left = await service.leave(connId);
    if (left) await socket.leave(left.roomId);
    Object.assign(socket.data, { presenceRoomId: undefined, presenceUserId: undefined });
    return {};
  });
  const metadata = (event: string, work: (raw: unknown) => Promise<ReferenceMetadata>) =>
    answer(`metadata:${event}`, work);
  const byUser = (params: ReferenceMetadataParams) => ({
    ...params,
    actorUserId: socket.data.presenceUserId,
  });
  metadata('setChannel', async (raw) => service.setChannelMetadata(byUser(readChange(raw, 0))));
  metadata('updateChannel', async (raw) =>
    service.updateChannelMetadata(byUser(readChange(raw, 1))),
  );
  metadata('removeChannel', async (raw) =>
    service.removeChannelMetadata(byUser(readChange(raw, 0))),
  );
  metadata('getChannel', async (raw) => service.getChannelMetadata(readChannel(raw)));
  socket.on('disconnect', () => {
    // Fails if the server has closed its Redis client before.
    service.leave(connId).catch(() => {});
  });
}
