// Load on a cluster during failures: connections send heartbeats and move, and channels change
// their metadata. Records every acknowledged change and every received event.
import { setTimeout as delay } from 'node:timers/promises';
import { PresenceClient, type PresenceEvent } from 'rollcall';
import type { Random } from '../support/random.js';
import { deferred, eventually } from '../support/wait.js';

interface Place {
  roomId: string;
  epoch: number;
}

export interface LoadOptions {
  url: string;
  random: Random;
  connections?: number;
  rooms?: number;
  /** Default 600 000: longer than any test. */
  ttlMs?: number;
  layout?: 'v1' | 'slotted';
  /** Default 2000. */
  commandTimeoutMs?: number;
}

const CLIENT = { logger: {}, fallbackSweepMs: 500 };

/** Number of channels whose metadata are written. */
const CHANNELS = 4;

/** Error codes that are accepted while a master is down. */
const OF_THE_SERVER = ['UNAVAILABLE', 'TIMEOUT'];

export class Load implements AsyncDisposable {
  /** The acknowledged place of each connection; `undefined` if the outcome is unknown. */
  readonly places = new Map<string, Place | undefined>();
  readonly errors: { code: string; outcome?: string; message: string }[] = [];
  /** Connections that were acknowledged but are missing afterwards. */
  lost = 0;
  calls = 0;
  resyncs = 0;
  readonly seen: PresenceEvent[] = [];
  /** The newest acknowledged revision of each channel. */
  readonly revisions = new Map<string, number>();
  /**
   * For each value of a channel, the events with it, by revision and time. Each value is written
   * once.
   */
  readonly eventsByValue = new Map<string, string[]>();

  #running: Promise<unknown> = Promise.resolve();
  #stopped = false;
  #inFlight = 0;
  /** Calls wait for it. */
  #gate: Promise<void> = Promise.resolve();

  private constructor(
    readonly client: PresenceClient,
    readonly watcher: PresenceClient,
    private readonly options: Required<Omit<LoadOptions, 'layout'>>,
  ) {}

  static async start(options: LoadOptions): Promise<Load> {
    const all = { connections: 40, rooms: 12, ttlMs: 600_000, commandTimeoutMs: 2_000, ...options };
    // A failover may have lost the last writes: the first check after it detects that.
    const { url, ttlMs, layout, commandTimeoutMs } = all;
    const of = { ...CLIENT, url, ttlMs, layout, limits: { commandTimeoutMs } };
    const connect = () => PresenceClient.connect(JSON.parse(JSON.stringify(of)));
    const load = new Load(await connect(), await connect(), all);
    load.watcher.on('resync', () => {
      load.resyncs++;
    });
    await load.watcher.subscribe((event) => {
      load.seen.push(event);
    });
    await load.watcher.metadata.subscribe(({ items, majorRevision, timestamp }) => {
      for (const { value = '' } of items) {
        const changes = load.eventsByValue.get(value) ?? [];
        load.eventsByValue.set(value, [...changes, `${majorRevision} at ${timestamp}`]);
      }
    });
    const { connections } = all;
    for (let i = 0; i < connections; i++) await load.#join(`c${i}`);
    load.#running = Promise.all([
      ...[...load.places.keys()].map((conn) => load.#lane(conn)),
      ...Array.from({ length: CHANNELS }, (_, i) => load.#writer(`ch${i}`)),
    ]);
    return load;
  }

  /** Runs a check while no call is in flight. */
  async whileIdle<T>(check: () => Promise<T>): Promise<T> {
    const gate = deferred();
    this.#gate = gate.promise;
    try {
      await eventually(() => this.#inFlight === 0, { timeoutMs: 10_000 });
      return await check();
    } finally {
      gate.resolve();
    }
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    await this.#running;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
    await Promise.all([this.client.close(), this.watcher.close()]);
  }

  async #lane(connId: string): Promise<void> {
    const { random } = this.options;
    while (!this.#stopped) {
      const place = this.places.get(connId);
      if (!place || random.chance(0.2)) await this.#join(connId);
      else await this.#heartbeat(connId, place, random.chance(0.3));
      await delay(random.int(1, 10));
    }
  }

  /** The only writer of that channel; makes one change after the other. */
  async #writer(channelName: string): Promise<void> {
    const { random } = this.options;
    for (let i = 0; !this.#stopped; i++) {
      const value = `${channelName} ${i}`;
      await this.#call(async () => {
        const data = [{ key: 'k', value }];
        const channel = { channelType: 'load', channelName };
        const { majorRevision } = await this.client.metadata.set({ ...channel, data });
        this.revisions.set(channelName, majorRevision);
      });
      await delay(random.int(5, 30));
    }
  }

  async #join(connId: string): Promise<void> {
    const roomId = `r${this.options.random.int(0, this.options.rooms - 1)}`;
    await this.#call(async () => {
      const { epoch } = await this.client.join({
        roomId,
        userId: `u-${connId}`,
        connId,
        snapshot: false,
      });
      this.places.set(connId, { roomId, epoch });
    }, connId);
  }

  async #heartbeat(connId: string, { epoch }: Place, patch: boolean): Promise<void> {
    const patchState = patch ? { n: this.options.random.int(0, 1000) } : undefined;
    await this.#call(async () => {
      await this.client.heartbeat({ connId, epoch, ...(patchState && { patchState }) });
    }, connId);
  }

  async #call(run: () => Promise<void>, connId = ''): Promise<void> {
    await this.#gate;
    this.calls++;
    this.#inFlight++;
    try {
      await run();
    } catch (error) {
      const { code, outcome, message } = error as {
        code: string;
        outcome?: string;
        message: string;
      };
      if (OF_THE_SERVER.includes(code)) {
        this.errors.push({ code, message, ...(outcome && { outcome }) });
        if (outcome === 'unknown') this.places.set(connId, undefined);
      } else if (code === 'CONNECTION_NOT_FOUND' || code === 'STALE_EPOCH') {
        // A failover lost the connection, or a call of unknown outcome was applied in part.
        if (this.places.get(connId)) this.lost++;
        this.places.set(connId, undefined);
      } else {
        throw error;
      }
    } finally {
      this.#inFlight--;
    }
  }
}
