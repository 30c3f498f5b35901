// The socket protocol on the reference service: what a server that has not been swapped yet serves.
import type { Server } from 'socket.io';
import type { ReferencePresenceService } from './service.js';

export async function registerReferenceHandlers(
  io: Server,
  service: ReferencePresenceService,
): Promise<void> {
  await service.subscribe((event) => {
    io.local.to(event.roomId).emit('presence:event', event);
  });
  io.on('connection', (socket) => {
    socket.on('presence:join', async ({ roomId, userId, state }, ack) => {
      socket.join(roomId);
      const snapshot = await service.join({ roomId, userId, connId: socket.id, state });
      const epoch = snapshot.find(({ connId }) => connId === socket.id)?.epoch;
      ack({ ok: true, snapshot, self: { connId: socket.id, epoch } });
    });
    socket.on('presence:heartbeat', async ({ patchState, epoch }, ack) => {
      const changed = await service.heartbeat({ connId: socket.id, patchState, epoch });
      ack({ ok: true, changed, epoch });
    });
    socket.on('disconnect', () => service.leave(socket.id));
  });
}
