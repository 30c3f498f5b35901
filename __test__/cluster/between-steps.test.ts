// On the layout `slotted`, an operation has several steps, and another operation can run between
// two of them. A proxy delays a step until the other operation is done. Afterwards no key may be
// left over or missing.
import type { Redis } from 'ioredis';
import { describe, expect, test } from 'vitest';
import { openClient, type Untyped } from '../support/clients.js';
import { type FaultProxy, startProxy } from '../support/proxy.js';
import { type RedisServer, startRedis } from '../support/redis.js';
import { deferred } from '../support/wait.js';

const PLACE = { roomId: 'r', userId: 'u', connId: 'x', snapshot: false };
const OPTIONS = { layout: 'slotted', ttlMs: 600_000 } as const;

interface World extends AsyncDisposable {
  server: RedisServer;
  admin: Redis;
  /** A client whose steps can be delayed, and the proxy that delays them. */
  slow: Untyped;
  proxy: FaultProxy;
  fast: Untyped;
}

async function world(options = {}): Promise<World> {
  const server = await startRedis();
  const proxy = await startProxy(server.port);
  return {
    server,
    admin: await server.client(),
    proxy,
    slow: await openClient({ url: proxy.url, ...OPTIONS, ...options }),
    fast: await openClient({ url: server.url, ...OPTIONS }),
    async [Symbol.asyncDispose]() {
      await proxy[Symbol.asyncDispose]();
      await server[Symbol.asyncDispose]();
    },
  };
}

/** Delays the first piece that matches. `held` resolves when it arrives. */
function hold(proxy: FaultProxy, fits: (piece: Buffer) => boolean) {
  const [held, go] = [deferred(), deferred()];
  let waits = true;
  proxy.watch = async (piece) => {
    if (waits && fits(piece)) {
      waits = false;
      held.resolve();
      await go.promise;
    }
    return piece;
  };
  return { held: held.promise, release: () => go.resolve() };
}

/** The step of a join or leave that removes its outbox entry from the room. */
const takesNoteOut = (piece: Buffer) => piece.includes('unsettled') && !piece.includes('members');

describe('slotted: another operation runs between two steps', () => {
  test('2.3 a leave during a join that changes the user leaves no entry in the due index', async () => {
    await using it = await world();
    await it.fast.join(PLACE);
    const third = await openClient({ url: it.server.url, ...OPTIONS });
    const step = hold(it.proxy, (piece) => piece.includes('HRANDFIELD'));
    const join = it.slow.join({ ...PLACE, userId: 'v' });
    await step.held;
    expect(await third.leave('x')).toEqual({ roomId: 'r', userId: 'v' });
    step.release();
    await join;
    expect(await it.admin.keys('*')).toEqual([]);
  });

  test('2.3 a leave while the reaper applies the outbox entry of a join leaves no entry in the user index', async () => {
    await using it = await world();
    await using proxy = await startProxy(it.server.port);
    const reaper = await openClient({ url: proxy.url, ...OPTIONS, fallbackSweepMs: 1 });
    const ofJoin = hold(it.proxy, takesNoteOut);
    const join = it.slow.join(PLACE);
    await ofJoin.held;
    // The first pass of the reaper only schedules the check of rooms; the next passes can happen in
    // the same millisecond.
    const ofReaper = hold(proxy, (piece) => piece.includes('prs:at:x'));
    let isHeld = false;
    ofReaper.held.then(() => {
      isHeld = true;
    });
    const reaping = (async () => {
      while (!isHeld) await reaper.reapOnce();
    })();
    await ofReaper.held;
    ofJoin.release();
    await join;
    expect(await it.fast.leave('x')).toEqual({ roomId: 'r', userId: 'u' });
    ofReaper.release();
    await reaping;
    expect(await it.admin.keys('*')).toEqual([]);
  });

  test('2.3 a join of a connected connection replaces the outbox entry of the earlier join', async () => {
    await using it = await world();
    const step = hold(it.proxy, takesNoteOut);
    const join = it.slow.join(PLACE);
    await step.held;
    const notes = () => it.admin.hvals('prs:{room:r}:unsettled');
    expect(await notes()).toEqual(['+u']);
    await it.fast.join(PLACE);
    // Makes the node of the earlier join check what it has written in other slots.
    expect(await notes()).toEqual(['=u']);
    step.release();
    await join;
    expect(await notes()).toEqual([]);
    await it.fast.leave('x');
    expect(await it.admin.keys('*')).toEqual([]);
  });

  for (const newer of [
    'is settled',
    'settles after the leave',
    'settles during the leave',
  ] as const) {
    test(`3.7 a join that is applied after a newer join of the same room has left adds no stale connection: the newer one ${newer}`, async () => {
      await using it = await world();
      await using ofNewer = await startProxy(it.server.port);
      await using ofLeave = await startProxy(it.server.port);
      const second = await openClient({ url: ofNewer.url, ...OPTIONS });
      const third = await openClient({ url: ofLeave.url, ...OPTIONS });
      // The older join has its epoch, but has not entered the room yet.
      const entersRoom = hold(it.proxy, (piece) => piece.includes('members'));
      const older = it.slow.join(PLACE);
      await entersRoom.held;
      let claimed = false;
      const settles = hold(ofNewer, (piece) => {
        const fits = claimed && piece.includes('prs:at:x');
        claimed ||= piece.includes('members');
        return fits && newer !== 'is settled';
      });
      const join = second.join(PLACE);
      await (newer === 'is settled' ? join : settles.held);
      // The newer one has left the room, but its hints have not been updated yet.
      const endsHints = hold(ofLeave, (piece) => {
        const isScript = piece.includes('EVALSHA') && piece.includes('prs:at:x');
        return isScript && !piece.includes('members');
      });
      const leave = third.leave('x');
      await endsHints.held;
      entersRoom.release();
      await older;
      if (newer === 'settles during the leave') {
        settles.release();
        await join;
      }
      endsHints.release();
      expect(await leave).toEqual({ roomId: 'r', userId: 'u' });
      settles.release();
      await join;
      expect(await third.fetchRoomSnapshot('r')).toEqual([]);
      expect(await it.admin.keys('*')).toEqual([]);
    });
  }

  test('6.1 a join after the last leave of a room keeps its entry in the due index', async () => {
    await using it = await world();
    await it.fast.join(PLACE);
    const step = hold(it.proxy, (piece) => piece.includes('prs:due:'));
    const leave = it.slow.leave('x');
    await step.held;
    await it.fast.join({ ...PLACE, connId: 'y' });
    step.release();
    await leave;
    const [due] = await it.admin.keys('prs:due:*');
    expect(await it.admin.zrange(due ?? 'none', '0', '-1')).toContain('r');
    await it.fast.leave('y');
    expect(await it.admin.keys('*')).toEqual([]);
  });
});
