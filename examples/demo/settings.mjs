// What the parts of the demo agree on. Times are in milliseconds.

export const ROOMS = ['lobby', 'design', 'music', 'garden'];

export const TOPICS = {
  lobby: 'Say hello, and open a second window',
  design: 'Which of the three logos?',
  music: 'Tonight: everything with a theremin',
  garden: 'Who waters the tomatoes in July?',
};

/** The channels whose metadata hold the topics: this type, and a room's name. */
export const CHANNEL_TYPE = 'demo';

/** Short, so that a time-out is soon seen; the page sends a heartbeat every second. */
export const TTL_MS = 5000;

export const LOCK_MS = 15_000;

/** Nothing of what else is in somebody's Redis may be touched. */
export const KEY_PREFIX = 'rollcall-demo:';
