// Records calls, their answers and the events that Redis published: nothing may be lost, nothing
// applied twice, and every Promise must settle.
import type { Redis } from 'ioredis';
import { type PresenceEvent, RollcallError } from 'rollcall';
import { expect } from 'vitest';
import type { RedisServer } from '../support/redis.js';

/** How a call ended. `unknown`: it may have been applied. */
export type Outcome = 'done' | 'refused' | 'unknown';

interface Entry {
  what: string;
  /** The text of the change's event; undefined if the call changes nothing. */
  mark: string | undefined;
  outcome: Outcome | undefined;
}

type State = { mark?: string };

/** Codes that are allowed during outages. */
const IN_TROUBLE = ['UNAVAILABLE', 'TIMEOUT', 'OVERLOADED'];

/**
 * Records calls and the events that a server publishes. Its connection uses the unix socket and
 * another user, so that faults on the clients' connections do not affect it.
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

  /** Subscribes to the server's events until it stops. Call it again after a restart. */
  async listen(server: RedisServer): Promise<void> {
    this.#redis?.disconnect();
    this.#redis = await server.client();
    await this.#redis.psubscribe('prs:{room:*');
    this.#redis.on('pmessage', (_pattern, _channel, payload) => this.#received(payload));
  }

  #received(payload: string): void {
    const event = JSON.parse(payload) as PresenceEvent<State>;
    const add = (to: Map<string, number>, key: string) => to.set(key, (to.get(key) ?? 0) + 1);
    if (event.type === 'leave') add(this.#leaves, `${event.connId} ${event.epoch}`);
    else if (event.state?.mark) add(this.#events, `${event.type} ${event.state.mark}`);
  }

  /**
   * Follows a call to its end; never rejects. `mark` names the event of its change, `join <mark>`
   * or `update <mark>`, where <mark> is a value in the state. Returns the result, or undefined.
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
    // Not an `expect`: its failure would be unhandled here.
    if (!this.#allowed.has(code)) this.strange.push(`${what}: ${code} ${error.message}`);
    return outcome === 'unknown' ? 'unknown' : 'refused';
  }

  /** Unexpected errors. */
  readonly strange: string[] = [];

  #count(code: string): void {
    this.codes.set(code, (this.codes.get(code) ?? 0) + 1);
  }

  /** Clears the recorded calls and events after a check. */
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

  /** The number of calls with this outcome. */
  ended(outcome: Outcome): number {
    return this.#entries.filter((entry) => entry.outcome === outcome).length;
  }

  /** The number of acknowledged changes. */
  get changes(): number {
    return this.#entries.filter(({ mark, outcome }) => mark && outcome === 'done').length;
  }

  /** The number of calls that failed because of an outage or a timeout. */
  trouble(): number {
    let times = 0;
    for (const [code, n] of this.codes) {
      if (IN_TROUBLE.some((trouble) => code.startsWith(trouble))) times += n;
    }
    return times;
  }

  /**
   * Every call has ended with an allowed code. Acknowledged changes were published once, refused
   * ones never, and those of unknown outcome at most once. No join has two leaves. `missing` is the
   * number of events that this ledger may have missed itself.
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

  /** A summary in one line, for the log of the test. */
  summary(): string {
    const codes = [...this.codes].map(([code, times]) => `${code} ${times}`);
    return `${this.calls} calls: ${codes.sort().join(', ')}`;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#redis?.disconnect();
  }
}
