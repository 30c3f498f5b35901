// Simulated users, so that whoever comes first is not alone: they move their pointers, type, talk,
// go to other rooms, and now and then one goes silent and times out. Each is what a socket's user is:
// a connection with an epoch that sends heartbeats.
import { setInterval as ticks } from 'node:timers/promises';
import { ROOMS, TTL_MS } from './settings.mjs';

const NAMES = ['Hedy', 'Alan', 'Katherine', 'Niklaus', 'Frances', 'Tim'];
const COLORS = ['#0f766e', '#b45309', '#6d28d9', '#be123c', '#1d4ed8', '#4d7c0f'];
const SAYINGS = [
  'Does everybody see me?',
  'I was in a tunnel.',
  'The second one is better.',
  'Back in a minute.',
  'Try the lock on the topic.',
];
const STEP_MS = 150;
const AWAY = ['CONNECTION_NOT_FOUND', 'UNAVAILABLE', 'TIMEOUT', 'OVERLOADED', 'CLOSED'];

/** Where a bot's pointer is after `t` seconds: a slow figure that no two share. */
function place(t, index) {
  const round = (x) => Math.round(1000 * x) / 1000;
  return [
    round(0.5 + 0.38 * Math.sin(t * 0.31 + index * 2.1)),
    round(0.48 + 0.36 * Math.sin(t * 0.47 + index * 1.3)),
  ];
}

/**
 * @param {import('rollcall').PresenceClient} client
 * @param {number[]} numbers which bots
 * @param {AbortSignal} signal ends them; they say goodbye
 */
export async function runBots(client, numbers, signal) {
  const bots = numbers.map((index) => ({
    connId: `bot-${process.pid}-${index}`,
    userId: NAMES[index],
    index,
    room: index < 2 ? 0 : index % ROOMS.length,
    epoch: undefined,
    silentUntil: 0,
  }));
  let step = 0;
  try {
    for await (const _ of ticks(STEP_MS, undefined, { signal })) {
      step += 1;
      await Promise.all(bots.map((bot) => tryToLive(client, bot, step)));
    }
  } catch (error) {
    if (error.name !== 'AbortError') throw error;
  }
  await Promise.all(bots.map(({ connId }) => client.leave(connId).catch(() => {})));
}

async function tryToLive(client, bot, step) {
  try {
    await live(client, bot, step);
  } catch (error) {
    // It has timed out, or Redis is away: the next step joins again.
    bot.epoch = undefined;
    if (!AWAY.includes(error.code)) throw error;
  }
}

async function live(client, bot, step) {
  const now = (step * STEP_MS) / 1000;
  const every = (seconds) => (step + bot.index * 17) % Math.round((1000 * seconds) / STEP_MS) === 0;
  if (now < bot.silentUntil) return;
  if (bot.epoch === undefined) return join(client, bot);
  if (every(47)) {
    bot.silentUntil = now + (2 * TTL_MS) / 1000;
    return;
  }
  if (every(31)) {
    bot.room = (bot.room + 1) % ROOMS.length;
    return join(client, bot);
  }
  const patchState = { cursor: place(now, bot.index) };
  if (every(13)) Object.assign(patchState, { typing: true });
  if (every(9)) {
    const says = SAYINGS[(step + bot.index) % SAYINGS.length];
    Object.assign(patchState, { typing: undefined, says });
  } else if (every(5)) {
    Object.assign(patchState, { says: undefined });
  }
  await client.heartbeat({ connId: bot.connId, epoch: bot.epoch, patchState });
}

async function join(client, bot) {
  const { epoch } = await client.join({
    roomId: ROOMS[bot.room],
    userId: bot.userId,
    connId: bot.connId,
    state: { color: COLORS[bot.index] },
    snapshot: false,
  });
  bot.epoch = epoch;
}
