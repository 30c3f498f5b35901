// The bridge to the core: numbers calls, owns their Promises, and takes in what the core hands
// over, many things at one wake. Knows nothing of presence.
//
// Lifetime: the core holds only a weak reference back (through `wake`), so a client that nobody
// uses can be collected. While calls are pending or subscriptions are open the bridge is held by
// `active`, and a timer keeps the process alive; otherwise neither does (spec 11.3).

import { type NativeClient as Core, NativeClient } from '../binding/binding.js';
import { errorFrom, internalError, type NativeErrorData, type RollcallError } from './errors.js';
import { Heartbeats } from './heartbeats.js';
import { Leases } from './leases.js';

/** What the bridge hands on. */
export interface Sink {
  event(feed: number, event: unknown): void;
  resync(reason: string): void;
  state(state: string, detail: string): void;
  log(level: string, message: string): void;
}

interface Pending {
  /** Takes a piece of an answer that comes in several. Must not throw. */
  readonly take: ((piece: never) => void) | undefined;
  resolve(value: never): void;
  reject(error: Error): void;
}

/**
 * Answers of calls (0: a piece of one, more comes), notices, and events, among which a number says to which
 * feed those after it belong, and a text that some were missed.
 */
type Drained = [
  [number, unknown, (NativeErrorData | 0)?][],
  [string, string, string?][],
  unknown[],
];

/** The methods that take a call's number first and answer under it. */
type Call = Exclude<
  keyof Core,
  | 'heartbeats'
  | 'heartbeatPatch'
  | 'metrics'
  | 'drain'
  | 'takeErrors'
  | 'taken'
  | 'unwanted'
  | 'drainFailed'
  | 'lockAbandon'
  | 'lockEnds'
  | 'lockClock'
>;

type CallArgs<Name extends Call> =
  Parameters<Core[Name]> extends [number, ...infer Rest] ? Rest : never;

/**
 * A drain with so much text is followed by other work of the event loop, even if nothing was left: parsing
 * it took a while.
 */
const LARGE_DRAIN = 256 * 1024;

// The global function may be replaced by fake timers, which would stop everything.
const afterOtherWork = setImmediate;

const active = new Set<Bridge>();
const timers = new FinalizationRegistry<NodeJS.Timeout>((timer) => clearInterval(timer));

export class Bridge {
  readonly #core: Core;
  readonly #sink: Sink;
  readonly #calls = new Map<number, Pending>();
  readonly #keepAlive: NodeJS.Timeout;
  /** Heartbeats do not go through `call`: they are many. */
  readonly heartbeats: Heartbeats;
  /** The locks that this client holds or asks for. */
  readonly leases: Leases;
  #nextCall = 0;
  #holds = 0;
  #ended = false;
  /** Whether the next drain has been arranged. */
  #comesAgain = false;

