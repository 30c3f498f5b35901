// The steps of differential.test.ts, for both implementations: calls of the service and events of a
// socket, one after the other on one database.
import type { Redis } from 'ioredis';
import type { Untyped } from '../support/clients.js';

export interface World {
  redis: Redis;
  service: Untyped;
  /** Values that earlier calls have stored. */
  kept: Record<string, Untyped>;
}

export interface Step<Subject> {
  name: string;
  run(subject: Subject): Promise<unknown>;
}

type Call = (world: World) => Promise<unknown>;

const calls: Step<World>[] = [];
const call = (name: string, run: Call) => calls.push({ name, run });
const method =
  (name: string, ...args: unknown[]): Call =>
  ({ service }) =>
    service[name](...args);

const r1 = { roomId: 'r1', userId: 'u1' };
const join = (options: object): Call => method('join', options);
const heartbeat = (options: object): Call => method('heartbeat', options);

call('join with a state', join({ ...r1, connId: 'c1', state: { mic: true, list: [] } }));
call('join without a state', join({ ...r1, connId: 'c2' }));
call('join with null as state', join({ ...r1, userId: 'u2', connId: 'c3', state: null }));
call('join again', join({ ...r1, connId: 'c1', state: { mic: false } }));
call('join with unknown fields', join({ ...r1, connId: 'c4', extra: 1, snapshot: false }));
call(
  'join with ids of any characters',
  join({ roomId: 'r:{ü} *', userId: 'u:1', connId: 'c:1 }{' }),
);
call(
  'join with a connection id that ends in :state',
  join({ ...r1, roomId: 'rs', connId: 'c:state' }),
);
call('join with a user id that is a number', join({ ...r1, roomId: 'rn', userId: 5, connId: 'n' }));
call('join with an array as state', join({ ...r1, roomId: 'ra', connId: 'a', state: [1] }));
call('join without a room', join({ userId: 'u1', connId: 'x' }));
call('join with an empty connection id', join({ ...r1, roomId: 're', connId: '' }));
call('snapshot of a room', method('fetchRoomSnapshot', 'r1'));
call('snapshot of an unknown room', method('fetchRoomSnapshot', 'nowhere'));
call('snapshot of a room without a name', method('fetchRoomSnapshot', ''));
call('heartbeat', heartbeat({ connId: 'c1' }));
call('heartbeat with unknown fields', heartbeat({ connId: 'c1', roomId: 'r9' }));
call(
  'heartbeat with a patch',
  heartbeat({ connId: 'c1', patchState: { mic: true, x: { y: [] } } }),
);
call(
  'heartbeat with the same patch',
  heartbeat({ connId: 'c1', patchState: { mic: true, x: { y: [] } } }),
);
call('patch with null', heartbeat({ connId: 'c1', patchState: { x: null } }));
call('patch with undefined', heartbeat({ connId: 'c1', patchState: { x: undefined } }));
call('empty patch', heartbeat({ connId: 'c1', patchState: {} }));
call('null as patch', heartbeat({ connId: 'c1', patchState: null }));
call('heartbeat of an unknown connection', heartbeat({ connId: 'nobody', patchState: { a: 1 } }));
call('array as patch', heartbeat({ connId: 'a', patchState: ['x'] }));
for (const epoch of [0, -1, 1.5, '123', '', null, false, -1e300]) {
  const stale = { connId: 'c1', epoch, patchState: { stale: true } };
  call(`heartbeat with epoch ${JSON.stringify(epoch)}`, heartbeat(stale));
}
call('heartbeat with epoch NaN', heartbeat({ connId: 'c2', epoch: Number.NaN }));
call('heartbeat with epoch "abc"', heartbeat({ connId: 'c2', epoch: 'abc' }));
const own = async ({ redis }: World, connId: string) =>
  Number(await redis.hget(`prs:conn:${connId}`, 'epoch'));
const withEpoch =
  (change: (epoch: number) => unknown, patchState: object, connId = 'c1'): Call =>
  async (world) =>
    world.service.heartbeat({ connId, epoch: change(await own(world, connId)), patchState });
