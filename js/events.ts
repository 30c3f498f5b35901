// Async iteration over presence events: `for await (const event of client.events({ roomId }))`.

import { RollcallError } from './errors.js';
import type { EventsOptions, Unsubscribe } from './types.js';
import { checkCount, checkOptions, checkSignal, readFields } from './validate.js';

const DEFAULT_BUFFERED = 10_000;

/** Checks `roomId` itself. */
type Subscribe<Event> = (
  handler: (event: Event) => void,
  roomId: string | undefined,
) => Promise<Unsubscribe>;

/** Subscribes when the iteration starts, and unsubscribes when it ends in any way. */
export function iterate<Event>(
  subscribe: Subscribe<Event>,
  onClose: (ended: () => void) => () => void,
  options: EventsOptions,
): AsyncGenerator<Event, void, undefined> {
  const buffer = new Buffer<Event>();
  const events = run(buffer, subscribe, onClose, options);
  // A generator's own `return` and `throw` wait for the pending `next`, which waits for an event.
  const finish = events.return.bind(events);
  events.return = (value) => {
    buffer.end();
    return finish(value);
  };
  const fail = events.throw.bind(events);
  events.throw = (error) => {
    buffer.end();
    return fail(error);
  };
  return events;
}

/** The waiting events, and the Promise that the iteration waits for. */
class Buffer<Event> {
  ended = false;
  failure: Error | undefined;
  #events: Event[] = [];
  #wake: (() => void) | undefined;

  put(event: Event, most: number): void {
    if (this.#events.length < most) {
      this.#events.push(event);
    } else {
      this.failure ??= new RollcallError(
        'OVERLOADED',
        `${most} events wait to be taken, which is the limit (maxBuffered); ` +
          'take them faster, or subscribe to fewer rooms',
      );
    }
    this.#wake?.();
  }

  end(): void {
    this.ended = true;
    this.#wake?.();
  }

  take(): Event[] {
    const events = this.#events;
    this.#events = [];
    return events;
  }

  /** Resolves when there is an event, or when the iteration has ended. */
  async filled(): Promise<void> {
    if (this.#events.length === 0 && !this.ended && this.failure === undefined) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
      this.#wake = undefined;
    }
  }
}

async function* run<Event>(
  buffer: Buffer<Event>,
  subscribe: Subscribe<Event>,
  onClose: (ended: () => void) => () => void,
  options: EventsOptions,
): AsyncGenerator<Event, void, undefined> {
  checkOptions('events', options);
  const {
    roomId,
    signal,
    maxBuffered = DEFAULT_BUFFERED,
  } = readFields('events', options, ['roomId', 'signal', 'maxBuffered']);
  checkSignal('signal', signal);
  checkCount('maxBuffered', maxBuffered);
  if (signal?.aborted) {
    return;
  }
  const end = () => buffer.end();
  signal?.addEventListener('abort', end, { once: true });
  const forget = onClose(end);
  let unsubscribe: Unsubscribe | undefined;
  try {
    unsubscribe = await subscribe(
      (event) => buffer.put(event, maxBuffered),
      roomId as string | undefined,
    );
    while (!buffer.ended) {
      for (const event of buffer.take()) {
        yield event;
        if (buffer.ended) {
          return;
        }
      }
      if (buffer.failure !== undefined) {
        throw buffer.failure;
      }
      await buffer.filled();
    }
  } finally {
    signal?.removeEventListener('abort', end);
    forget();
    await unsubscribe?.();
  }
}
