// A subscriber's view of some rooms: a snapshot and the later events, as in
// docs/guide/lists-of-members.md, and a new snapshot after `resync`.
import type { PresenceClient, PresenceEvent } from 'rollcall';
import { eventually } from '../support/wait.js';

// biome-ignore lint/suspicious/noExplicitAny: states of any kind
type Client = PresenceClient<any>;
type Event = PresenceEvent<unknown>;

interface Seen {
  userId: string;
  epoch: number;
  state: unknown;
}

export class View {
  readonly #client: Client;
  readonly #rooms = new Map<string, Map<string, Seen>>();
  /** Events that arrived while a snapshot was read: they may be newer than the snapshot. */
  #waiting: Event[] | undefined;
  #fetching: Promise<void> | undefined;
  #stale = false;
  /** The number of `resync` events. */
  resyncs = 0;
  events = 0;

  /** Only {@link follow} creates views. */
  constructor(client: Client, rooms: readonly string[]) {
    this.#client = client;
    for (const room of rooms) this.#rooms.set(room, new Map());
  }

  async start(): Promise<void> {
    this.#client.on('resync', () => {
      this.resyncs += 1;
      this.#refetch();
    });
    await this.#client.subscribe((event: Event) => {
      this.events += 1;
      if (this.#waiting) this.#waiting.push(event);
      else this.#apply(event);
    });
    await eventually(async () => {
      this.#refetch();
      await this.#fetching;
      return !this.#waiting;
    });
  }

  /** The view as sorted text. */
  describe(): string[] {
    const lines: string[] = [];
    for (const [room, conns] of this.#rooms) {
      for (const [conn, { userId, epoch, state }] of conns) {
        lines.push(line(room, conn, userId, epoch, state));
      }
    }
    return lines.sort();
  }

  #refetch(): void {
    this.#stale = true;
    // Events from before the gap are older than the snapshot that is read now.
    this.#waiting = [];
    this.#fetching ??= this.#fetch().finally(() => {
      this.#fetching = undefined;
    });
  }

  async #fetch(): Promise<void> {
    while (this.#stale) {
      this.#stale = false;
      try {
        const rooms = [...this.#rooms.keys()];
        const snapshots = await Promise.all(
          rooms.map((room) => this.#client.fetchRoomSnapshot(room)),
        );
        for (const [i, room] of rooms.entries()) {
          const conns = snapshots[i]?.map(({ connId, userId, epoch, state }) => {
            return [connId, { userId, epoch, state }] as const;
          });
          this.#rooms.set(room, new Map(conns));
        }
      } catch {
        // Redis is down (again): an application would also retry.
        if (this.#client.metrics().pendingCalls === undefined) return;
        this.#stale = true;
        await new Promise((resolve) => setTimeout(resolve, 20));
      }
    }
    const waiting = this.#waiting ?? [];
    this.#waiting = undefined;
    for (const event of waiting) this.#apply(event);
  }

  #apply({ type, roomId, connId, userId, epoch, state }: Event): void {
    const room = this.#rooms.get(roomId);
    const known = room?.get(connId);
    if (!room || (known && known.epoch > epoch)) return;
    if (type === 'leave') room.delete(connId);
    else room.set(connId, { userId, epoch, state });
  }
}

export function line(
  room: string,
  conn: string,
  user: string,
  epoch: number,
  state: unknown,
): string {
  return `${room} ${conn} ${user} ${epoch} ${JSON.stringify(state)}`;
}

/** A client's view of rooms, complete when the Promise resolves. */
export async function follow(client: Client, rooms: readonly string[]): Promise<View> {
  const view = new View(client, rooms);
  await view.start();
  return view;
}
