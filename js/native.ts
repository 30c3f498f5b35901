// The bridge to the core: numbers calls, owns their Promises, and processes what the core hands
// over, many items at one wake-up. It has no knowledge of presence.
//
// Lifetime: the core has only a weak reference back (through `wake`), so an unused client can be
// collected. While calls are pending or subscriptions are open, `active` holds the bridge and a
// timer keeps the process alive; otherwise neither does (spec 11.3).

import { NativeClient } from '../binding/binding.js';
import {
  errorFrom,
  hasCode,
  internalError,
  type NativeErrorData,
  type RollcallError,
} from './errors.js';
import { Heartbeats } from './heartbeats.js';
import { Leases } from './leases.js';
import { OwnedConnections, type OwnershipOptions } from './owned-connections.js';

/** Receives what the bridge passes on. */
export interface Sink {
  event(feed: number, event: unknown): void;
  resync(reason: string): void;
  state(state: string, detail: string): void;
  log(level: string, message: string): void;
}

interface Pending {
  /** Takes a piece of an answer that arrives in several. Must not throw. */
  readonly take: ((piece: never) => void) | undefined;
  resolve(value: never): void;
  reject(error: Error): void;
}

/**
 * Answers of calls (0: a piece of one, more follows), notices, and events. Among the events, a
 * number announces the feed of the following events, and a text announces missed events.
 */
type Drained = [
  [number, unknown, (NativeErrorData | 0)?][],
  [string, string, string?][],
  unknown[],
];

/** The methods that take a call's number first and answer with it. */
type Call = Exclude<
  keyof NativeClient,
  | 'heartbeats'
  | 'metrics'
  | 'drain'
  | 'takeErrors'
  | 'taken'
  | 'unwanted'
  | 'drainFailed'
  | 'lockAbandon'
  | 'lockEnds'
  | 'lockClock'
  | 'nodeLease'
>;

type CallArgs<Name extends Call> =
  Parameters<NativeClient[Name]> extends [number, ...infer Rest] ? Rest : never;

/**
 * After a drain with this much text, other work of the event loop runs first, even if nothing is
 * left: parsing the text took a while.
 */
const LARGE_DRAIN = 256 * 1024;

// The global function may be replaced by fake timers, which would stop all answers.
const afterOtherWork = setImmediate;

const active = new Set<Bridge>();
const timers = new FinalizationRegistry<NodeJS.Timeout>((timer) => clearInterval(timer));

export class Bridge {
  readonly #core: NativeClient;
  readonly #sink: Sink;
  readonly #calls = new Map<number, Pending>();
  readonly #keepAlive: NodeJS.Timeout;
  /** Heartbeats do not use `call`, because they are frequent. */
  readonly heartbeats: Heartbeats;
  /** The locks that this client holds or requests. */
  readonly leases: Leases;
  /** The connections that this node answers for, with `liveness: "node"`. */
  readonly owned: OwnedConnections | undefined;
  #nextCall = 0;
  #holds = 0;
  #ended = false;
  /** Whether the next drain is scheduled. */
  #comesAgain = false;

  /** @param ownership is given with `liveness: "node"`. */
  constructor(sink: Sink, ownership: OwnershipOptions | undefined) {
    this.#sink = sink;
    this.#core = new NativeClient(waker(new WeakRef(this)));
    this.leases = new Leases(this.#core);
    // The timer does nothing: while it is referenced, it keeps the process alive.
    this.#keepAlive = setInterval(nothing, 2 ** 30);
    this.#keepAlive.unref();
    timers.register(this, this.#keepAlive);
    this.owned =
      ownership &&
      new OwnedConnections(
        this.#core,
        ownership,
        (connId, epoch) => this.call('leaveIdle', connId, epoch),
        (error) => this.#leaveIdleFailed(error),
      );
    this.heartbeats = new Heartbeats(
      this.#core,
      this.owned,
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

  /** For answers in several pieces: `take` gets each piece at once. Returns the last piece. */
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

  /** Releases a lock that no caller needs any more. */
  abandonLock(number: number): void {
    try {
      this.#core.lockAbandon(number);
    } catch {
      // The caller already has an error. The lock ends with its TTL.
    }
  }

  #leaveIdleFailed(error: unknown): void {
    // After `close`, the core removes the connections of this node.
    if (!hasCode(error, 'CLOSED')) {
      this.#sink.log('warn', `Idle connections could not be removed, which is retried: ${error}`);
    }
  }

  metrics(): unknown {
    try {
      return JSON.parse(this.#core.metrics());
    } catch (error) {
      throw internalError(error);
    }
  }

  /** Nothing more will arrive: all pending calls fail, and no handler is called. */
  end(error: RollcallError): void {
    this.#ended = true;
    this.#failAll(error);
    // Open subscriptions no longer hold the bridge.
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

  /** Called by the core on this thread. Must not throw, because nothing would catch it. */
  drain(): void {
    if (!this.#comesAgain) {
      this.#drain();
    }
  }

  /** One crossing for all waiting items, up to a bound. The rest follows after other work. */
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
    // These were handed over, even if the rest fails.
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
   * The items of a drain did not arrive. The core hands them over again in smaller parts, and gives
   * up a part that fails alone. Returns whether there is more to drain.
   */
  #drainFailed(cause: unknown): boolean {
    this.#sink.log('error', `Rollcall could not read what its core said: ${cause}`);
    // Notices about connections may be among what is given up.
    this.owned?.forget();
    try {
      const givenUp = this.#core.drainFailed();
      for (const number of givenUp ?? []) {
        this.#settle(number)?.reject(internalError(cause));
      }
      return givenUp !== null;
    } catch (error) {
      // The sink must be notified of lost events.
      this.#failAll(internalError(error));
      return false;
    }
  }

  #take([calls, notices, events]: Drained): void {
    // First, and before `taken`: handlers may send heartbeats, and until `taken` the core reports
    // that a lost lease is not held.
    for (const [kind, first, second] of notices) {
      this.#ownershipNotice(kind, first, second ?? '');
    }
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
      // No caller waits for it: the resources of the call are released.
      this.#core.unwanted(number);
    } else if (error === undefined) {
      pending.resolve(value as never);
    } else {
      pending.reject(errorFrom(error));
    }
  }

  /** Removes a call that is about to be settled. */
  #settle(number: number): Pending | undefined {
    const pending = this.#calls.get(number);
    if (pending !== undefined) {
      this.#calls.delete(number);
      this.unref();
    }
    return pending;
  }

  #ownershipNotice(kind: string, first: string, second: string): void {
    if (kind === 'dispossessed') {
      this.owned?.dispossessed(first, Number(second));
    } else if (kind === 'restored') {
      this.owned?.restored(first, Number(second));
    } else if (kind === 'leaseLost') {
      this.owned?.leaseLost();
    }
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

// Created outside of the constructor: all closures of one scope keep everything alive that any of
// them references, and the others there reference the bridge.

function nothing(): void {}

function waker(bridge: WeakRef<Bridge>): () => void {
  return () => bridge.deref()?.drain();
}

/** The core's own list of codes, for the test that compares the tables. */
export { errorCodes as nativeErrorCodes } from '../binding/binding.js';
