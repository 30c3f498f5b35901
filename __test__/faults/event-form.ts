// Checks the form of an event, independently of the code under test.

/** Spec section 4, field by field. */
export function isPresenceEvent(event: unknown, roomId: string): boolean {
  if (typeof event !== 'object' || event === null || Array.isArray(event)) return false;
  const { type, userId, connId, state, ts, epoch, ...more } = event as Record<string, unknown>;
  const named = [userId, connId].every((id) => typeof id === 'string' && id !== '');
  const timed = [ts, epoch].every((n) => typeof n === 'number' && Number.isFinite(n));
  const stateFits =
    state === null || (type !== 'leave' && typeof state === 'object' && !Array.isArray(state));
  return (
    ['join', 'leave', 'update'].includes(String(type)) &&
    more.roomId === roomId &&
    named &&
    timed &&
    stateFits
  );
}
