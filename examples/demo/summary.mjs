// What the servers of the demo saw, counted and compared.

/** How many there are of each: `3 join, 1 update`. */
function tally(names) {
  const counts = new Map();
  for (const name of names) counts.set(name, (counts.get(name) ?? 0) + 1);
  return [...counts].map(([name, count]) => `${count} ${name}`).join(', ');
}

function byRoom(events) {
  const rooms = new Map();
  for (const event of events) {
    rooms.set(event.roomId, [...(rooms.get(event.roomId) ?? []), JSON.stringify(event)]);
  }
  return rooms;
}

/** Between rooms there is no order; within one, every server must have seen the same. */
function sameInEachRoom(ones, others) {
  const [a, b] = [byRoom(ones), byRoom(others)];
  return [...new Set([...a.keys(), ...b.keys()])].every(
    (room) => `${a.get(room)}` === `${b.get(room)}`,
  );
}

/**
 * @param {{ A: object[], B: object[] }} seen the events that each server saw
 * @param {{ heartbeats: number, people: object[], seconds: number }} end
 */
export function summary(seen, { heartbeats, people, seconds }) {
  const lines = Object.entries(seen).map(([server, events]) => {
    const types = tally(events.map(({ type }) => type));
    const reasons = tally(events.flatMap(({ reason }) => reason ?? []));
    return `${server} saw ${events.length} events: ${types} (${reasons})`;
  });
  return [
    ...lines,
    `The same events in the same order, in each room: ${sameInEachRoom(seen.A, seen.B) ? 'yes' : 'NO'}`,
    `${heartbeats} heartbeats in ${seconds.toFixed(1)} s; still present: ${people.length || 'nobody'}`,
  ];
}
