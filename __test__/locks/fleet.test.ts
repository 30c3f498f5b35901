// Many contenders in several processes, whose holders are killed (spec 8.4, 8.5).
import type { Metrics } from 'rollcall';
import { expect, onTestFinished, test } from 'vitest';
import { type Fixture, startFixture } from '../support/process.js';
import { createRandom } from '../support/random.js';
import { startRedis } from '../support/redis.js';
import { size } from '../support/size.js';
import { eventually, within } from '../support/wait.js';
import { History } from './history.js';

const PROCESSES = 4;
const CONTENDERS = 8;
const GRANTS = size(3_000, 10_000);
const KILLS = 6;
const TTL_MS = 400;

interface Grant {
  token: string;
  /** The holder that was recorded at the time of the grant: none, unless there is an error. */
  before: string;
  /** Whether the record was unchanged at the time of the release. */
  mine: boolean;
  lost: boolean;
}

interface Message {
  ready?: boolean;
  holding?: string;
  /** The lock was granted too late to be useful, and was released. */
  refused?: string;
  grants?: Grant[];
  metrics?: Metrics;
}

test(`8.4: 32 contenders in 4 processes, ${GRANTS} grants, holders killed: one valid holder at a time, tokens grow, locks are granted in order`, async () => {
  await using server = await startRedis();
  const redis = await server.client();
  const history = await History.of(server, 'l');
  const random = createRandom();
  const all: Fixture<Message>[] = [];
  const start = async () => {
    const child = startFixture<Message>('locks/fixtures/contender.mjs', {
      args: [
        JSON.stringify({
          url: server.url,
          name: 'l',
          contenders: CONTENDERS,
          label: `p${all.length}`,
          ttlMs: TTL_MS,
        }),
      ],
    });
    onTestFinished(async () => {
      await child.kill();
    });
    all.push(child);
    await child.message((message) => message.ready === true);
    return child;
  };
  const alive = await Promise.all(Array.from({ length: PROCESSES }, start));

  // Each kill is in its own part of the run, so that there is time between them.
  const kills = Array.from({ length: KILLS }, (_, n) => {
    const part = GRANTS / KILLS;
    return Math.floor(part * n + random.int(0, part / 2));
  });
  const killed = new Set<string>();
  for (const when of kills) {
    await eventually(async () => (await redis.llen('witness:tokens')) >= when, {
      timeoutMs: 40_000,
    });
    const place = random.int(0, PROCESSES - 1);
    const victim = alive[place] as Fixture<Message>;
    victim.send('hold');
    const { holding } = await victim.message((message) => message.holding !== undefined);
    await victim.kill();
    killed.add(holding as string);
    alive[place] = await start();
  }
  await eventually(async () => (await redis.llen('witness:tokens')) >= GRANTS, {
    timeoutMs: 50_000,
  });
  for (const child of alive) child.send('stop');
  for (const child of alive) {
    const end = await within(child.exited, 20_000, 'the end of a process');
    expect(end, child.stderr).toEqual({ code: 0, signal: null });
  }
  await redis.ping();
  history.stop();

  const tokens = (await redis.lrange('witness:tokens', 0, -1)).map(Number);
  expect(tokens.length).toBeGreaterThanOrEqual(GRANTS);
  for (let i = 1; i < tokens.length; i++) {
    expect(tokens[i], `token ${i}`).toBeGreaterThan(tokens[i - 1] as number);
  }
  const grants = all.flatMap(({ messages }) => messages.flatMap((message) => message.grants ?? []));
  const lost = new Set(grants.filter((grant) => grant.lost).map((grant) => grant.token));
  for (const { token, before, mine } of grants) {
    // The recorded holder may be a dead one, or one that knew of its loss.
    const excused = before === '' || killed.has(before) || lost.has(before);
    expect(excused, `${token} met ${before}`).toBe(true);
    expect(mine || lost.has(token), `${token} was joined`).toBe(true);
  }
  // A waiter whose node releases a late grant leaves the queue without a grant.
  const refused = all.flatMap(({ messages }) => messages.filter((message) => message.refused));
  const takenOut = history.violations.filter((violation) => /taken out/.test(violation));
  if (takenOut.length > refused.length) expect(takenOut).toEqual([]);
  expect(history.violations.filter((violation) => !takenOut.includes(violation))).toEqual([]);
  expect(history.grants).toBeGreaterThanOrEqual(GRANTS);
  console.log(
    `${tokens.length} grants, ${killed.size} holders killed, ${history.pruned.length} dead waiters ` +
      `taken out, ${lost.size} leases that ended while inside, ${refused.length} that came too late`,
  );
  // Only the token stays.
  expect((await redis.keys('prs:*')).sort()).toEqual(['prs:{prs:lock:l}:token']);
}, 120_000);