call(
  'heartbeat with its epoch',
  withEpoch((epoch) => epoch, { n: 1 }),
);
call(
  'heartbeat with its epoch as text',
  withEpoch((epoch) => `${epoch}`, { n: 2 }),
);
call(
  'heartbeat with a newer epoch',
  withEpoch((epoch) => epoch + 5, { n: 3 }),
);
call(
  'heartbeat with the epoch before',
  withEpoch((epoch) => epoch - 1, { n: 4 }),
);
call(
  'heartbeat with an epoch two days ahead',
  withEpoch((epoch) => epoch + 2 * 86_400_000, { n: 5 }, 'c:1 }{'),
);
call('a stored state that is not JSON', async ({ redis, service }) => {
  await service.join({ roomId: 'broken', userId: 'u', connId: 'b' });
  await redis.hset('prs:conn:b', 'state', 'no JSON');
  return service.fetchRoomSnapshot('broken');
});
call('a patch of a state that is not JSON', heartbeat({ connId: 'b', patchState: { a: 1 } }));
call('join of a first room', join({ ...r1, roomId: 'm1', connId: 'm' }));
call('join of another room', join({ ...r1, roomId: 'm2', connId: 'm' }));
call('snapshot of the room that it left by that', method('fetchRoomSnapshot', 'm1'));
call('join under another user', join({ ...r1, roomId: 'm2', userId: 'u9', connId: 'm' }));
call('leave', method('leave', 'c1'));
call('leave again', method('leave', 'c1'));
call('leave of an unknown connection', method('leave', 'nobody'));
call('leave without a connection', method('leave'));
call('join after a leave', join({ ...r1, connId: 'c1' }));

const channel = { channelType: 'doc', channelName: 'one' };
const data = (...items: object[]) => ({ data: items });
const change =
  (operation: string, ...parts: object[]): Call =>
  ({ service }) =>
    service[`${operation}ChannelMetadata`](Object.assign({}, channel, ...parts));
const options = (given: unknown) => ({ options: given });
const as = (actorUserId: unknown) => ({ actorUserId });
const item = (key: unknown, value?: unknown, revision?: unknown) => ({ key, value, revision });

call('get of an unknown channel', change('get'));
call('update of an unknown channel', change('update', data(item('a', '1'))));
call('update without items', change('update'));
call('remove on an unknown channel', change('remove', data(item('a'))));
call('set', change('set', data(item('a', '1'), item('b'), item('c', 'x', 5)), as('ada')));
call('get', change('get', { extra: true }));
call(
  'set with a time and an author',
  change('set', data(item('a', '1')), options({ addTimestamp: true, addUserId: true }), as('ada')),
);
call('update keeps time and author', change('update', data(item('a', '2')), as('bob')));
call('set without items', change('set'));
call('update of an emptied record', change('update', data(item('a', '1'))));
call(
  'update of an emptied record with another revision',
  change('update', data(item('a', '1')), options({ majorRevision: 1 })),
);
call('remove on an emptied record', change('remove'));
call('set of one key twice', change('set', data(item('z', '1'), item('a', '2'), item('z', '3'))));
call('update of one key twice', change('update', data(item('a', '4'), item('z'), item('a', '5'))));
call('update without a value', change('update', data(item('a'))));
call('update with the item’s revision', change('update', data(item('z', '6', 2))));
call('update with another item’s revision', change('update', data(item('z', '7', 2))));
call('update with a negative revision', change('update', data(item('z', '8', -1))));
call('update of an unknown item', change('update', data(item('z', '9'), item('nope', 'x'))));
const major =
  (majorRevision: (now: number) => unknown): Call =>
  async ({ redis, service }) => {
    const now = Number(await redis.hget('prs:{chan:doc:one}:meta', 'majorRevision'));
    const given = { majorRevision: majorRevision(now) };
    return service.setChannelMetadata({ ...channel, ...data(item('m', 'x')), options: given });
  };
