// Spec 3.5: states are returned unchanged by joins, patches, events, snapshots and user presence,
// and nothing pollutes Object.prototype. The values are in states.ts.
import fc from 'fast-check';
import { afterEach, expect, test } from 'vitest';
import { seed } from '../support/random.js';
import { size } from '../support/size.js';
import { anyPatch, anyState, awkwardStates, merged } from './states.js';
import { type AnyState, failure, onEveryStorage, record } from './stores.js';

const RUNS = size(30, 100);
const prototypeNames = Object.getOwnPropertyNames(Object.prototype).sort();

afterEach(() => {
  expect(Object.getOwnPropertyNames(Object.prototype).sort()).toEqual(prototypeNames);
  expect(({} as AnyState).polluted).toBeUndefined();
});

/** Two JSON texts are equal only if values, own keys and the order of keys are equal. */
function expectSame(found: AnyState, expected: AnyState, where: string): void {
  expect(JSON.stringify(found), where).toBe(JSON.stringify(expected));
  expect(Object.getPrototypeOf(found), where).toBe(Object.prototype);
}

onEveryStorage('3.5 states', (store) => {
  for (const [what, state] of awkwardStates) {
    test(`3.5 ${what}: as the state of a join`, async () => {
      const [one, two] = [await store.connect(), await store.connect()];
      const recorder = await record(two);
      const { snapshot } = await one.join({ roomId: 'r', userId: 'u', connId: 'c', state });
      expectSame(snapshot[0]?.state, state, 'join');
      expectSame((await two.fetchRoomSnapshot('r'))[0]?.state, state, 'snapshot');
      expectSame((await two.getUserPresence('u')).connections[0]?.state, state, 'user presence');
      expectSame((await recorder.settled())[0]?.state, state, 'event');
    });

    test(`3.5 ${what}: as a patch, by both nodes`, async () => {
      const [maker, other] = [await store.connect(), await store.connect()];
      const recorder = await record(other);
      await maker.join({ roomId: 'r', userId: 'u', connId: 'c', state: { before: [] } });
      let whole: AnyState = { before: [] };
      for (const [node, key] of [
        [maker, 'in'],
        [other, 'again'],
      ] as const) {
        // As the value of one key, and as keys of the state itself.
        const patchState = { ...state, [key]: state };
        const expected = JSON.parse(merged(whole, patchState));
        const { changed } = await node.heartbeat({ connId: 'c', patchState });
        expect(changed).toBe(true);
        expectSame((await maker.fetchRoomSnapshot('r'))[0]?.state, expected, 'snapshot');
        expectSame((await recorder.settled()).at(-1)?.state, expected, 'event');
        whole = expected;
      }
      // The same patch again changes nothing, which shows that the value is stored unchanged.
      const again = await other.heartbeat({ connId: 'c', patchState: { ...state } });
      expect(again.changed).toBe(false);
    });
  }

  test('3.5 a key __proto__ can be removed, and set to null, like any other', async () => {
    const client = await store.connect();
    const state = JSON.parse('{"a":1,"__proto__":{"x":1}}');
    await client.join({ roomId: 'r', userId: 'u', connId: 'c', state });
    const nothing = Object.defineProperty({}, '__proto__', { value: undefined, enumerable: true });
    await client.heartbeat({ connId: 'c', patchState: JSON.parse('{"__proto__":null}') });
    const [nulled] = await client.fetchRoomSnapshot('r');
    expect(JSON.stringify(nulled?.state)).toBe('{"a":1,"__proto__":null}');
    expect(await client.heartbeat({ connId: 'c', patchState: nothing })).toMatchObject({
      changed: true,
    });
    const [removed] = await client.fetchRoomSnapshot('r');
    expect(JSON.stringify(removed?.state)).toBe('{"a":1}');
  });

  test('3.5 a state of exactly 1 MiB is accepted, one byte more is refused', async () => {
    const client = await store.connect();
    const recorder = await record(client);
    const bytes = (state: AnyState) => Buffer.byteLength(JSON.stringify(state));
    const limit = 1024 * 1024;
    // Characters of one, two, three and four bytes, and one that JSON escapes.
    const some = 'aé€😀\n'.repeat(1_000);
    const state = { some, fill: '' };
    state.fill = 'x'.repeat(limit - bytes(state));
    expect(bytes(state)).toBe(limit);
    const { snapshot } = await client.join({ roomId: 'r', userId: 'u', connId: 'c', state });
    expectSame(snapshot[0]?.state, state, 'join');
    expectSame((await recorder.settled())[0]?.state, state, 'event');

    const more = { ...state, fill: `${state.fill}x` };
    for (const call of [
      client.join({ roomId: 'r', userId: 'u', connId: 'c', state: more }),
      client.heartbeat({ connId: 'c', patchState: { fill: more.fill } }),
      client.heartbeat({ connId: 'c', patchState: { y: 1 } }),
    ]) {
      await expect(call).rejects.toEqual(failure('INVALID_ARGUMENT', `${limit} bytes`));
    }
    expectSame((await client.fetchRoomSnapshot('r'))[0]?.state, state, 'after refusals');
    expect((await client.heartbeat({ connId: 'c', patchState: { fill: 'short' } })).changed).toBe(
      true,
    );
  });

  test(`3.5 any ${RUNS} states and any patches (fast-check, seed ${seed})`, {
    timeout: 60_000,
  }, async () => {
    const [maker, other] = [await store.connect(), await store.connect()];
    const recorder = await record(maker, { roomId: 'r' });
    await fc.assert(
      fc.asyncProperty(anyState, fc.array(anyPatch, { maxLength: 4 }), async (state, patches) => {
        recorder.events.length = 0;
        const { snapshot } = await maker.join({ roomId: 'r', userId: 'u', connId: 'c', state });
        let text = JSON.stringify(state);
        const texts = [text];
        expect(JSON.stringify(snapshot[0]?.state)).toBe(text);
        for (const [i, patchState] of patches.entries()) {
          const after = merged(JSON.parse(text), patchState);
          const node = i % 2 ? maker : other;
          const { changed } = await node.heartbeat({ connId: 'c', patchState });
          expect(changed).toBe(after !== text);
          if (changed) texts.push(after);
          text = after;
        }
        const [entry] = await other.fetchRoomSnapshot('r');
        expect(JSON.stringify(entry?.state)).toBe(text);
        const events = await recorder.settled();
        expect(events.map((event) => JSON.stringify(event.state))).toEqual(texts);
      }),
      { seed, numRuns: RUNS },
    );
  });
});
