// Runs the demo in each of its forms: its output, its end, and the keys and processes that it
// leaves. page.test.ts tests its page.
import { describe, expect, test } from 'vitest';
import { startRedis } from '../support/redis.js';
import { eventually, within } from '../support/wait.js';
import { startDemo, withRedis } from './demo.js';

describe.concurrent('npm run demo', { timeout: 60_000 }, () => {
  test('runs in one process on the in-process store, prints events, and ends by itself', async () => {
    const demo = startDemo(['--port', '0', '--seconds', '6']);
    const [url] = await demo.urls(1);
    expect(demo.printed()).toContain('Rollcall demo, in-process store. Open in a browser');
    const page = await fetch(`${url}/`);
    expect(page.headers.get('content-type')).toBe('text/html; charset=utf-8');
    expect(await page.text()).toContain('<title>Rollcall demo</title>');
    for (const outside of ['/../main.mjs', '/%2e%2e/main.mjs', '/missing.mjs', '/package.json']) {
      expect((await fetch(url + outside)).status, outside).toBe(404);
    }
    expect(await within(demo.code, 20_000, 'the end'), demo.printed()).toBe(0);
    expect(demo.printed()).toMatch(/lobby {3}Hedy joins/);
    expect(demo.printed()).toMatch(/lobby {3}Hedy leaves \(left\)/);
    await demo.expectNothingLeft();
  });

  test('--nodes 3: three processes on a Redis that it starts', async () => {
    const demo = startDemo(['--port', '0', '--nodes', '3', '--seconds', '5'], withRedis());
    const urls = await demo.urls(3);
    expect(new Set(urls).size).toBe(3);
    for (const url of urls) expect((await fetch(url)).status).toBe(200);
    // The first server also prints the events of users on other servers.
    await eventually(() => expect(demo.printed()).toMatch(/(Hedy|Alan|Katherine|Niklaus) joins/));
    expect(await within(demo.code, 20_000, 'the end'), demo.printed()).toBe(0);
    await demo.expectNothingLeft();
  });

  test('uses the Redis of REDIS_URL, changes no other keys there, and leaves no connection', async () => {
    await using server = await startRedis({ requirepass: 'hush' });
    const admin = await server.client();
    await admin.set('mine', 'as it was');
    const demo = startDemo(['--port', '0', '--seconds', '4'], { REDIS_URL: server.url });
    await eventually(async () => expect(await admin.dbsize()).toBeGreaterThan(10), {
      timeoutMs: 15_000,
    });
    for (const key of await admin.keys('*')) expect(key).toMatch(/^(mine$|rollcall-demo:)/);
    expect(await within(demo.code, 20_000, 'the end'), demo.printed()).toBe(0);
    expect(demo.printed()).not.toContain('hush');
    // The topics stay, because they are channel metadata.
    const left = (await admin.keys('*')).filter((key) => !/^rollcall-demo:\{chan:/.test(key));
    expect(left).toEqual(['mine']);
    await demo.expectNothingLeft();
  });

  test.each(['SIGINT', 'SIGTERM'] as const)('runs until %s, and cleans up', async (signal) => {
    const demo = startDemo(['--port', '0', '--nodes', '2'], withRedis());
    await demo.urls(2);
    demo.child.kill(signal);
    expect(await within(demo.code, 10_000, 'the end'), demo.printed()).toBe(0);
    expect(demo.printed()).not.toContain('rollcall demo:');
    await demo.expectNothingLeft();
  });

  test.each([
    [['--nodes', 'many'], {}, '--nodes takes a whole number from 1 to 8'],
    [['--nodes', '2'], {}, 'several servers need a Redis: install redis-server, or set REDIS_URL'],
    [
      ['--port', '0'],
      { REDIS_URL: 'redis://:hush@127.0.0.1:1' },
      'Redis at 127.0.0.1:1 cannot be reached',
    ],
  ])('prints one line about the error in %j, and ends', async (args, env, what) => {
    const demo = startDemo(args, env as Record<string, string>);
    expect(await within(demo.code, 20_000, 'the end')).toBe(1);
    expect(demo.printed()).toBe(`rollcall demo: ${what}\n`);
    await demo.expectNothingLeft();
  });
});