call(
  'set with the revision',
  major((now) => now),
);
call(
  'set with another revision',
  major((now) => now - 1),
);
call(
  'set with a negative revision',
  major(() => -1),
);
// Each call with a difference uses its own channel, so that it does not affect other calls.
const of = (channelName: string) => ({ channelName });
call(
  'set with the revision as text',
  change('set', of('text'), data(item('m', 'x')), options({ majorRevision: '0' })),
);
call(
  'set with a revision that is not a number',
  change('set', of('NaN'), data(item('m', 'x')), options({ majorRevision: Number.NaN })),
);
call('set of items to update', change('set', of('texts'), data(item('m', 'x'))));
call(
  'update with the item’s revision as text',
  change('update', of('texts'), data(item('m', 'y', '1'))),
);
call('set with an item’s revision as text', change('set', of('item'), data(item('k', 'v', '7'))));
call('set with a fraction as revision', change('set', of('half'), data(item('k', 'v', 1.5))));
call('set with values that are not text', change('set', data(item('n', 5), item('f', true))));
call('set with null as value', change('set', data(item('n', null))));
call('update with null as value', change('update', data(item('n', null))));
call('set with an object as value', change('set', of('object'), data(item('o', {}))));
call('set with null for options and items', change('set', { options: null, data: null }));
call('set with an empty key', change('set', data(item('', 'v'))));
call('set with a key that is a number', change('set', data(item(7, 'v'))));
call('set with the key __proto__', change('set', of('proto'), data(item('__proto__', 'v'))));
call(
  'set without a name of the actor',
  change('set', data(item('k', 'v')), options({ addUserId: true }), as('')),
);
call(
  'set with flags that are not booleans',
  change('set', options({ addUserId: 'yes' }), as('ada')),
);
call('set under a lock without a name', change('set', options({ lockName: '' })));
const locked = options({ lockName: 'l' });
call('set under a lock that is not held', change('set', locked, as('ada')));
call('set under a lock without an actor', async (world) => {
  await world.redis.set('prs:lock:l', 'ada');
  return change('set', locked)(world);
});
call('set under a lock with an empty actor', change('set', locked, as('')));
call('set under another’s lock', change('set', locked, as('bob')));
call('set under one’s own lock', change('set', locked, data(item('k', 'v')), as('ada')));
call('set of items to remove', change('set', data(item('a', '1'), item('b', '2'), item('c', '3'))));
call('remove of an unknown item', change('remove', data(item('nope'))));
call(
  'remove in another order',
  change('remove', data(item('c'), item('nope'), item('a'), item('c'))),
);
call('remove of all items', change('remove'));
call('items that were stored in other forms', async (world) => {
  const items =
    '{"n":{"value":5,"revision":"3"},"e":{"value":null},"l":{"value":[1,2],"revision":1},"x":7}';
  const fields = { items, totalCount: '4', majorRevision: '9' };
  await world.redis.hset('prs:{chan:doc:stored}:meta', fields);
  return change('get', of('stored'))(world);
});
call(
  'update of items that were stored in other forms',
  change('update', of('stored'), data(item('n'), item('e', 'x'))),
);
call('get of items that are not JSON', async (world) => {
  const fields = { items: 'no JSON', totalCount: '1', majorRevision: '3' };
  await world.redis.hset('prs:{chan:doc:broken}:meta', fields);
  return change('get', of('broken'))(world);
});
call('set of items that are not JSON', change('set', of('broken'), data(item('a'))));
call('set with a colon in the type', change('set', { channelType: 'a:b' }, data(item('a'))));

export const SERVICE_CALLS: readonly Step<World>[] = calls;

export interface SocketWorld {
  redis: Redis;
  /** Emits on a socket and resolves to the acknowledgement. */
  emit(event: string, payload?: unknown): Promise<Untyped>;
  /** Closes that socket and opens another one. */
  reconnect(): Promise<void>;
  kept: Record<string, Untyped>;
}

const events: Step<SocketWorld>[] = [];
const event = (name: string, run: Step<SocketWorld>['run']) => events.push({ name, run });
const emits = (name: string, kind: string, payload?: unknown) =>
  event(name, ({ emit }) => emit(kind, payload));

const JOIN = 'presence:join';
const HEARTBEAT = 'presence:heartbeat';
const LEAVE = 'presence:leave';
const [SET, UPDATE, REMOVE, GET] = ['set', 'update', 'remove', 'get'].map(
  (operation) => `metadata:${operation}Channel`,
) as [string, string, string, string];
const room = { roomId: 'room', userId: 'ada' };
const channelOf = { channelType: 'doc', channelName: 'room' };

emits('metadata before any join', SET, { ...channelOf, data: [{ key: 'k', value: 'v' }] });
emits('heartbeat before any join', HEARTBEAT, {});
emits('leave before any join', LEAVE, {});
emits('join without a payload', JOIN, null);
emits('join without a user', JOIN, { roomId: 'room' });
emits('join with an empty room', JOIN, { ...room, roomId: '' });
emits('join with an array as state', JOIN, { ...room, state: [] });
emits('join with null as state', JOIN, { ...room, state: null });
emits('join', JOIN, { ...room, state: { mic: true }, extra: 1 });
emits('join again', JOIN, { ...room, state: { mic: false } });
emits('join of another room', JOIN, { ...room, roomId: 'other' });
emits('heartbeat', HEARTBEAT, {});
emits('heartbeat with null', HEARTBEAT, null);
emits('heartbeat with unknown fields', HEARTBEAT, { extra: true });
emits('heartbeat with a patch', HEARTBEAT, { patchState: { mic: true, list: [] } });
emits('heartbeat with the same patch', HEARTBEAT, { patchState: { mic: true, list: [] } });
emits('heartbeat with a list as patch', HEARTBEAT, { patchState: [] });
emits('heartbeat with null as patch', HEARTBEAT, { patchState: null });
const heartbeats = (name: string, change: (epoch: number) => unknown) =>
  event(name, async ({ emit }) => {
    const { epoch } = await emit(HEARTBEAT, {});
    return emit(HEARTBEAT, { epoch: change(epoch) });
  });
