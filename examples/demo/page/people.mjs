// Who is in the room: a snapshot, and the events after it. An event with an older epoch than what is
// known of its connection is of an earlier join, and is ignored. Events that come while the snapshot
// is on its way may be of later than it, and are applied to it again.

export class People {
  #entries = new Map();
  #changed;
  #drawing = false;
  /** What has come since the snapshot was asked for; `undefined` while none is on its way. */
  #meanwhile;

  /** `changed` is given the entries, at most once a frame. */
  constructor(changed) {
    this.#changed = changed;
  }

  get(connId) {
    return this.#entries.get(connId);
  }

  entries() {
    return [...this.#entries.values()].sort((a, b) => (a.userId < b.userId ? -1 : 1));
  }

  /** A snapshot is being asked for. */
  expect() {
    this.#meanwhile = [];
  }

  reset(snapshot) {
    this.#entries = new Map(snapshot.map((entry) => [entry.connId, entry]));
    const missed = this.#meanwhile ?? [];
    this.#meanwhile = undefined;
    for (const event of missed) this.apply(event);
    this.#draw();
  }

  apply(event) {
    this.#meanwhile?.push(event);
    const { type, connId, userId, epoch, state } = event;
    const known = this.#entries.get(connId);
    if (known !== undefined && known.epoch > epoch) {
      return;
    }
    if (type === 'leave') {
      this.#entries.delete(connId);
    } else {
      this.#entries.set(connId, { connId, userId, epoch, state });
    }
    this.#draw();
  }

  #draw() {
    if (this.#drawing) {
      return;
    }
    this.#drawing = true;
    requestAnimationFrame(() => {
      this.#drawing = false;
      this.#changed(this.entries());
    });
  }
}
