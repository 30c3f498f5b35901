// The corpus: states of collaborative editing, generated from a seed. There are four kinds, with 1
// to 100 KB of JSON each. Data that are random in practice (ids, coordinates, typed text) are
// random here too, so that compression ratios are realistic.

// mulberry32: the same numbers in every run and every process.
function numbers(seed) {
  let a = seed;
  const next = () => {
    a = (a + 0x6d2b79f5) | 0;
    let t = Math.imul(a ^ (a >>> 15), 1 | a);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
  const int = (from, to) => from + Math.floor(next() * (to - from + 1));
  const pick = (list) => list[int(0, list.length - 1)];
  const text = (alphabet, length) => Array.from({ length }, () => pick(alphabet)).join('');
  return {
    next,
    int,
    pick,
    /** Ids in the format of `nanoid`. */
    id: (length = 21) => text(LETTERS, length),
    hex: (length) => text('0123456789abcdef', length),
    decimal: (from, to, digits) => Number((from + next() * (to - from)).toFixed(digits)),
    /** Words with a realistic frequency distribution: a few are frequent, most are rare. */
    words: (count) =>
      Array.from({ length: count }, () => WORDS[Math.floor(next() ** 2 * WORDS.length)]).join(' '),
    chance: (probability) => next() < probability,
  };
}

const LETTERS = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-';
const WORDS =
  `the of and to a in for is on that by this with you it not or be are from at as your all have new
  more an was we will home can us about if page my has search free but our one other do no
  information time they site he up may what which their news out use any there see only so his when
  contact here business who web also now help get view online first been would how were services
  some these click its like service than find price date back top people list name just over state
  year day into email two health world next used go work last most products music buy data make them
  should product system post her city add policy number such please available copyright support
  message after best software then good video well where info rights public books high school
  through each links she review years order very privacy book items company read group need many
  user said does set under general research university mail full map reviews program life know games
  way days management part could great united hotel real item international center must store travel
  comments made development report off member details line terms before hotels did send right type
  because local those using results office education national car design take posted internet
  address community within states area want phone shipping reserved subject between forum family long
  based code show even black check special prices website index being women much sign file link open
  today technology south case project same pages version section own found sports house related
  security both county american photo game members power while care network down computer systems
  three total place end following download him without per access think north resources current posts
  big media law control water history pictures size art personal since including guide shop
  directory board location change white text small rating rate government children during return
  students shopping account times sites level digital profile previous form events love old john main
  call hours image department title description insurance another why shall property class still
  money quality every listing content country private little visit save tools low reply customer
  december compare movies include college value article york man card jobs provide food source author
  different press learn sale around print course job canada process teen room stock training too
  credit point join science men categories advanced west sales look english left team estate box
  conditions select windows photos thread week category note live large gallery table register
  however june october november market library really action start series model features air industry
  plan human provided required second accessories cost movie forums march september better say
  questions july going medical test friend come server study application cart staff articles san
  feedback again play looking issues april never users complete street topic comment financial things
  working against standard tax person below mobile less got party payment equipment login student let
  programs offers legal above recent park stores side act problem red give memory performance social
  august quote language story sell options experience rates create key body young america important
  field few east paper single age activities club example girls additional password latest something
  road gift question changes night hard texas october pay four poker status browse issue range
  building seller court february always result audio light write war offer blue groups easy given
  files event release analysis request china making picture needs possible might professional yet
  month major star areas future space committee hand sun cards problems london washington meeting rss
  become interest id child keep enter california share similar garden schools million added reference
  companies listed baby learning energy run delivery net popular term film stories put computers
  journal reports try welcome central images president notice god original head radio until cell
  color self council away includes track australia discussion archive once others entertainment
  agreement format least society months safety friends sure trade edition cars messages marketing
  tell further updated association able having provides david fun already green studies close common
  drive specific several gold feb living collection called short arts lot ask display limited powered
  solutions means director daily beach past natural whether due electronics five upon period planning
  database says official weather mar land average done technical window france pro region island
  record direct conference environment records district calendar costs style front statement update
  parts ever downloads early miles sound resource present applications either ago document word works
  material bill written talk federal hosting rules final adult tickets thing centre requirements via
  cheap kids finance true minutes else mark third rock gifts europe reading topics bad individual tips
  plus auto cover usually edit together videos percent fast function fact unit getting global tech
  meet far economic en player projects lyrics often subscribe submit germany amount watch included
  feel though bank risk thanks everything deals various words production commercial james weight town
  heart advertising received choose treatment newsletter archives points knowledge magazine error
  camera girl currently construction toys registered clear golf receive domain methods chapter makes
  protection policies loan wide beauty manager india position taken sort models michael known half
  cases step engineering florida simple quick none wireless license paul friday lake whole annual
  published later basic sony shows corporate google church method purchase customers active response
  practice hardware figure materials fire holiday chat enough designed along among death writing
  speed html countries loss face brand discount higher effects created remember standards oil bit
  yellow political increase advertise kingdom base near environmental thought stuff french storage`
    .split(/\s+/)
    .filter((word) => word.length > 0);
const NAMES = [
  'Ada',
  'Björn',
  'Chloé',
  'Dmitri',
  'Elif',
  'Fatima',
  'Goro',
  'Hana',
  'Ines',
  'Jamal',
];
const COLORS = ['#e03131', '#2f9e44', '#1971c2', '#f08c00', '#1e1e1e', '#862e9c', '#0c8599'];

/** A text editor: the cursor, selections over blocks, and a trail of recent positions. */
function cursors(seed, bytes) {
  const r = numbers(seed);
  const blocks = Array.from({ length: 40 }, () => r.id(10));
  const position = () => ({ block: r.pick(blocks), offset: r.int(0, 400) });
  const state = {
    user: { name: r.pick(NAMES), color: r.pick(COLORS) },
    mode: 'edit',
    cursor: position(),
    viewport: { top: r.decimal(0, 20_000, 1), height: 913, scale: 1 },
    typing: true,
    selections: [],
    trail: [],
    comments: {},
  };
  let t = 1_760_000_000_000 + r.int(0, 1e9);
  return filled(state, bytes, () => {
    state.selections.push({
      anchor: position(),
      head: position(),
      direction: r.pick(['forward', 'backward']),
    });
    for (let i = 0; i < 3; i++) {
      t += r.int(15, 400);
      state.trail.push({ x: r.decimal(0, 1600, 2), y: r.decimal(0, 20_000, 2), t });
    }
    if (r.chance(0.2)) {
      state.comments[r.id(10)] = { at: position(), draft: r.words(r.int(3, 25)), resolved: false };
    }
  });
}

/** A drawing: the elements that this connection edits, in the format of Excalidraw or tldraw. */
function canvas(seed, bytes) {
  const r = numbers(seed);
  const state = {
    tool: 'freedraw',
    camera: { x: r.decimal(-500, 500, 3), y: r.decimal(-500, 500, 3), zoom: 0.8 },
    selected: {},
    pointer: { x: r.decimal(0, 1600, 2), y: r.decimal(0, 900, 2), button: 'down' },
    elements: [],
  };
  return filled(state, bytes, () => {
    const id = r.id();
    const type = r.pick(['rectangle', 'ellipse', 'arrow', 'text', 'freedraw']);
    const element = {
      id,
      type,
      x: r.decimal(-2000, 2000, 6),
      y: r.decimal(-2000, 2000, 6),
      width: r.decimal(5, 800, 6),
      height: r.decimal(5, 500, 6),
      angle: 0,
      strokeColor: r.pick(COLORS),
      backgroundColor: r.chance(0.6) ? 'transparent' : r.pick(COLORS),
      fillStyle: 'solid',
      strokeWidth: r.pick([1, 2, 4]),
      strokeStyle: 'solid',
      roughness: 1,
      opacity: 100,
      groupIds: r.chance(0.3) ? [r.id()] : [],
      frameId: null,
      roundness: { type: 3 },
      seed: r.int(1, 2 ** 31 - 1),
      version: r.int(1, 400),
      versionNonce: r.int(1, 2 ** 31 - 1),
      isDeleted: false,
      boundElements: null,
      updated: 1_760_000_000_000 + r.int(0, 1e9),
      link: null,
      locked: false,
    };
    if (type === 'text')
      Object.assign(element, {
        text: r.words(r.int(2, 20)),
        fontSize: 20,
        fontFamily: 5,
        textAlign: 'left',
      });
    if (type === 'freedraw' || type === 'arrow') {
      let [x, y] = [0, 0];
      element.points = Array.from({ length: r.int(2, 25) }, () => {
        x += r.decimal(-8, 12, 4);
        y += r.decimal(-8, 8, 4);
        return [Number(x.toFixed(4)), Number(y.toFixed(4))];
      });
    }
    state.elements.push(element);
    if (r.chance(0.1)) state.selected[id] = true;
  });
}

/** A form that several people fill in: field values, the last editor of each field, and errors. */
function form(seed, bytes) {
  const r = numbers(seed);
  const users = Array.from({ length: 5 }, () => r.id(20));
  const state = {
    formId: `${r.hex(8)}-${r.hex(4)}-4${r.hex(3)}-a${r.hex(3)}-${r.hex(12)}`,
    step: 2,
    focused: null,
    fields: {},
  };
  let n = 0;
  return filled(state, bytes, () => {
    const name = `${r.pick(['applicant', 'address', 'employment', 'income', 'contact'])}.${r.words(1)}_${n++}`;
    const kind = r.int(0, 3);
    state.focused = name;
    state.fields[name] = {
      value:
        kind === 0
          ? r.words(r.int(1, 30))
          : kind === 1
            ? r.int(0, 100_000)
            : kind === 2
              ? r.chance(0.5)
              : `20${r.int(10, 26)}-0${r.int(1, 9)}-${r.int(10, 28)}`,
      touched: r.chance(0.7),
      dirty: r.chance(0.4),
      valid: r.chance(0.9),
      errors: r.chance(0.1) ? [{ code: 'required', message: 'This field is required' }] : [],
      lastEditedBy: r.pick(users),
      lastEditedAt: new Date(1_760_000_000_000 + r.int(0, 1e9)).toISOString(),
    };
  });
}

/** A user profile and device capabilities: the smallest kind, with the fewest repetitions. */
function profile(seed, bytes) {
  const r = numbers(seed);
  const state = {
    displayName: `${r.pick(NAMES)} ${r.words(1)}`,
    avatarUrl: `https://cdn.example.com/avatars/${r.hex(32)}.webp?size=128`,
    locale: 'en-GB',
    timeZone: 'Europe/Berlin',
    status: {
      text: r.words(6),
      emoji: '🌴',
      until: new Date(1_760_000_000_000 + r.int(0, 1e9)).toISOString(),
    },
    device: {
      id: r.id(),
      userAgent:
        'Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36',
      screen: { width: 1728, height: 1117, pixelRatio: 2 },
      network: { effectiveType: '4g', downlink: r.decimal(1, 10, 2), rtt: 50 },
    },
    media: { microphone: true, camera: false, screen: false, volume: r.decimal(0, 1, 3) },
    permissions: ['room.read', 'room.write', 'room.comment', 'media.publish', 'media.subscribe'],
    teams: [],
  };
  return filled(state, bytes, () => {
    state.teams.push({
      id: r.id(),
      name: r.words(2),
      role: r.pick(['owner', 'admin', 'member', 'guest']),
      joinedAt: new Date(1_700_000_000_000 + r.int(0, 6e10)).toISOString(),
      unread: r.int(0, 120),
    });
  });
}

/** Adds to the state until it has the requested size. */
function filled(state, bytes, add) {
  while (Buffer.byteLength(JSON.stringify(state)) < bytes) add();
  return state;
}

/** The generator and the approximate sizes (bytes of JSON) of each kind. */
export const KINDS = {
  cursors: { make: cursors, sizes: [2_000, 5_000, 10_000, 30_000] },
  canvas: { make: canvas, sizes: [5_000, 20_000, 60_000, 100_000] },
  form: { make: form, sizes: [3_000, 10_000, 30_000, 60_000] },
  profile: { make: profile, sizes: [1_500, 2_000, 3_000, 5_000] },
};

const EACH = 3;

/** The states of a kind: three of each size, the same in every run. */
export function statesOf(kind) {
  const { make, sizes } = KINDS[kind];
  return sizes.flatMap((size, i) =>
    Array.from({ length: EACH }, (_, j) => make(1 + 101 * i + 7919 * j + kind.length, size)),
  );
}

/** Other states of a kind, for training: none of them is in {@link statesOf}. */
export function samplesOf(kind, count) {
  const { make, sizes } = KINDS[kind];
  return Array.from({ length: count }, (_, i) => make(1_000_003 + 7 * i, sizes[i % sizes.length]));
}

/** One canvas of about `bytes` bytes. */
export function canvasOf(bytes, seed = 1) {
  return canvas(seed, bytes);
}