heartbeats('heartbeat with its epoch', (epoch) => epoch);
heartbeats('heartbeat with its epoch as text', (epoch) => `${epoch}`);
heartbeats('heartbeat with a newer epoch', (epoch) => epoch + 1);
heartbeats('heartbeat with an older epoch', (epoch) => epoch - 10);
for (const epoch of [-1, 1.5, 'abc', null]) {
  emits(`heartbeat with epoch ${JSON.stringify(epoch)}`, HEARTBEAT, { epoch });
}
emits('get', GET, { ...channelOf, extra: 1 });
emits('get of an unknown channel', GET, { ...channelOf, channelName: 'unknown' });
emits('get without a name', GET, { channelType: 'doc' });
emits('get without a payload', GET, null);
emits('set', SET, { ...channelOf, data: [{ key: 'a', value: '1' }, { key: 'b' }, { key: 'c' }] });
emits('set with revisions as texts', SET, {
  ...channelOf,
  data: [{ key: 'a', value: '1', revision: '7' }, { key: 'b' }, { key: 'c' }],
  options: { majorRevision: '2' },
});
emits('set with a value that is a number', SET, { ...channelOf, data: [{ key: 'a', value: 5 }] });
emits('set with an empty key', SET, { ...channelOf, data: [{ key: '' }] });
emits('set with null for items', SET, { ...channelOf, data: null });
emits('set with null for options', SET, { ...channelOf, options: null });
emits('set with an empty lock', SET, { ...channelOf, options: { lockName: '' } });
emits('set with a flag that is a number', SET, { ...channelOf, options: { addUserId: 1 } });
emits('update', UPDATE, { ...channelOf, data: [{ key: 'a', value: '2', revision: 7 }] });
emits('update of one key twice', UPDATE, { ...channelOf, data: [{ key: 'a' }, { key: 'a' }] });
emits('update without items', UPDATE, { ...channelOf, data: [] });
emits('update of an unknown item', UPDATE, { ...channelOf, data: [{ key: 'nope' }] });
emits('update with another item’s revision', UPDATE, {
  ...channelOf,
  data: [{ key: 'a', revision: 1 }],
});
emits('update with another revision', UPDATE, {
  ...channelOf,
  data: [{ key: 'a' }],
  options: { majorRevision: 1 },
});
emits('update with an author and a time', UPDATE, {
  ...channelOf,
  data: [{ key: 'a' }],
  options: { addUserId: true, addTimestamp: true },
});
emits('remove of one item', REMOVE, { ...channelOf, data: [{ key: 'b' }] });
emits('remove of all items', REMOVE, channelOf);
emits('set under a lock that is not held', SET, { ...channelOf, options: { lockName: 'l' } });
event('set under another’s lock', async ({ redis, emit }) => {
  await redis.set('prs:lock:l', 'bob');
  return emit(SET, { ...channelOf, options: { lockName: 'l' } });
});
event('set under one’s own lock', async ({ redis, emit }) => {
  await redis.set('prs:lock:l', 'ada');
  return emit(SET, { ...channelOf, options: { lockName: 'l' } });
});
emits('set with a colon in the type', SET, { ...channelOf, channelType: 'a:b' });
emits('leave', LEAVE, {});
emits('leave again', LEAVE, {});
emits('heartbeat after the leave', HEARTBEAT, {});
emits('set under a lock after the leave', SET, { ...channelOf, options: { lockName: 'l' } });
emits('join of another room after the leave', JOIN, { roomId: 'other', userId: 'ada' });
event('a disconnection', async ({ redis, reconnect }) => {
  await reconnect();
  return redis.smembers('prs:{room:other}:conns');
});
emits('join of the next socket', JOIN, room);

export const SOCKET_EVENTS: readonly Step<SocketWorld>[] = events;
