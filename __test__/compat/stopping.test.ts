// Stopping during the start (spec 11.3): nothing is opened afterwards, and the process ends by
// itself. Each case is a real process that stops at many points of its start.
import { describe, expect, test } from 'vitest';
import { refusedPort, silentPort } from '../connect/other-servers.js';
import { startFixture } from '../support/process.js';
import { type RedisServer, startRedis } from '../support/redis.js';
import { eventually, within } from '../support/wait.js';

const WHERE: [string, (server: RedisServer) => Promise<string>][] = [
  ['a server that answers', async ({ url }) => url],
  ['no server', async () => `redis://127.0.0.1:${await refusedPort()}`],
  ['a server that hangs', async () => `redis://127.0.0.1:${await silentPort()}`],
];
/** A limit for a process that never ends. */
const END_MS = 60_000;

describe.each(WHERE)('24: with %s, the process ends after', (_, urlOf) => {
  test.each([
    ['dispose() of initPresence', 'dispose'],
    ['stop() of a service', 'stop'],
    ['close() of a client', 'close'],
    ['a connect that is not awaited', 'abandon'],
  ])(
    '%s, while it starts',
    async (__, name) => {
      await using server = await startRedis();
      await using program = startFixture<string>('compat/fixtures/stopping.mjs', {
        args: [name, await urlOf(server)],
      });
      const exit = await within(program.exited, END_MS, 'the end of the process');
      expect(exit, program.stderr).toEqual({ code: 0, signal: null });
      expect(program.messages).toEqual(['stopped']);
      // No connection is left.
      const admin = await server.client();
      await eventually(async () => {
        const list = String(await admin.client('LIST'))
          .trim()
          .split('\n');
        expect(list.filter((line) => !line.includes('user=rollcall-harness'))).toEqual([]);
      });
    },
    END_MS + 20_000,
  );
});
