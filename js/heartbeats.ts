// Passes heartbeats to the core: owns their Promises, collects those of one turn of the event loop
// for one crossing, and settles a batch of them in one loop. This is the hot path: slots are in
// plain arrays, and a heartbeat allocates no object of its own.

import type { NativeClient } from '../binding/binding.js';
import { errorFrom, internalError, type NativeErrorData, type RollcallError } from './errors.js';
import type { OwnedConnections, PendingOwnership } from './owned-connections.js';
import type { HeartbeatManyResult, HeartbeatResult } from './types.js';

/** The values of each heartbeat that crosses to the core: slot, epoch, and the lengths of its texts. */
const PER_REQUEST = 5;
/** The values of each heartbeat that the core settles. */
const PER_RESULT = 3;
/**
 * The maximum number of heartbeats in one crossing. It could be higher. If all heartbeats of a turn
 * crossed together, the server would answer them together, and server and node would wait for each
 * other in alternation. With this limit the first ones are in flight while JavaScript creates the
 * others.
 */
const CROSSING = 128;
/** The characters of patches after which a crossing takes no further heartbeat. */
const CROSSING_TEXT = 256 * 1024;
/**
 * The values before those of the settled heartbeats: their number, and whether more can be drained.
 */
const HEADER = 2;
/** The maximum number of settled heartbeats that the core hands over at one wake-up. */
const SETTLED = 1024;

/** A patch as JSON texts: the keys to set, and an array of the keys to remove, or empty. */
export interface Patch {
  set: string;
  remove: string;
}

type Resolve = (value: HeartbeatResult) => void;
type Reject = (error: Error) => void;

