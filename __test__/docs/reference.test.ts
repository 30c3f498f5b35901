// The tables of docs/reference/: each lists everything in the code, and nothing else.
// src/options.rs compares the defaults of options.
import { ERROR_CODES, PresenceClient } from 'rollcall';
import { describe, expect, test } from 'vitest';
import { checkedQuotas } from '../../dist/compat/socket-quotas.js';
import { OPTION_KINDS } from '../../dist/validate.js';
import { names, readPage, rows, section } from './tables.js';

const sorted = (all: Iterable<string>) => [...all].sort();

describe('errors.md', () => {
  const page = readPage('reference/errors.md');
  const codes = [...page.matchAll(/^### `([A-Z_]+)`$/gm)].map(([, code = '']) => code);

  test('has a section for each code of the table of codes, and for no others', () => {
    expect(sorted(codes)).toEqual(sorted(ERROR_CODES));
  });

  test.each(ERROR_CODES)('%s: has its meaning and the action to take', (code) => {
    const text = section(page, `### \`${code}\``);
    expect(text).toMatch(/^\*\*Meaning:\*\* \S/m);
    expect(text).toMatch(/^\*\*What to do:\*\* \S/m);
  });

  test('codes on other pages of the reference exist', () => {
    for (const other of ['socket-protocol', 'limits', 'methods', 'options', 'events']) {
      const text = readPage(`reference/${other}.md`);
      // Codes have an underscore: other words in capitals are from Redis.
      for (const [, code] of text.matchAll(/`([A-Z]+_[A-Z_]+)`/g)) {
        if (!SETTINGS.has(code ?? '')) expect(ERROR_CODES, other).toContain(code);
      }
    }
  });
});

/** Names in capitals that are not codes. */
const SETTINGS = new Set(['ERROR_CODES', 'NODE_EXTRA_CA_CERTS']);

describe('metrics.md', () => {
  const page = readPage('reference/metrics.md');

  test('lists each field of metrics(), and each of a distribution', async () => {
    await using client = await PresenceClient.connect({ logger: {} });
    const metrics = client.metrics();
    const fields = Object.entries(metrics);
    const [distributions, numbers] = [
      fields.filter(([, value]) => typeof value === 'object'),
      fields.filter(([, value]) => typeof value === 'number'),
    ].map((list) => sorted(list.map(([name]) => name)));
    const listed = names(section(page, '## Distributions'));
    expect(sorted(listed)).toEqual(
      sorted([...(distributions ?? []), ...Object.keys(metrics.callLatencyMs)]),
    );
    expect(
      sorted([...names(section(page, '## Counters')), ...names(section(page, '## Gauges'))]),
    ).toEqual(numbers);
  });
});

describe('methods.md', () => {
  const page = readPage('reference/methods.md');

  test('lists every method of a client, of its metadata and of its locks, and no others', async () => {
    await using client = await PresenceClient.connect({ logger: {} });
    const methods = (of: object) => {
      const all = Object.getOwnPropertyNames(Object.getPrototypeOf(of));
      return all.filter((name) => name !== 'constructor');
    };
    const listed = (heading: string) =>
      rows(section(page, heading)).flatMap(([first = '']) => /^`([\w.]+)\(/.exec(first)?.[1] ?? []);
    const connect = 'PresenceClient.connect';
    expect(sorted(listed('## PresenceClient'))).toEqual(sorted([...methods(client), connect]));
    expect(sorted(listed('## metadata'))).toEqual(sorted(methods(client.metadata)));
    expect(sorted(listed('## locks'))).toEqual(sorted(methods(client.locks)));
  });
});

describe('options.md', () => {
  const page = readPage('reference/options.md');

  test('lists every option of the client once, and nothing else', () => {
    const all = (kinds: object, path = ''): string[] =>
      Object.entries(kinds).flatMap(([name, kind]) => [
        path + name,
        ...(typeof kind === 'object' && !Array.isArray(kind) ? all(kind, `${path}${name}.`) : []),
      ]);
    const options = rows(page)
      .filter((cells) => cells.length === 3)
      .map(([name = '']) => name.replaceAll('`', ''));
    expect(sorted(options)).toEqual(sorted([...all(OPTION_KINDS), 'logger']));
  });
});

describe('socket-protocol.md', () => {
  const page = readPage('reference/socket-protocol.md');

  test('lists each quota with its default', () => {
    const listed = rows(section(page, '## Quotas')).map(([name = '', value = '']) => [
      name.replaceAll('`', ''),
      Number.parseInt(value, 10) * (value.endsWith('MiB') ? 2 ** 20 : 1),
    ]);
    expect(Object.fromEntries(listed)).toEqual(checkedQuotas(undefined));
  });
});
