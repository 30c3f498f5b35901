// The demo's page: connects, joins a room, and wires the parts together. What speaks to the server
// is here and in topic.mjs; what draws is in the other files.
//
//   ?user=Ada  who you are      ?room=design  where you begin

import { addToLog } from './log.mjs';
import { People } from './people.mjs';
import { Stage } from './stage.mjs';
import { Topic } from './topic.mjs';
import { byId, colorIn, colorOf, element, showFigures } from './ui.mjs';

const NAMES = ['Ada', 'Grace', 'Linus', 'Margaret', 'Dennis', 'Barbara', 'Ken', 'Radia', 'Edsger'];
/** How often the pointer's place is sent at most. */
const CURSOR_EVERY_MS = 60;
const SAID_FOR_MS = 6000;

const query = new URLSearchParams(location.search);
const me =
  query.get('user')?.trim().slice(0, 40) || NAMES[Math.floor(Math.random() * NAMES.length)];

// A socket is in one room at a time; it is Rollcall's socket protocol that is spoken here.
const socket = globalThis.io({ transports: ['websocket'] });
const ask = (event, payload) => socket.timeout(5000).emitWithAck(event, payload);

let hello;
let room = query.get('room') ?? undefined;
/** What this tab's connection is: its id, and the epoch that its join gave it. */
let self;
let dead = false;

const people = new People(drawPeople);
const stage = new Stage(byId('stage'), byId('cursors'), (cursor) => patchSoon({ cursor }));
const topic = new Topic({ ask, say: logTopic });

async function join(roomId) {
  if (self !== undefined) {
    await ask('presence:leave');
  }
  self = undefined;
  room = roomId;
  people.expect();
  const answer = await ask('presence:join', {
    roomId,
    userId: me,
    state: { color: colorOf(me) },
  });
  if (!answer.ok) {
    addToLog('error', 'join', answer.error);
    return;
  }
  self = answer.self;
  people.reset(answer.snapshot);
  history.replaceState(
    null,
    '',
    `?user=${encodeURIComponent(me)}&room=${encodeURIComponent(room)}`,
  );
  document.title = `${me} in ${room} · Rollcall demo`;
  await topic.follow(room, me);
  drawRooms(hello?.counts ?? {});
}

/** Tells that we are here, and what has changed. Joins again where the server has given us up. */
async function beat(patchState) {
  if (self === undefined || dead || !socket.connected) {
    return;
  }
  const { epoch } = self;
  const payload = patchState === undefined ? { epoch } : { epoch, patchState };
  const answer = await ask('presence:heartbeat', payload).catch(() => undefined);
  if (answer?.ok === false && answer.code === 'CONNECTION_NOT_FOUND' && self?.epoch === epoch) {
    await join(room);
  }
}

// Patches of one moment go together: the last of each key counts.
let waiting;
function patchSoon(patch) {
  if (waiting === undefined) {
    waiting = {};
    setTimeout(() => {
      const now = waiting;
      waiting = undefined;
      beat(now);
    }, CURSOR_EVERY_MS);
  }
  Object.assign(waiting, patch);
}

socket.on('demo:hello', async (greeting) => {
  hello = greeting;
  const { node, nodes, store } = greeting;
  const where = byId('where');
  where.textContent = `${me} · server ${node} of ${nodes.length} · ${store}`;
  where.dataset.state = 'connected';
  self = undefined;
  await join(room !== undefined && greeting.rooms.includes(room) ? room : greeting.rooms[0]);
});

socket.on('disconnect', () => {
  const where = byId('where');
  where.textContent = 'connection lost; trying again';
  where.dataset.state = 'lost';
});

socket.on('presence:event', (event) => {
  if (dead || event.roomId !== room) {
    return;
  }
  const known = people.get(event.connId);
  people.apply(event);
  logPresence(event, known);
});

socket.on('metadata:event', (event) => {
  if (!dead) topic.changed(event);
});

socket.on('demo:lock', (event) => {
  if (!dead) topic.lockChanged(event);
});

socket.on('demo:figures', ({ counts, metrics }) => {
  if (dead || hello === undefined) {
    return;
  }
  hello.counts = counts;
  drawRooms(counts);
  showFigures(byId('figures'), metrics);
});