  constructor(sink: Sink) {
    this.#sink = sink;
    this.#core = new NativeClient(waker(new WeakRef(this)));
    this.leases = new Leases(this.#core);
    // Does nothing but be there: referenced, it keeps the process alive.
    this.#keepAlive = setInterval(nothing, 2 ** 30);
    this.#keepAlive.unref();
    timers.register(this, this.#keepAlive);
    this.heartbeats = new Heartbeats(
      this.#core,
      () => this.ref(),
      () => this.unref(),
    );
  }

  /** Keeps process and bridge alive until `unref`. */
  ref(): void {
    if (this.#holds++ === 0) {
      active.add(this);
      this.#keepAlive.ref();
    }
  }

  unref(): void {
    if (--this.#holds === 0) {
      active.delete(this);
      this.#keepAlive.unref();
    }
  }

  call<Name extends Call>(name: Name, ...args: CallArgs<Name>): Promise<unknown> {
    return this.#call(name, args);
  }

  /** For answers of which pieces come before: `take` gets each at once. Gives what came last. */
  callInPieces<Name extends Call, Piece>(
    name: Name,
    take: (piece: Piece) => void,
    ...args: CallArgs<Name>
  ): Promise<unknown> {
    return this.#call(name, args, take);
  }

  #call<Name extends Call>(
    name: Name,
    args: CallArgs<Name>,
    take?: (piece: never) => void,
  ): Promise<unknown> {
    return new Promise((resolve, reject) => {
      const number = this.#nextCall++;
      this.heartbeats.flush();
      const method = this.#core[name] as (call: number, ...rest: unknown[]) => void;
      try {
        method.call(this.#core, number, ...args);
      } catch (error) {
        reject(internalError(error));
        return;
      }
      this.#calls.set(number, { take, resolve, reject });
      this.ref();
    });
  }

  /** Nobody wants this lock any more. */
  abandonLock(number: number): void {
    try {
      this.#core.lockAbandon(number);
    } catch {
      // The caller has an error already. The lock ends with its TTL.
    }
  }

  metrics(): unknown {
    try {
      return JSON.parse(this.#core.metrics());
    } catch (error) {
      throw internalError(error);
    }
  }

  /** Nothing more will come: everything that is still pending fails, no handler is called. */
  end(error: RollcallError): void {
    this.#ended = true;
    this.#failAll(error);
    // Subscriptions that were never ended hold it no longer.
    active.delete(this);
    clearInterval(this.#keepAlive);
  }

  #failAll(error: RollcallError): void {
    for (const { reject } of this.#calls.values()) {
      reject(error);
      this.unref();
    }
    this.#calls.clear();
    this.heartbeats.end(error);
  }

  /** Called by the core on this thread. Must not throw: nobody is there to catch it. */
  drain(): void {
    if (!this.#comesAgain) {
      this.#drain();
    }
  }

  /** One crossing for as much as there is, up to a bound. What is left comes after other work. */
  #drain(): void {
    const { settled } = this.heartbeats;
    settled[0] = 0;
    settled[1] = 0;
    let text: string | null = null;
    let drained: Drained | undefined;
    let failure: { cause: unknown } | undefined;
    try {
      text = this.#core.drain(settled);
    } catch (cause) {
      failure = { cause };
    }
    // These have been handed over, whatever became of the rest.
    this.heartbeats.settle();
    try {
      drained = text === null ? undefined : JSON.parse(text);
    } catch (cause) {
      failure = { cause };
    }
    let again = settled[1] === 1 || (text !== null && text.length >= LARGE_DRAIN);
    if (failure !== undefined) {
      again = this.#drainFailed(failure.cause);
    } else if (drained !== undefined) {
      this.#take(drained);
    }
    if (again) {
      this.#comesAgain = true;
      afterOtherWork(() => {
        this.#comesAgain = false;
        this.#drain();
      });
    }
  }

  /**
   * What the core handed over did not arrive. The core hands it over again in smaller parts, and gives up
   * the one that fails alone. Returns whether there is more to drain.
   */
  #drainFailed(cause: unknown): boolean {
    this.#sink.log('error', `Rollcall could not read what its core said: ${cause}`);
    try {
      const givenUp = this.#core.drainFailed();
      for (const number of givenUp ?? []) {
        this.#settle(number)?.reject(internalError(cause));
      }
      return givenUp !== null;
    } catch (error) {
      // Who is to be told of what is lost.
      this.#failAll(internalError(error));
      return false;
    }
  }

  #take([calls, notices, events]: Drained): void {
    for (const [number, value, error] of calls) {
      try {
        this.#answer(number, value, error);
      } catch (cause) {
        this.#settle(number)?.reject(internalError(cause));
      }
    }
    if (calls.length > 0 || notices.length > 0) {
      this.#core.taken();
    }
    if (this.#ended) {
      return;
    }
    for (const [kind, first, second] of notices) {
      this.#notice(kind, first, second ?? '');
    }
    let feed = 0;
    for (const event of events) {
      if (typeof event === 'number') {
        feed = event;
      } else if (typeof event === 'string') {
        this.#sink.resync(event);
      } else {
        this.#sink.event(feed, event);
      }
    }
  }

  #answer(number: number, value: unknown, error: NativeErrorData | 0 | undefined): void {
    if (error === 0) {
      this.#calls.get(number)?.take?.(value as never);
      return;
    }
    const pending = this.#settle(number);
    if (pending === undefined) {
      // Nobody waits for it: whatever the call got goes back.
      this.#core.unwanted(number);
    } else if (error === undefined) {
      pending.resolve(value as never);
    } else {
      pending.reject(errorFrom(error));
    }
  }

  /** Takes a call out that is about to be settled. */
  #settle(number: number): Pending | undefined {
    const pending = this.#calls.get(number);
    if (pending !== undefined) {
      this.#calls.delete(number);
      this.unref();
    }
    return pending;
  }

  #notice(kind: string, first: string, second: string): void {
    if (kind === 'resync') {
      this.#sink.resync(first);
    } else if (kind === 'state') {
      this.#sink.state(first, second);
    } else if (kind === 'log') {
      this.#sink.log(first, second);
    } else if (kind === 'lock') {
      this.leases.lost(Number(first), errorFrom(JSON.parse(second)));
    }
  }
}

// These are made apart from the constructor: all closures of one scope hold what any of them holds,
// and its others hold the bridge.

function nothing(): void {}

function waker(bridge: WeakRef<Bridge>): () => void {
  return () => bridge.deref()?.drain();
}

/** The core's own list of codes, for the test that holds the tables together. */
export { errorCodes as nativeErrorCodes } from '../binding/binding.js';
