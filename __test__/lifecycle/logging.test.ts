// ROLLCALL_LOG: the core's log on stderr, or in the client's own logger.
import { describe, expect, test } from 'vitest';
import { startFixture } from '../support/process.js';
import { sharedDb } from '../support/redis.js';
import { within } from '../support/wait.js';

interface Message {
  level: string;
  text: string;
}

async function run(filter: string | undefined, logger: 'own' | 'none') {
  const { url } = await sharedDb();
  await using program = startFixture<Message>('lifecycle/fixtures/logging.mjs', {
    args: [url, logger],
    env: { ROLLCALL_LOG: filter ?? '' },
  });
  const exit = await within(program.exited, 8000, 'the end of the process');
  expect(exit, program.stderr).toEqual({ code: 0, signal: null });
  expect(program.messages.at(-1)?.level).toBe('end');
  expect(program.stdout).toBe('');
  return { stderr: program.stderr, logged: program.messages.slice(0, -1) };
}

describe('ROLLCALL_LOG', () => {
  test('not set: nothing is written', async () => {
    expect(await run(undefined, 'none')).toEqual({ stderr: '', logged: [] });
    expect(await run(undefined, 'own')).toEqual({ stderr: '', logged: [] });
  });

  test('debug: connections and passes of the reaper, on stderr', async () => {
    const { stderr } = await run('debug', 'none');
    const line = (end: string) => new RegExp(`^\\S+Z DEBUG rollcall::${end}`, 'm');
    expect(stderr).toMatch(line('store::\\S+: connected server="127.0.0.1:\\d+" role=Client'));
    expect(stderr).toMatch(line('expiry: pass of the reaper rooms=\\d+ expired=0'));
    expect(stderr).not.toContain('TRACE');
  });

  test('a level for a module applies to that module only', async () => {
    const { stderr } = await run('rollcall::heartbeat=trace', 'none');
    const lines = stderr.trim().split('\n');
    expect(lines).toContainEqual(
      expect.stringMatching(/ TRACE rollcall::heartbeat::\S+: batch heartbeats=1$/),
    );
    for (const line of lines) expect(line).toContain(' rollcall::heartbeat');
  });

  test('a client’s own logger gets the events instead of stderr', async () => {
    const { stderr, logged } = await run('debug', 'own');
    expect(stderr).toBe('');
    expect(logged).toContainEqual({
      level: 'debug',
      text: expect.stringMatching(/^rollcall::store::\S+: connected server=/),
    });
  });

  test('an invalid filter: one line reports it, and the program works', async () => {
    const { stderr } = await run('rollcall=loud', 'none');
    expect(stderr).toMatch(/^rollcall: ROLLCALL_LOG is not a filter: [^\n]+\n$/);
  });
});