export class Heartbeats {
  readonly #core: NativeClient;
  readonly #ref: () => void;
  readonly #unref: () => void;
  readonly #owned: OwnedConnections | undefined;
  // By slot, which is the core's number of a heartbeat. A slot has either the two functions of its
  // own Promise, or its index in the results of a `heartbeatMany`.
  readonly #resolve: (Resolve | undefined)[] = [];
  readonly #reject: (Reject | undefined)[] = [];
  readonly #many: (Many | undefined)[] = [];
  readonly #place: number[] = [];
  readonly #ownership: (PendingOwnership | undefined)[] = [];
  readonly #free: number[] = [];
  // The functions of the Promise that is being created. One executor is shared by all: a closure
  // for each would be a twentieth of the cost of a heartbeat.
  #newResolve: Resolve | undefined;
  #newReject: Reject | undefined;
  readonly #capture = (resolve: Resolve, reject: Reject): void => {
    this.#newResolve = resolve;
    this.#newReject = reject;
  };
  #pending = 0;
  // The heartbeats that cross at the end of this turn.
  #ids = '';
  #patches = '';
  readonly #items = new Float64Array(PER_REQUEST * CROSSING);
  #count = 0;
  /**
   * The buffer into which the core writes settled heartbeats: the header, then the values of each.
   */
  readonly settled = new Float64Array(HEADER + PER_RESULT * SETTLED);
  readonly #flushLater = () => this.flush();

  /** @param owned answers the heartbeats that do not have to be sent. */
  constructor(
    core: NativeClient,
    owned: OwnedConnections | undefined,
    ref: () => void,
    unref: () => void,
  ) {
    this.#core = core;
    this.#owned = owned;
    this.#ref = ref;
    this.#unref = unref;
  }

  one(connId: string, epoch: number, patch: Patch | undefined): Promise<HeartbeatResult> {
    const owned = this.#answer(connId, epoch, patch);
    if (owned !== -1) {
      return Promise.resolve({ changed: false, epoch: owned });
    }
    const promise = new Promise<HeartbeatResult>(this.#capture);
    const slot = this.#take();
    this.#resolve[slot] = this.#newResolve;
    this.#reject[slot] = this.#newReject;
    this.#add(slot, connId, epoch, patch);
    return promise;
  }

  /** Heartbeats that share one Promise. */
  many(count: number): Many {
    return new Many(count, (many, place, connId, epoch, patch) => {
      const owned = this.#answer(connId, epoch, patch);
      if (owned !== -1) {
        many.settle(place, { changed: false, epoch: owned });
        return;
      }
      const slot = this.#take();
      this.#many[slot] = many;
      this.#place[slot] = place;
      this.#add(slot, connId, epoch, patch);
    });
  }

  /** Sends the collected heartbeats. */
  flush(): void {
    if (this.#count === 0) {
      return;
    }
    const ids = this.#ids;
    const patches = this.#patches;
    const items = this.#items.subarray(0, PER_REQUEST * this.#count);
    this.#ids = '';
    this.#patches = '';
    this.#count = 0;
    try {
      this.#core.heartbeats(ids, patches, items);
    } catch (error) {
      for (let at = 0; at < items.length; at += PER_REQUEST) {
        this.#settle(items[at] as number, internalError(error));
      }
    }
  }

  /** Processes what the core has written into `settled`. */
  settle(): void {
    const settled = this.settled;
    const end = HEADER + PER_RESULT * (settled[0] as number);
    let errors: readonly RollcallError[] | undefined;
    for (let at = HEADER; at < end; at += PER_RESULT) {
      const slot = settled[at] as number;
      const outcome = settled[at + 1] as number;
      const value = settled[at + 2] as number;
      if (outcome >= 0) {
        this.#settle(slot, { changed: outcome === 1, epoch: value });
      } else {
        errors ??= this.#takeErrors();
        this.#settle(slot, errors[value] ?? internalError('the error was lost'));
      }
    }
  }

  /** The errors of failed heartbeats. Without them the heartbeats still settle. */
  #takeErrors(): RollcallError[] {
    try {
      return (JSON.parse(this.#core.takeErrors()) as NativeErrorData[]).map(errorFrom);
    } catch {
      return [];
    }
  }

  /** Rejects everything that is pending. */
  end(error: Error): void {
    for (let slot = 0; slot < this.#resolve.length; slot++) {
      this.#settle(slot, error);
    }
  }

  /** The epoch of a connection that this node answers for; -1: the heartbeat must be sent. */
  #answer(connId: string, epoch: number, patch: Patch | undefined): number {
    return this.#owned === undefined || patch !== undefined
      ? -1
      : this.#owned.answer(connId, epoch);
  }

  #take(): number {
    if (this.#pending++ === 0) {
      this.#ref();
    }
    return this.#free.pop() ?? this.#newSlot();
  }

  #newSlot(): number {
    const slot = this.#resolve.length;
    this.#resolve.push(undefined);
    this.#reject.push(undefined);
    this.#many.push(undefined);
    this.#place.push(0);
    this.#ownership.push(undefined);
    return slot;
  }

  #add(slot: number, connId: string, epoch: number, patch: Patch | undefined): void {
    if (this.#count === CROSSING || this.#patches.length > CROSSING_TEXT) {
      this.flush();
    }
    if (this.#count === 0) {
      queueMicrotask(this.#flushLater);
    }
    if (this.#owned !== undefined) {
      this.#ownership[slot] = this.#owned.heartbeating(connId, epoch);
    }
    const at = PER_REQUEST * this.#count++;
    const items = this.#items;
    this.#ids += connId;
    items[at] = slot;
    items[at + 1] = epoch;
    items[at + 2] = connId.length;
    if (patch === undefined) {
      items[at + 3] = 0;
      items[at + 4] = 0;
    } else {
      this.#patches += patch.set + patch.remove;
      items[at + 3] = patch.set.length;
      items[at + 4] = patch.remove.length;
    }
  }

  #settle(slot: number, result: HeartbeatManyResult): void {
    const many = this.#many[slot];
    const resolve = this.#resolve[slot];
    if (many !== undefined) {
      this.#many[slot] = undefined;
      many.settle(this.#place[slot] as number, result);
    } else if (resolve !== undefined) {
      const reject = this.#reject[slot] as Reject;
      this.#resolve[slot] = undefined;
      this.#reject[slot] = undefined;
      if (result instanceof Error) {
        reject(result);
      } else {
        resolve(result);
      }
    } else {
      return;
    }
    const ownership = this.#ownership[slot];
    if (ownership !== undefined) {
      this.#ownership[slot] = undefined;
      if (result instanceof Error) {
        this.#owned?.failed(ownership, result);
      } else {
        this.#owned?.succeeded(ownership, result.epoch);
      }
    }
    this.#free.push(slot);
    if (--this.#pending === 0) {
      this.#unref();
    }
  }
}

type AddOne = (
  many: Many,
  place: number,
  connId: string,
  epoch: number,
  patch: Patch | undefined,
) => void;

/** Collects the results of one `heartbeatMany`. */
export class Many {
  readonly #add: AddOne;
  readonly #results: HeartbeatManyResult[];
  #left: number;
  #done: ((results: HeartbeatManyResult[]) => void) | undefined;

  constructor(count: number, add: AddOne) {
    this.#add = add;
    this.#results = new Array(count);
    this.#left = count;
  }

  add(place: number, connId: string, epoch: number, patch: Patch | undefined): void {
    this.#add(this, place, connId, epoch, patch);
  }

  settle(place: number, result: HeartbeatManyResult): void {
    this.#results[place] = result;
    if (--this.#left === 0) {
      this.#done?.(this.#results);
    }
  }

  /** Resolves with one result for each index, when all have arrived. */
  results(): Promise<HeartbeatManyResult[]> {
    return this.#left === 0
      ? Promise.resolve(this.#results)
      : new Promise((resolve) => {
          this.#done = resolve;
        });
  }
}
