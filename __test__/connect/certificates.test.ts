// TLS accepts the certificates that Node.js accepts with an explicit `ca`, and refuses the rest at
// once with the reason (spec 20). A real server shows each kind of certificate; the first test of a
// kind asks Node.js itself.
import { writeFileSync } from 'node:fs';
import path from 'node:path';
import { connect as connectTls } from 'node:tls';
import { PresenceClient } from 'rollcall';
import { describe, expect, test } from 'vitest';
import { openClient, rejection } from '../support/clients.js';
import { startFixture } from '../support/process.js';
import { startProxy } from '../support/proxy.js';
import { type RedisServer, startRedis } from '../support/redis.js';
import { certificates, opensslCertificates } from '../support/tls.js';

const IDS = { roomId: 'r', userId: 'u', connId: 'c' };
const SAN = 'subjectAltName=DNS:localhost,IP:127.0.0.1';
/** URL with a host name: a certificate without other names never matches an address. */
const byName = ({ url }: RedisServer) => url.replace('127.0.0.1', 'localhost');

/** Whether Node.js accepts the certificate that a server shows. */
function nodeAccepts(server: RedisServer, ca: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connectTls({ host: 'localhost', port: server.port, ca }, () => {
      socket.destroy();
      resolve(true);
    });
    socket.once('error', () => resolve(false));
  });
}

const SERVER_AUTH = 'extendedKeyUsage=serverAuth';
const ACCEPTED: [string, Parameters<typeof opensslCertificates>[0]][] = [
  ['a self-signed certificate that is the given ca', { selfSigned: true, extensions: [SAN] }],
  ['the same, with its name in CN only', { selfSigned: true }],
  [
    'the same, marked as an authority',
    { selfSigned: true, extensions: [SAN, 'basicConstraints=critical,CA:TRUE'] },
  ],
  ['P-521', { curve: 'secp521r1', extensions: [SAN] }],
  ['P-521, self-signed', { curve: 'secp521r1', selfSigned: true, extensions: [SAN] }],
  ['X.509 version 1, with a name in CN only', {}],
  ['X.509 version 1, P-521', { curve: 'secp521r1' }],
  ['a name in CN only', { extensions: ['basicConstraints=CA:FALSE', SERVER_AUTH] }],
  ['a server that is marked as an authority', { extensions: ['basicConstraints=CA:TRUE', SAN] }],
];

