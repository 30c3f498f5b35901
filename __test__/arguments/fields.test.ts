// Methods refuse unknown fields in their arguments, as `connect` refuses unknown options: a field
// that is silently dropped misleads the caller. The interface of the legacy implementation ignores
// unknown fields.
import { describe, expect, test } from 'vitest';
import { serviceOn } from '../compat/services.js';
import { openClient, rejection, type Untyped } from '../support/clients.js';

const JOIN = { roomId: 'r', userId: 'u', connId: 'c' };
const CHANNEL = { channelType: 't', channelName: 'n' };
const handler = () => {};

const CALLS: [string, object, (client: Untyped, options: object) => Promise<unknown>][] = [
  ['join', JOIN, (client, o) => client.join(o)],
  ['heartbeat', { connId: 'c' }, (client, o) => client.heartbeat(o)],
  ['subscribe', {}, (client, o) => client.subscribe(handler, o)],
  ['events', {}, (client, o) => client.events(o).next()],
  ['metadata.get', CHANNEL, (client, o) => client.metadata.get(o)],
  ['metadata.set', CHANNEL, (client, o) => client.metadata.set(o)],
  ['metadata.update', CHANNEL, (client, o) => client.metadata.update(o)],
  ['metadata.remove', CHANNEL, (client, o) => client.metadata.remove(o)],
  ['metadata.subscribe', {}, (client, o) => client.metadata.subscribe(handler, o)],
  ['options', {}, (client, options) => client.metadata.set({ ...CHANNEL, options })],
  ['data[0]', { key: 'k' }, (client, o) => client.metadata.set({ ...CHANNEL, data: [o] })],
  ['locks.acquire', { ownerId: 'u' }, (client, o) => client.locks.acquire('l', o)],
  ['locks.subscribe', {}, (client, o) => client.locks.subscribe(handler, o)],
];

describe('16: unknown fields are refused like those of connect', () => {
  test.each(CALLS)('%s', async (what, fitting, call) => {
    const client = await openClient('memory://');
    for (const name of ['epcoh', 'State', '__proto__x', 'toString']) {
      const error = await rejection(() => call(client, { ...fitting, [name]: 1 }));
      expect([error.code, error.message]).toEqual([
        'INVALID_ARGUMENT',
        expect.stringContaining(`${what} has no field "${name}"`),
      ]);
    }
    expect((await client.fetchRoomSnapshot('r')).length).toBe(0);
  });

  test('heartbeatMany refuses only the item with the unknown field', async () => {
    const client = await openClient('memory://');
    await client.join(JOIN);
    const items: Untyped[] = [{ connId: 'c' }, { connId: 'c', patch: {} }];
    const [good, bad] = await client.heartbeatMany(items);
    expect(good).toMatchObject({ changed: false });
    expect(bad).toMatchObject({ code: 'INVALID_ARGUMENT' });
  });

  test('a field without a value counts as absent', async () => {
    const client = await openClient('memory://');
    const options: Untyped = { ...JOIN, epcoh: undefined };
    await client.join(options);
    const heartbeat: Untyped = { connId: 'c', patch: undefined };
    await client.heartbeat(heartbeat);
  });

  test('10: PresenceService ignores unknown fields, as the legacy implementation does', async () => {
    const service = serviceOn('memory://');
    const more: Untyped = { extra: 1, snapshot: false };
    expect(await service.join({ ...JOIN, ...more })).toHaveLength(1);
    expect(await service.heartbeat({ connId: 'c', patchState: { a: 1 }, ...more })).toBe(true);
    const params = { ...CHANNEL, ...more, options: { addUserId: true, ...more }, actorUserId: 'u' };
    const data = [{ key: 'k', value: 'v', ...more }];
    await service.setChannelMetadata({ ...params, data });
    await service.updateChannelMetadata({ ...params, data });
    expect((await service.getChannelMetadata({ ...params, data })).metadata.k).toMatchObject({
      value: 'v',
      authorUid: 'u',
    });
    expect((await service.removeChannelMetadata({ ...params, data })).totalCount).toBe(0);
  });
});
