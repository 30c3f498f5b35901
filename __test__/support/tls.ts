// Certificates for TLS tests: created for each run, so that no private key is committed and none
// expires.
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { generate } from 'selfsigned';

export interface Certificates {
  /** All in PEM. */
  ca: string;
  cert: string;
  key: string;
}

let made: Promise<Certificates> | undefined;

/**
 * A certificate authority, and a certificate of it for localhost, 127.0.0.1 and ::1, which clients
 * can use too.
 */
export function certificates(): Promise<Certificates> {
  made ??= make();
  return made;
}

async function make(): Promise<Certificates> {
  const shared = { keyType: 'ec', algorithm: 'sha256' } as const;
  const ca = await generate([{ name: 'commonName', value: 'Rollcall test CA' }], {
    ...shared,
    extensions: [
      { name: 'basicConstraints', cA: true, critical: true },
      { name: 'keyUsage', keyCertSign: true, cRLSign: true, critical: true },
    ],
  });
  const server = await generate([{ name: 'commonName', value: 'localhost' }], {
    ...shared,
    ca: { key: ca.private, cert: ca.cert },
    extensions: [
      { name: 'basicConstraints', cA: false },
      { name: 'keyUsage', digitalSignature: true, critical: true },
      { name: 'extKeyUsage', serverAuth: true, clientAuth: true },
      {
        name: 'subjectAltName',
        altNames: [
          { type: 2, value: 'localhost' },
          { type: 7, ip: '127.0.0.1' },
          { type: 7, ip: '::1' },
        ],
      },
    ],
  });
  return { ca: ca.cert, cert: server.cert, key: server.private };
}

/**
 * A certificate created by `openssl`, for forms that the library above does not support.
 *
 * @param form - `selfSigned`: it is its own `ca`, like one of `openssl req -x509`; otherwise an
 * authority with a key on `curve` signs it.
 */
export function opensslCertificates(form: {
  curve?: string;
  selfSigned?: boolean;
  /** Extensions of the certificate; without any, it is an X.509 version 1 certificate. */
  extensions?: string[];
  commonName?: string;
  days?: number;
}): Certificates {
  const { curve = 'prime256v1', selfSigned, extensions = [], commonName = 'localhost' } = form;
  const folder = mkdtempSync(path.join(tmpdir(), 'rollcall-certificates-'));
  const file = (name: string) => path.join(folder, name);
  const read = (name: string) => readFileSync(file(name), 'utf8');
  const openssl = (...args: string[]) =>
    execFileSync('openssl', args, { cwd: folder, stdio: ['ignore', 'ignore', 'pipe'] });
  const newKey = ['-newkey', 'ec', '-pkeyopt', `ec_paramgen_curve:${curve}`, '-nodes'];
  const days = ['-days', `${form.days ?? 2}`];
  try {
    // With its own configuration: those of some systems add extensions.
    writeFileSync(file('req.cnf'), '[req]\ndistinguished_name=dn\n[dn]\n');
    writeFileSync(file('ext.cnf'), extensions.join('\n'));
    const config = ['-config', 'req.cnf'];
    const subject = ['-subj', `/CN=${commonName}`];
    const extfile = extensions.length === 0 ? [] : ['-extfile', 'ext.cnf'];
    if (selfSigned && form.days !== undefined) {
      openssl('req', ...config, ...newKey, ...subject, '-keyout', 'key.pem', '-out', 'request.pem');
      const signing = ['-req', '-in', 'request.pem', '-signkey', 'key.pem'];
      openssl('x509', ...signing, ...days, ...extfile, '-out', 'cert.pem');
      return { ca: read('cert.pem'), cert: read('cert.pem'), key: read('key.pem') };
    }
    if (selfSigned) {
      const adds = extensions.flatMap((one) => ['-addext', one]);
      openssl(
        'req',
        '-x509',
        ...config,
        ...newKey,
        ...days,
        ...subject,
        ...adds,
        '-keyout',
        'key.pem',
        '-out',
        'cert.pem',
      );
      return { ca: read('cert.pem'), cert: read('cert.pem'), key: read('key.pem') };
    }
    const ca = ['-addext', 'basicConstraints=critical,CA:TRUE'];
    openssl(
      'req',
      '-x509',
      ...config,
      ...newKey,
      '-days',
      '9',
      '-subj',
      '/CN=CA',
      ...ca,
      '-keyout',
      'ca.key',
      '-out',
      'ca.pem',
    );
    openssl('req', ...config, ...newKey, ...subject, '-keyout', 'key.pem', '-out', 'request.pem');
    const signing = [
      '-req',
      '-in',
      'request.pem',
      '-CA',
      'ca.pem',
      '-CAkey',
      'ca.key',
      '-CAcreateserial',
    ];
    openssl('x509', ...signing, ...days, ...extfile, '-out', 'cert.pem');
    return { ca: read('ca.pem'), cert: read('cert.pem'), key: read('key.pem') };
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