describe('17: TLS accepts what Node.js accepts where the user was explicit', () => {
  test.each(ACCEPTED)('%s', async (_, form) => {
    const made = opensslCertificates(form);
    for (const protocol of ['TLSv1.2', 'TLSv1.3']) {
      await using server = await startRedis({ tls: made, config: { 'tls-protocols': protocol } });
      expect(await nodeAccepts(server, made.ca), protocol).toBe(true);
      const client = await openClient({ url: byName(server), tls: { ca: made.ca } });
      await client.join(IDS);
    }
  });

  test('a client certificate with a key on P-521', async () => {
    const made = opensslCertificates({ curve: 'secp521r1', extensions: [SAN] });
    const config = { 'tls-auth-clients': 'yes' };
    await using server = await startRedis({ tls: made, config });
    await (await openClient({ url: server.url, tls: made })).join(IDS);
  });

  test.each(['NODE_EXTRA_CA_CERTS', 'SSL_CERT_FILE'])('the certificates of %s', async (name) => {
    const { ca } = await certificates();
    await using server = await startRedis({ tls: true });
    const file = path.join(server.folder, 'extra.pem');
    writeFileSync(file, ca);
    await using program = startFixture<string>('connect/fixtures/tls.mjs', {
      args: [server.url],
      env: { [name]: file },
    });
    expect(await program.message(() => true)).toBe('joined');
  });

  test('SSL_CERT_FILE with a missing file does not break a connection with a ca', async () => {
    const { ca } = await certificates();
    await using server = await startRedis({ tls: true });
    const env = { SSL_CERT_FILE: path.join(server.folder, 'nothing.pem'), SSL_CERT_DIR: '' };
    const run = (args: string[]) => startFixture<string>('connect/fixtures/tls.mjs', { args, env });
    await using explicit = run([server.url, ca]);
    expect(await explicit.message(() => true)).toBe('joined');
    // Without a ca, the error contains the reason.
    await using system = run([server.url]);
    expect(await system.message(() => true)).toMatch(
      /^PERMISSION .*give its issuer as tls\.ca \(the system's certificates could not be read/,
    );
  });
});

describe('17, 20: an unacceptable certificate fails at once with the reason', () => {
  /** The error of `connect`, which must have tried only once. */
  async function failure(server: RedisServer, ca: string, host = 'localhost', more = {}) {
    await using proxy = await startProxy(server.port);
    const url = `rediss://${host}:${proxy.port}`;
    const error = await rejection(() =>
      PresenceClient.connect({ url, tls: { ca, ...more }, logger: {} }),
    );
    expect(proxy.accepted).toBe(1);
    return error;
  }

  test.each<[string, Parameters<typeof opensslCertificates>[0], string, RegExp]>([
    ['another name', { commonName: 'elsewhere', extensions: [] }, 'localhost', /for another name/],
    ['a name in CN, for an address', {}, '127.0.0.1', /for another name/],
    [
      'another name in addition to the right CN',
      { extensions: ['subjectAltName=DNS:elsewhere'] },
      'localhost',
      /for another name/,
    ],
    ['an expired certificate', { days: -1, extensions: [SAN] }, 'localhost', /it has expired/],
    ['an expired certificate of version 1', { days: -1 }, 'localhost', /it has expired/],
    [
      'an expired certificate that is its own ca',
      { days: -1, selfSigned: true, extensions: [SAN] },
      'localhost',
      /it has expired/,
    ],
  ])('%s: PERMISSION', async (_, form, host, reason) => {
    const made = opensslCertificates(form);
    await using server = await startRedis({ tls: made });
    const error = await failure(server, made.ca, host);
    expect([error.code, error.message]).toEqual(['PERMISSION', expect.stringMatching(reason)]);
    expect(error.cause).toBeInstanceOf(Error);
  });

  test.each([
    ['X.509 version 1', {}],
    ['self-signed', { selfSigned: true, extensions: [SAN] }],
    ['version 3', { extensions: [SAN] }],
  ])('%s by another issuer than the given ca: refused', async (_, form) => {
    const [made, other] = [opensslCertificates(form), opensslCertificates(form)];
    await using server = await startRedis({ tls: made });
    expect(await nodeAccepts(server, other.ca)).toBe(false);
    expect(['PERMISSION', 'UNSUPPORTED']).toContain((await failure(server, other.ca)).code);
  });

  test('a certificate for clients only is refused, even if it is marked as an authority', async () => {
    const clientOnly = [SAN, 'extendedKeyUsage=clientAuth'];
    for (const extensions of [clientOnly, [...clientOnly, 'basicConstraints=CA:TRUE']]) {
      const made = opensslCertificates({ extensions });
      await using server = await startRedis({ tls: made });
      expect((await failure(server, made.ca)).code).toBe('UNSUPPORTED');
    }
  });

  test.each(['TLSv1.2', 'TLSv1.3'])(
    'no client certificate, on %s: PERMISSION',
    async (protocol) => {
      const { ca } = await certificates();
      const config = { 'tls-auth-clients': 'yes', 'tls-protocols': protocol };
      await using server = await startRedis({ tls: true, config });
      const error = await failure(server, ca);
      expect([error.code, error.message]).toEqual([
        'PERMISSION',
        expect.stringContaining('asks for a client certificate'),
      ]);
      const other = opensslCertificates({ extensions: [SAN] });
      const refused = await failure(server, ca, 'localhost', { cert: other.cert, key: other.key });
      expect([refused.code, refused.message]).toEqual([
        'PERMISSION',
        expect.stringContaining('refused the client certificate'),
      ]);
    },
  );

  test('a certificate that is no longer accepted: calls fail with the reason, and the client recovers', async () => {
    const { ca } = await certificates();
    await using good = await startRedis({ tls: true });
    await using bad = await startRedis({ tls: opensslCertificates({ extensions: [SAN] }) });
    await using proxy = await startProxy(good.port);
    const client = await openClient({
      url: `rediss://localhost:${proxy.port}`,
      tls: { ca },
      limits: { commandTimeoutMs: 30_000 },
    });
    proxy.retarget(bad);
    proxy.cut();
    // The first call after the cut may be in flight when the connection breaks.
    const error = await rejection(async () => {
      for (;;) {
        await client.fetchRoomSnapshot('r').catch((broken) => {
          if (broken.code !== 'UNAVAILABLE') throw broken;
        });
      }
    });
    expect([error.code, error.message]).toEqual([
      'PERMISSION',
      expect.stringContaining('certificate'),
    ]);
    proxy.retarget(good);
    for (;;) {
      const found = await client.fetchRoomSnapshot('r').catch(({ code }) => code);
      if (found !== 'PERMISSION') break;
      await new Promise(setImmediate);
    }
  });
});
