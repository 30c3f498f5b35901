// What was asked for, what was answered, and what Redis said that it did: nothing may be lost,
// nothing done twice, and no Promise stay open.
import type { Redis } from 'ioredis';
import { type PresenceEvent, RollcallError } from 'rollcall';
import { expect } from 'vitest';
import type { RedisServer } from '../support/redis.js';

/** How a call ended. `unknown`: it may or may not have been carried out. */
export type Outcome = 'done' | 'refused' | 'unknown';

interface Entry {
  what: string;
  /** What the event of the change holds; undefined where the call changes nothing. */
  mark: string | undefined;
  outcome: Outcome | undefined;
}

type State = { mark?: string };

/** Codes that calls may end with while servers and connections come and go. */
const IN_TROUBLE = ['UNAVAILABLE', 'TIMEOUT', 'OVERLOADED'];

/**
 * Writes down calls and the events that a server publishes. Its own connection comes by the unix
 * socket and as another user, so that faults on the way of the clients are none of its.
 */
export class Ledger implements AsyncDisposable {
  readonly codes = new Map<string, number>();
  readonly #entries: Entry[] = [];
  readonly #events = new Map<string, number>();
  readonly #leaves = new Map<string, number>();
  readonly #allowed: Set<string>;
  #redis: Redis | undefined;

  constructor(...allowed: string[]) {
    this.#allowed = new Set([...IN_TROUBLE, ...allowed]);
  }

  /** Listens to the server, as long as it runs. Call it again after a restart. */
  async listen(server: RedisServer): Promise<void> {
    this.#redis?.disconnect();
    this.#redis = await server.client();
    await this.#redis.psubscribe('prs:{room:*');
    this.#redis.on('pmessage', (_pattern, _channel, payload) => this.#heard(payload));
  }

  #heard(payload: string): void {
    const event = JSON.parse(payload) as PresenceEvent<State>;
    const add = (to: Map<string, number>, key: string) => to.set(key, (to.get(key) ?? 0) + 1);
    if (event.type === 'leave') add(this.#leaves, `${event.connId} ${event.epoch}`);
    else if (event.state?.mark) add(this.#events, `${event.type} ${event.state.mark}`);
  }

  /**
   * Follows a call to its end; never rejects. `mark` names the event of its change, `join <mark>` or
   * `update <mark>`, where <mark> is what it puts into the state. Gives the result, or undefined.
   */
  async follow<T>(what: string, call: Promise<T>, mark?: string): Promise<T | undefined> {
    const entry: Entry = { what, mark, outcome: undefined };
    this.#entries.push(entry);
    try {
      const result = await call;
      entry.outcome = 'done';
      this.#count('ok');
      return result;
    } catch (error) {
      entry.outcome = this.#outcomeOf(error, what);
      return undefined;
    }
  }

  #outcomeOf(error: unknown, what: string): Outcome {
    if (!(error instanceof RollcallError)) throw error;
    const { code, outcome } = error;
    this.#count(outcome ? `${code} ${outcome}` : code);
    // Not an `expect`: nobody waits here to see it fail.
    if (!this.#allowed.has(code)) this.strange.push(`${what}: ${code} ${error.message}`);
    return outcome === 'unknown' ? 'unknown' : 'refused';
  }

  /** Errors that should not have been. */
  readonly strange: string[] = [];

  #count(code: string): void {
    this.codes.set(code, (this.codes.get(code) ?? 0) + 1);
  }

  /** What has been checked is forgotten. */
  forget(): void {
    this.#entries.length = 0;
    this.#events.clear();
    this.#leaves.clear();
  }

  get calls(): number {
    return this.#entries.length;
  }

  get unsettled(): number {
    return this.#entries.filter(({ outcome }) => outcome === undefined).length;
  }

  /** How many calls ended so. */
  ended(outcome: Outcome): number {
    return this.#entries.filter((entry) => entry.outcome === outcome).length;
  }

  /** How many changes were acknowledged. */
  get changes(): number {
    return this.#entries.filter(({ mark, outcome }) => mark && outcome === 'done').length;
  }

  /** How many calls failed because something was away or slow. */
  trouble(): number {
    let times = 0;
    for (const [code, n] of this.codes) {
      if (IN_TROUBLE.some((trouble) => code.startsWith(trouble))) times += n;
    }
    return times;
  }

  /**
   * Every call has ended, with a code that fits; what was done was published once, what was refused
   * never, what is unknown once at most; no connection has left one join twice. `missing`: how many
   * events of what was done this ledger may have missed itself.
   */
  check({ missing = 0 } = {}): void {
    expect(this.strange, 'errors that should not have been').toEqual([]);
    expect(this.unsettled, 'unsettled Promises').toBe(0);
    const wrong: string[] = [];
    let missed = 0;
    for (const { what, mark, outcome } of this.#entries) {
      if (mark === undefined) continue;
      const times = this.#events.get(mark) ?? 0;
      if (outcome === 'done' && times === 0) missed += 1;
      const most = outcome === 'refused' ? 0 : 1;
      if (times > most) wrong.push(`${what} (${outcome}) was applied ${times} times`);
    }
    for (const [leave, times] of this.#leaves) {
      if (times > 1) wrong.push(`leave ${leave} was published ${times} times`);
    }
    expect(wrong).toEqual([]);
    expect(missed, 'acknowledged changes without an event').toBeLessThanOrEqual(missing);
  }

  /** What has been seen, in one line, for the log of the test. */
  summary(): string {
    const codes = [...this.codes].map(([code, times]) => `${code} ${times}`);
    return `${this.calls} calls: ${codes.sort().join(', ')}`;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#redis?.disconnect();
  }
}
