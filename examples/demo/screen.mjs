// How the demo looks: on a terminal one picture that is drawn anew, elsewhere (a file, a pipe, a CI
// log) lines one after the other. At most 80 columns either way.
const WIDTH = 80;
const HALF = Math.floor((WIDTH - 3) / 2);
/** Rows of the table and of the events: the picture must fit into a terminal of 24 rows. */
const PEOPLE = 6;
const EVENTS = 8;
/** How often lines show the table, at most. */
const TABLE_EVERY_MS = 3500;

const useColour = !process.env.NO_COLOR && process.stdout.isTTY;
const paint = (code) => (text) => (useColour ? `\x1b[${code}m${text}\x1b[0m` : text);
const bold = paint(1);
const dim = paint(2);
const red = paint(31);
const green = paint(32);
const yellow = paint(33);
const cyan = paint(36);
const COLOUR = { join: green, update: cyan, leave: red };

/** Cut or filled to a width. The texts of the demo have one column for each character. */
function toWidth(text, width) {
  return text.length > width ? `${text.slice(0, width - 1)}…` : text.padEnd(width);
}

function seconds(ms) {
  return `${(ms / 1000).toFixed(1)} s`;
}

function stateText(state) {
  return Object.entries(state ?? {})
    .map(([key, value]) => `${key}: ${typeof value === 'string' ? value : JSON.stringify(value)}`)
    .join(', ');
}

function eventText({ type, reason, roomId, connId, state }) {
  const what = type === 'leave' ? reason : stateText(state);
  return `${type.padEnd(6)} ${roomId.padEnd(6)} ${connId.padEnd(8)} ${what}`;
}

/** The table, one line for each connection; a room's name stands at its first. */
function tableLines(people, silentFromMs) {
  const head = `${toWidth('ROOM', 8)}${toWidth('USER', 6)}${toWidth('CONNECTION', 12)}${toWidth('STATE', 39)}LAST HEARD OF`;
  const lines = people.map((entry, index) => {
    const first = people[index - 1]?.roomId !== entry.roomId;
    const age = `${seconds(entry.ageMs)} ago`;
    const silent = entry.ageMs > silentFromMs;
    return (
      bold(toWidth(first ? entry.roomId : '', 8)) +
      toWidth(entry.userId, 6) +
      dim(toWidth(entry.connId, 12)) +
      toWidth(stateText(entry.state), 39) +
      (silent ? yellow(`${age} !`) : age)
    );
  });
  return [dim(head), ...(lines.length === 0 ? [dim('(nobody)')] : lines)];
}

/** What both forms share: what to show. */
class Screen {
  constructor({ title, silentFromMs }) {
    this.title = title;
    this.silentFromMs = silentFromMs;
    this.began = Date.now();
  }

  clock() {
    return seconds(Date.now() - this.began).padStart(6);
  }
}

/** For a terminal. */
class Picture extends Screen {
  #drawn = 0;
  #people = [];
  #said = ['', ''];
  #events = { A: [], B: [] };

  event(server, event) {
    this.#events[server].push(`${this.clock()} ${eventText(event)}`);
    this.#events[server].splice(0, this.#events[server].length - EVENTS);
    this.#draw();
  }

  say(text) {
    this.#said = [this.#said[1], text];
    this.#draw();
  }

  people(people) {
    this.#people = people;
    this.#draw();
  }

  end(lines) {
    this.#draw();
    process.stdout.write(`\n${lines.join('\n')}\n`);
    this.restore();
  }

  restore() {
    process.stdout.write('\x1b[?25h');
  }

  #draw() {
    const table = tableLines(this.#people, this.silentFromMs).slice(0, PEOPLE + 1);
    while (table.length < PEOPLE + 1) table.push('');
    const { A, B } = this.#events;
    const rows = Array.from({ length: EVENTS }, (_, at) => {
      const [left, right] = [A[at] ?? '', B[at] ?? ''];
      return `${coloured(toWidth(left, HALF))}${dim(' │ ')}${coloured(toWidth(right, HALF))}`;
    });
    const [before, now] = this.#said;
    const lines = [
      bold(toWidth(this.title, WIDTH - 8)) + dim(this.clock()),
      '',
      ...table,
      '',
      dim(toWidth(before && `  ${before}`, WIDTH)),
      yellow(toWidth(now && `▸ ${now}`, WIDTH)),
      '',
      `${bold(toWidth('What server A sees', HALF))}${dim(' │ ')}${bold(toWidth('What server B sees', HALF))}`,
      dim(`${'─'.repeat(HALF + 1)}┼${'─'.repeat(HALF + 1)}`),
      ...rows,
    ];
    const up = this.#drawn === 0 ? '\x1b[?25l' : `\x1b[${this.#drawn}A`;
    process.stdout.write(`${up}\r${lines.map((line) => `${line}\x1b[K\n`).join('')}`);
    this.#drawn = lines.length;
  }
}

function coloured(line) {
  const type = /\b(join|update|leave)\b/.exec(line)?.[1];
  return type === undefined ? line : COLOUR[type](line);
}

/** For anything else: every event once for each server, in that server's column. */
class Lines extends Screen {
  #shape = '';
  #tableAt = Date.now();

  constructor(options) {
    super(options);
    this.#print(this.title);
  }

  event(server, event) {
    const text = toWidth(`${server} ${eventText(event)}`, HALF - 4);
    const [left, right] = server === 'A' ? [text, ''] : [' '.repeat(text.length), text];
    this.#print(`${this.clock()} ${left} │ ${right}`);
  }

  say(text) {
    this.#print(`${this.clock()} ▸ ${text}`);
  }

  /** Now and then, and only when something in it has changed. */
  people(people) {
    const shape = JSON.stringify(
      people.map(({ roomId, connId, state }) => [roomId, connId, state]),
    );
    if (shape === this.#shape || Date.now() - this.#tableAt < TABLE_EVERY_MS) return;
    this.#shape = shape;
    this.#tableAt = Date.now();
    for (const line of tableLines(people, this.silentFromMs)) this.#print(line);
  }

  end(lines) {
    for (const line of ['', ...lines]) this.#print(line);
  }

  restore() {}

  #print(line) {
    process.stdout.write(`${line.trimEnd()}\n`);
  }
}

/** @param {{ title: string, silentFromMs: number }} options */
export function openScreen(options) {
  return process.stdout.isTTY ? new Picture(options) : new Lines(options);
}