setInterval(() => beat(), 1000);

function drawRooms(counts) {
  byId('rooms').replaceChildren(
    ...(hello?.rooms ?? []).map((name) => {
      const button = element('button', { type: 'button' }, name);
      button.append(element('span', { class: 'count' }, `${counts[name] ?? 0}`));
      button.setAttribute('aria-current', `${name === room}`);
      button.addEventListener('click', () => name !== room && join(name));
      return element('li', {}, button);
    }),
  );
}

function drawPeople(entries) {
  const users = Map.groupBy?.(entries, (entry) => entry.userId) ?? group(entries);
  byId('people-count').textContent = `${users.size}`;
  byId('people').replaceChildren(
    ...[...users].map(([userId, own]) => {
      const avatar = element('span', { class: 'avatar', 'aria-hidden': 'true' }, initials(userId));
      avatar.style.setProperty('--own', colorIn(own[0].state) ?? colorOf(userId));
      const text = element('div', { class: 'who' }, userId === me ? `${userId} (you)` : userId);
      text.append(element('div', { class: 'doing' }, doing(own)));
      return element('li', { 'data-user': userId }, avatar, text);
    }),
  );
  stage.show(entries.filter((entry) => entry.connId !== self?.connId));
  const typing = [...users]
    .filter(([userId, own]) => userId !== me && own.some((entry) => entry.state?.typing))
    .map(([userId]) => userId);
  byId('typing').textContent =
    typing.length === 0 ? '' : `${typing.join(', ')} ${typing.length > 1 ? 'are' : 'is'} typing…`;
}

function group(entries) {
  const groups = new Map();
  for (const entry of entries) {
    groups.set(entry.userId, [...(groups.get(entry.userId) ?? []), entry]);
  }
  return groups;
}

function doing(own) {
  if (own.some((entry) => entry.state?.typing)) return 'typing…';
  return own.length > 1 ? `${own.length} connections` : 'here';
}

function initials(name) {
  return name
    .split(/[\s-]+/)
    .map((word) => [...word][0] ?? '')
    .slice(0, 2)
    .join('')
    .toUpperCase();
}

function logPresence(event, known) {
  if (event.type === 'leave') {
    addToLog('leave', event.userId, `left, reason ${event.reason ?? 'unknown'}`, event.ts);
  } else if (event.type === 'join') {
    addToLog('join', event.userId, 'joined', event.ts);
  } else if (event.state?.says !== undefined && event.state.says !== known?.state?.says) {
    addToLog('update', event.userId, `says “${event.state.says}”`, event.ts);
  }
}

function logTopic(who, what, ts) {
  addToLog('topic', who, what, ts);
}

const say = byId('say');
let typingEnds;
say.addEventListener('input', () => {
  clearTimeout(typingEnds);
  patchSoon({ typing: true });
  typingEnds = setTimeout(() => patchSoon({ typing: null }), 2000);
});
byId('say-form').addEventListener('submit', (submit) => {
  submit.preventDefault();
  const says = say.value.trim();
  say.value = '';
  clearTimeout(typingEnds);
  if (says === '') {
    return;
  }
  patchSoon({ typing: null, says });
  setTimeout(() => patchSoon({ says: null }), SAID_FOR_MS);
});

byId('second').addEventListener('click', () => {
  const taken = new Set(people.entries().map((entry) => entry.userId));
  const name = NAMES.find((one) => !taken.has(one)) ?? `Guest ${taken.size}`;
  // Where there are several servers, the other one: both see the same.
  const nodes = hello?.nodes ?? [location.origin];
  const base = nodes[(hello?.node ?? 1) % nodes.length];
  window.open(`${base}/?user=${encodeURIComponent(name)}&room=${encodeURIComponent(room)}`);
});

byId('kill').addEventListener('click', () => {
  // What a machine that lost its power looks like to the server: the connection stays open, and
  // nothing comes. (A closed tab is another thing: the server sees its socket close.)
  dead = true;
  byId('dead').hidden = false;
  byId('revive').focus();
});
byId('revive').addEventListener('click', () => location.reload());
