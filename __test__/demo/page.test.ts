// The demo's page in a real browser, with two users that see each other. Writes screenshots for
// review into artifacts/screenshots/.
import { mkdirSync } from 'node:fs';
import { type Browser, chromium, type Page } from 'playwright-core';
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest';
import { locateChromium } from '../../scripts/lib/chromium.mjs';
import { inRoot } from '../../scripts/lib/paths.mjs';
import { eventually } from '../support/wait.js';
import { type Demo, startDemo, withRedis } from './demo.js';

const CHROMIUM = locateChromium();
const SCREENSHOTS = inRoot('artifacts', 'screenshots');
/**
 * The demo has a TTL of 5 s and two sweeps per second; the rest is tolerance for a busy machine.
 */
const GONE_MS = 20_000;

let browser: Browser;

async function run(args: string[], env?: Record<string, string>): Promise<Demo> {
  const demo = startDemo(['--port', '0', ...args], env);
  onTestFinished(async () => {
    demo.child.kill('SIGTERM');
    await demo.code;
    await demo.expectNothingLeft();
  });
  return demo;
}

interface Look {
  scheme?: 'light' | 'dark';
  width?: number;
  height?: number;
}

/** Opens a browser window for a user; its page must not log any error. */
async function open(url: string, user: string, look: Look = {}): Promise<Page> {
  const { scheme = 'light', width = 1280, height = 800 } = look;
  const context = await browser.newContext({
    viewport: { width, height },
    colorScheme: scheme,
    reducedMotion: 'reduce',
  });
  const page = await context.newPage();
  const errors: string[] = [];
  page.on('pageerror', (error) => errors.push(`${error}`));
  page.on('console', (message) => message.type() === 'error' && errors.push(message.text()));
  page.setDefaultTimeout(10_000);
  await page.goto(`${url}/?user=${user}&room=lobby`);
  await page.waitForSelector('#where[data-state="connected"]');
  await page.waitForSelector(`#people [data-user="${user}"]`);
  onTestFinished(async () => {
    expect(errors, `errors on the page of ${user}`).toEqual([]);
    await context.close();
  });
  return page;
}

const sees = (page: Page, user: string) => page.waitForSelector(`#people [data-user="${user}"]`);
const text = async (page: Page, selector: string) =>
  (await page.locator(selector).textContent()) ?? '';

async function pointAt(page: Page, x: number, y: number): Promise<void> {
  const box = await page.locator('#stage').boundingBox();
  if (box === null) throw new Error('the stage is not on the page');
  await page.mouse.move(box.x + x * box.width, box.y + y * box.height, { steps: 3 });
}

/** The position of a user's pointer on a page, as a fraction of the stage. */
async function pointer(page: Page, user: string): Promise<[number, number]> {
  const [cursor, stage] = await Promise.all([
    page.locator(`.cursor[data-user="${user}"]`).boundingBox(),
    page.locator('#stage').boundingBox(),
  ]);
  if (cursor === null || stage === null) throw new Error(`no pointer of ${user} is shown`);
  return [(cursor.x - stage.x) / stage.width, (cursor.y - stage.y) / stage.height];
}

/** Two users edit the topic from one revision, and save. */
async function editAtOnce(ada: Page, grace: Page): Promise<void> {
  await ada.fill('#topic', 'Ada was here');
  await grace.fill('#topic', 'No, Grace was');
  await ada.click('#save');
  await eventually(async () => expect(await text(ada, '#topic-note')).toBe('Saved'));
  await eventually(async () =>
    expect(await text(grace, '#topic-note')).toContain('Ada has changed it'),
  );
  await grace.click('#save');
  await grace.waitForSelector('#conflict:not([hidden])');
}

