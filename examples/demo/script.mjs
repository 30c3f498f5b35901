// What the simulated users do, and when. Always the same, and everything that presence can do is
// seen once: join, update, move, go silent and time out, come back, two devices of one user, a
// fenced-off old socket, leave.

/** How long a connection lives without a heartbeat, and how often servers send them. */
export const TTL_MS = 3000;
export const BEAT_EVERY_MS = 1000;
export const SWEEP_EVERY_MS = 500;

export const ROOMS = ['lobby', 'design', 'music'];

/** Length of one round. */
export const SECONDS = 19;

/**
 * `at`: seconds since the round began; `on`: which server the user's socket is on; `conn`: the
 * socket. What `act` stands for is in server.mjs.
 *
 * @typedef {{ at: number, on: 'A' | 'B', act: string, conn: string, user?: string, room?: string,
 *   state?: object, say: string }} Step
 *
 * @type {Step[]}
 */
export const STEPS = [
  {
    at: 0.3,
    on: 'A',
    act: 'join',
    conn: 'ada/pc',
    user: 'ada',
    room: 'lobby',
    state: { mic: 'off' },
    say: 'ada joins the lobby; her socket is on server A',
  },
  {
    at: 0.9,
    on: 'B',
    act: 'join',
    conn: 'bo/pc',
    user: 'bo',
    room: 'lobby',
    state: { mic: 'off' },
    say: 'bo joins the lobby through server B',
  },
  {
    at: 1.5,
    on: 'A',
    act: 'join',
    conn: 'cleo/tab',
    user: 'cleo',
    room: 'design',
    state: { tool: 'pen' },
    say: 'cleo joins design',
  },
  {
    at: 2.1,
    on: 'B',
    act: 'join',
    conn: 'dev/tel',
    user: 'dev',
    room: 'design',
    state: { tool: 'text' },
    say: 'dev joins design through server B',
  },
  {
    at: 2.8,
    on: 'A',
    act: 'join',
    conn: 'eve/pc',
    user: 'eve',
    room: 'lobby',
    say: 'eve joins the lobby',
  },
  {
    at: 3.4,
    on: 'B',
    act: 'join',
    conn: 'eve/tel',
    user: 'eve',
    room: 'lobby',
    say: 'eve joins with her phone too: one user, two connections',
  },
  {
    at: 4.2,
    on: 'A',
    act: 'update',
    conn: 'ada/pc',
    state: { mic: 'on' },
    say: 'ada switches her microphone on; the patch travels with her heartbeat',
  },
  {
    at: 4.9,
    on: 'B',
    act: 'update',
    conn: 'bo/pc',
    state: { typing: true },
    say: 'bo begins to type',
  },
  {
    at: 5.7,
    on: 'B',
    act: 'update',
    conn: 'bo/pc',
    state: { typing: undefined },
    say: 'bo stops: a key patched with undefined is removed',
  },
  {
    at: 6.5,
    on: 'A',
    act: 'join',
    conn: 'cleo/tab',
    user: 'cleo',
    room: 'lobby',
    state: { tool: 'none' },
    say: 'cleo moves to the lobby: leave (replaced) and join in one atomic step',
  },
  {
    at: 7.2,
    on: 'B',
    act: 'silence',
    conn: 'dev/tel',
    say: `dev drives into a tunnel: no heartbeat any more, TTL ${TTL_MS / 1000} s`,
  },
  {
    at: 8.0,
    on: 'B',
    act: 'leave',
    conn: 'eve/tel',
    say: 'eve puts her phone away; she stays, by her laptop',
  },
  {
    at: 8.8,
    on: 'A',
    act: 'update',
    conn: 'ada/pc',
    state: { cursor: [12, 40] },
    say: 'ada moves her cursor',
  },
  {
    at: 11.4,
    on: 'B',
    act: 'beat',
    conn: 'dev/tel',
    say: 'dev is out of the tunnel and sends a heartbeat',
  },
  {
    at: 12.0,
    on: 'B',
    act: 'join',
    conn: 'dev/tel',
    user: 'dev',
    room: 'music',
    state: { song: 'Kind of Blue' },
    say: 'so dev joins again, in music',
  },
  {
    at: 12.8,
    on: 'A',
    act: 'join',
    conn: 'bo/pc',
    user: 'bo',
    room: 'lobby',
    state: { mic: 'on' },
    say: 'bo reconnects and lands on server A: a new join, a newer epoch',
  },
  {
    at: 13.6,
    on: 'B',
    act: 'beat',
    conn: 'bo/pc',
    say: 'the old socket of bo on server B still sends, with its old epoch',
  },
  {
    at: 14.6,
    on: 'A',
    act: 'join',
    conn: 'ada/pc',
    user: 'ada',
    room: 'music',
    state: { mic: 'off' },
    say: 'ada moves to music',
  },
  { at: 15.6, on: 'A', act: 'leave', conn: 'cleo/tab', say: 'cleo leaves' },
  { at: 16.1, on: 'A', act: 'leave', conn: 'bo/pc', say: 'bo leaves' },
  { at: 16.6, on: 'A', act: 'leave', conn: 'eve/pc', say: 'eve leaves' },
  { at: 17.1, on: 'B', act: 'leave', conn: 'dev/tel', say: 'dev leaves' },
  { at: 17.6, on: 'A', act: 'leave', conn: 'ada/pc', say: 'ada leaves; nobody is left' },
];
