// A server with initPresence survives the fuzz client, even while its Redis is stopped, killed and
// restarted, and serves two well-behaved clients afterwards (spec 17.5).
import { registerPresenceHandlers } from 'rollcall';
import { describe, expect, onTestFinished, test } from 'vitest';
import type { Untyped } from '../support/clients.js';
import { startFixture } from '../support/process.js';
import { createRandom } from '../support/random.js';
import { startRedis } from '../support/redis.js';
import { size } from '../support/size.js';
import { eventually } from '../support/wait.js';
import { disturbance, fuzz, OUR_EVENTS } from './fuzz.js';
import { twoSeeEachOther } from './good-clients.js';
import { ioredis, serviceOn, socketServer } from './services.js';

const STEPS = size(1500, 10_000);

describe('a socket cannot break the server', () => {
  test.each([
    ['plain', 1],
    ['guarded', 2],
  ])(
    `%s: ${STEPS} steps of the fuzz client`,
    async (how, stream) => {
      const random = createRandom(stream);
      await using redis = await startRedis();
      await using server = startFixture<{ port: number }>('compat/fixtures/fuzzed.mjs', {
        args: [redis.url, how],
      });
      const { port } = await server.message((message) => message.port > 0);
      const url = `http://127.0.0.1:${port}`;
      let ended = false;
      server.exited.then(() => {
        ended = true;
      });
      const disturb = disturbance(redis, random);
      const acknowledged = await fuzz({
        url,
        steps: STEPS,
        random,
        events: OUR_EVENTS,
        between: async () => {
          if (ended) throw new Error(`the server has ended:\n${server.stderr}`);
          await disturb.step();
        },
      });
      expect(acknowledged).toBeGreaterThan(STEPS / 20);
      await disturb.end();
      server.send('calm');
      // And until the bridge has subscribed again.
      await eventually(() => twoSeeEachOther(url, true, 'calm'), { timeoutMs: 20_000 });
      expect(ended, server.stderr).toBe(false);
      expect(server.stderr).toBe('');
    },
    size(60_000, 240_000),
  );

  test('an acknowledgement that cannot be encoded becomes a failure acknowledgement', async () => {
    const service = serviceOn(await ioredis());
    const { io, connect } = await socketServer();
    onTestFinished(registerPresenceHandlers({ io, logger: {} }, service));
    let deep: Untyped = {};
    for (let level = 0; level < 50_000; level++) deep = { deep };
    service.join = async () => [deep];
    const socket = await connect();
    expect(await socket.emitWithAck('presence:join', { roomId: 'r', userId: 'u' })).toEqual({
      ok: false,
      error: 'Presence failed on the server',
    });
  });
});
