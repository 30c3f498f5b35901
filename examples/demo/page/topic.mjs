// The room's topic: one item of its channel's metadata, edited by compare-and-set, so that of two
// who save at once one is told; and a lock on it, which the server checks with the write.

import { byId } from './ui.mjs';

const CHANNEL = 'demo';
const ITEM = 'topic';

export class Topic {
  #ask;
  #say;
  #room;
  #me;
  /** What is stored, as far as we know. */
  #stored = { value: '', revision: 0, author: undefined };
  /** The revision that was shown when the user began to edit; `undefined` while nobody edits. */
  #base;
  #lock;
  #countdown;

  constructor({ ask, say }) {
    this.#ask = ask;
    this.#say = say;
    byId('topic').addEventListener('input', () => this.#edited());
    byId('topic-form').addEventListener('submit', (event) => {
      event.preventDefault();
      this.#save(byId('topic').value, this.#base ?? this.#stored.revision);
    });
    byId('lock').addEventListener('click', () => this.#toggleLock());
    byId('keep-theirs').addEventListener('click', () => this.#settle());
    byId('use-mine').addEventListener('click', () =>
      this.#save(byId('mine').textContent, this.#stored.revision),
    );
  }

  async follow(room, me) {
    this.#room = room;
    this.#me = me;
    const [record, lock] = await Promise.all([this.#read(), this.#ask('demo:lock', 'look')]);
    if (room !== this.#room) {
      return;
    }
    this.#take(record.majorRevision, record.metadata?.[ITEM]);
    this.#settle();
    this.#showLock(lock.ok ? lock.lock : null);
  }

  /** A `metadata:event`. */
  changed({ channelName, items, majorRevision, authorUid, timestamp }) {
    const item = items.find(({ key }) => key === ITEM);
    if (channelName !== this.#room || item === undefined) {
      return;
    }
    if (majorRevision > this.#stored.revision) {
      this.#take(majorRevision, { value: item.value, authorUid });
    }
    this.#say(authorUid ?? 'Somebody', `changed the topic (rev ${majorRevision})`, timestamp);
  }

  /** A lock event of the server, `{ room, type, lock }`. */
  lockChanged({ room, type, lock, ownerId }) {
    if (room !== this.#room) {
      return;
    }
    this.#say(ownerId, `topic lock ${type}`);
    this.#showLock(lock);
  }

  #read() {
    return this.#ask('metadata:getChannel', { channelType: CHANNEL, channelName: this.#room });
  }

  #take(revision, item) {
    this.#stored = { value: item?.value ?? '', revision, author: item?.authorUid };
    byId('revision').textContent = `rev ${revision}`;
    if (this.#base === undefined) {
      byId('topic').value = this.#stored.value;
    } else if (this.#base < revision) {
      this.#note(
        `${this.#stored.author ?? 'Somebody'} has changed it while you are writing`,
        'warn',
      );
    }
  }

  #edited() {
    this.#base ??= this.#stored.revision;
    byId('save').disabled = false;
  }

  async #save(value, majorRevision) {
    const payload = {
      channelType: CHANNEL,
      channelName: this.#room,
      data: [{ key: ITEM, value }],
      options: { majorRevision, addTimestamp: true, addUserId: true },
    };
    // While somebody holds the lock, the write says so, and is refused if it is somebody else.
    if (this.#lock) payload.options.lockName = `topic:${this.#room}`;
    byId('save').disabled = true;
    const answer = await this.#ask('metadata:updateChannel', payload);
    if (answer.ok) {
      this.#take(answer.majorRevision, answer.metadata[ITEM]);
      this.#settle();
      this.#note('Saved', 'info');
    } else if (answer.code === 'METADATA_CONFLICT') {
      const record = await this.#read();
      this.#take(record.majorRevision, record.metadata?.[ITEM]);
      this.#showConflict(value);
    } else {
      byId('save').disabled = false;
      this.#note(answer.error, 'warn');
    }
  }

  #showConflict(mine) {
    byId('theirs-by').textContent =
      `${this.#stored.author ?? 'Theirs'}, rev ${this.#stored.revision}`;
    byId('theirs').textContent = this.#stored.value;
    byId('mine').textContent = mine;
    byId('conflict').hidden = false;
    byId('use-mine').focus();
    this.#note('', 'info');
  }

  /** Nothing is being edited any more: what is stored is shown. */
  #settle() {
    this.#base = undefined;
    byId('conflict').hidden = true;
    byId('save').disabled = true;
    byId('topic').value = this.#stored.value;
    this.#note('', 'info');
  }

  async #toggleLock() {
    const answer = await this.#ask('demo:lock', this.#lock?.mine ? 'release' : 'acquire');
    if (answer.ok) this.#showLock(answer.lock);
    else this.#note(answer.error, 'warn');
  }

  #showLock(lock) {
    clearInterval(this.#countdown);
    this.#lock = lock && {
      ownerId: lock.ownerId,
      mine: lock.ownerId === this.#me,
      until: performance.now() + lock.msLeft,
    };
    this.#drawLock();
    if (this.#lock) this.#countdown = setInterval(() => this.#drawLock(), 200);
  }

  #drawLock() {
    const seconds = this.#lock ? Math.ceil((this.#lock.until - performance.now()) / 1000) : 0;
    if (this.#lock && seconds <= 0) {
      clearInterval(this.#countdown);
      this.#lock = null;
    }
    const button = byId('lock');
    const theirs = this.#lock && !this.#lock.mine;
    button.disabled = Boolean(theirs);
    button.textContent = this.#lock
      ? theirs
        ? `Locked by ${this.#lock.ownerId}, ${seconds} s`
        : `Unlock (${seconds} s)`
      : 'Lock for 15 s';
  }

  #note(text, kind) {
    const note = byId('topic-note');
    note.textContent = text;
    note.dataset.kind = kind;
  }
}