describe.skipIf(CHROMIUM === undefined)('the page of the demo', { timeout: 90_000 }, () => {
  beforeAll(async () => {
    mkdirSync(SCREENSHOTS, { recursive: true });
    browser = await chromium.launch({
      executablePath: CHROMIUM as string,
      // Tests often run as root and in containers, where Chromium cannot create its sandbox.
      args: ['--no-sandbox', '--disable-dev-shm-usage'],
    });
  });
  afterAll(() => browser?.close());

  test('two users see each other, point, type, edit at once and lock; one is killed and times out', async () => {
    const demo = await run(['--bots', '0']);
    const [url] = (await demo.urls(1)) as [string];
    const ada = await open(url, 'Ada');
    const grace = await open(url, 'Grace');
    await Promise.all([sees(ada, 'Grace'), sees(grace, 'Ada')]);
    expect(await text(grace, '#people-count')).toBe('2');

    await pointAt(ada, 0.25, 0.5);
    await eventually(async () => {
      const [x, y] = await pointer(grace, 'Ada');
      expect(x).toBeCloseTo(0.25, 1);
      expect(y).toBeCloseTo(0.5, 1);
    });
    await pointAt(ada, 0.75, 0.2);
    await eventually(async () => expect((await pointer(grace, 'Ada'))[0]).toBeCloseTo(0.75, 1));

    await ada.locator('#say').pressSequentially('Hello');
    await eventually(async () => expect(await text(grace, '#typing')).toBe('Ada is typing…'));
    await ada.locator('#say').press('Enter');
    await eventually(async () =>
      expect(await text(grace, '.cursor[data-user="Ada"] span')).toBe('Hello'),
    );

    // Only the later user sees the conflict, and both texts are kept.
    const before = Number((await text(ada, '#revision')).replace('rev ', ''));
    await editAtOnce(ada, grace);
    expect(await text(grace, '#theirs')).toBe('Ada was here');
    expect(await text(grace, '#mine')).toBe('No, Grace was');
    expect(await ada.locator('#conflict').isVisible()).toBe(false);
    await grace.click('#use-mine');
    await eventually(async () => {
      for (const page of [ada, grace]) {
        expect(await page.inputValue('#topic')).toBe('No, Grace was');
        expect(await text(page, '#revision')).toBe(`rev ${before + 2}`);
      }
    });

    await ada.click('#lock');
    await eventually(async () =>
      expect(await text(grace, '#lock')).toMatch(/^Locked by Ada, \d+ s$/),
    );
    await grace.fill('#topic', 'Mine again');
    await grace.click('#save');
    await eventually(async () =>
      expect(await text(grace, '#topic-note')).toContain('is held by a different user'),
    );
    await ada.click('#lock');
    await eventually(async () => expect(await text(grace, '#lock')).toBe('Lock for 15 s'));

    await ada.click('#kill');
    await grace.waitForSelector('#people [data-user="Ada"]', {
      state: 'detached',
      timeout: GONE_MS,
    });
    await eventually(async () =>
      expect(await text(grace, '#log')).toContain('Ada left, reason timeout'),
    );
    expect(await grace.locator('.cursor[data-user="Ada"]').count()).toBe(0);

    // After a normal close, the reason differs.
    await ada.click('#revive');
    await sees(grace, 'Ada');
    await ada.close();
    await eventually(async () =>
      expect(await text(grace, '#log')).toContain('Ada left, reason left'),
    );
  });

  test('tabs on three servers show the same', async () => {
    const demo = await run(['--bots', '0', '--nodes', '3'], withRedis());
    const urls = await demo.urls(3);
    const people = ['Ada', 'Grace', 'Linus'];
    const pages = await Promise.all(people.map((user, i) => open(urls[i] as string, user)));
    for (const page of pages) for (const user of people) await sees(page, user);
    const [ada, grace, linus] = pages as [Page, Page, Page];
    await editAtOnce(ada, grace);
    await grace.click('#keep-theirs');
    await eventually(async () => expect(await linus.inputValue('#topic')).toBe('Ada was here'));
    await linus.click('#lock');
    await eventually(async () => expect(await text(ada, '#lock')).toMatch(/^Locked by Linus/));
    // "Open a second user" uses the next server.
    const opened = ada.context().waitForEvent('page');
    await ada.click('#second');
    expect(new URL((await opened).url()).origin).toBe(urls[1]);
  });

  test.each([
    ['light', 1280, 800],
    ['dark', 1280, 800],
    ['light', 390, 844],
    ['dark', 390, 844],
  ] as const)('has no overflow in %s at %i px', async (scheme, width, height) => {
    const demo = await run([]);
    const [url] = (await demo.urls(1)) as [string];
    const page = await open(url, 'Ada', { scheme, width, height });
    await page.waitForSelector('.cursor');
    await page.waitForSelector('#figures dd');
    // No element is wider than the window.
    const scrolls = await page.evaluate<boolean>(
      'document.documentElement.scrollWidth > document.documentElement.clientWidth',
    );
    expect(scrolls).toBe(false);
    await page.screenshot({
      path: `${SCREENSHOTS}/demo-${scheme}-${width}.png`,
      fullPage: width < 600,
    });
  });
});

if (CHROMIUM === undefined) {
  test('the page of the demo', (context) => {
    context.skip('there is no Chromium: install it, or set CHROMIUM_BIN to one');
  });
}
