// The demo while its Redis is down, and with random events and HTTP requests: its servers keep
// running, and two users on different servers see each other afterwards.
import { connect } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import { describe, expect, test } from 'vitest';
import { disturbance, fuzz, OUR_EVENTS } from '../compat/fuzz.js';
import { twoSeeEachOther } from '../compat/good-clients.js';
import { createRandom } from '../support/random.js';
import { startRedis } from '../support/redis.js';
import { size } from '../support/size.js';
import { eventually, within } from '../support/wait.js';
import { type Demo, startDemo } from './demo.js';

const STEPS = size(1000, 10_000);
const AWAY_MS = 5000;

/** All servers still run, and end by themselves. */
async function expectServers(demo: Demo, urls: string[]): Promise<void> {
  for (const url of urls) {
    await eventually(() => twoSeeEachOther(url, true, 'calm'), { timeoutMs: 30_000 });
  }
  expect(demo.printed()).not.toMatch(/^Node\.js v|Unhandled|ERR_/m);
  demo.child.kill('SIGTERM');
  expect(await within(demo.code, 20_000, 'the end'), demo.printed()).toBe(0);
}

describe('npm run demo -- --nodes 3', { timeout: size(120_000, 300_000) }, () => {
  test('survives a Redis that is stopped for 5 s', async () => {
    await using redis = await startRedis();
    const demo = startDemo(['--port', '0', '--nodes', '3'], { REDIS_URL: redis.url });
    const urls = await demo.urls(3);
    redis.pause();
    // The duration matters: the timeouts of calls have to pass.
    await delay(AWAY_MS);
    redis.resume();
    await expectServers(demo, urls);
    await demo.expectNothingLeft();
  });

  test(`survives ${STEPS} steps of the fuzz client, and HTTP requests with invalid URLs`, async () => {
    await using redis = await startRedis();
    const demo = startDemo(['--port', '0', '--nodes', '3'], { REDIS_URL: redis.url });
    const urls = await demo.urls(3);
    const random = createRandom();
    const disturb = disturbance(redis, random);
    for (const url of urls) {
      const { port } = new URL(url);
      const request = connect(Number(port), 'localhost').on('error', () => {});
      request.write('GET // HTTP/1.1\r\nHost: x\r\n\r\nGET http://[ HTTP/1.1\r\nHost: x\r\n\r\n');
      const events = [...OUR_EVENTS, 'demo:lock'];
      await fuzz({ url, steps: Math.ceil(STEPS / 3), random, events, between: disturb.step });
      request.destroy();
    }
    await disturb.end();
    await expectServers(demo, urls);
    await demo.expectNothingLeft();
  });
});
