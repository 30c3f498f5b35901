// Converts Node.js's TLS options, as ioredis and node-redis accept them, to Rollcall's.

import { invalid } from '../errors.js';
import type { TlsOptions } from '../types.js';
import { isArray } from '../validate.js';
import { type Fields, given, textOrNone, unsupported } from './redis-options.js';

/** Options that affect trust or the handshake, and that Rollcall's TLS does not support. */
const REFUSED: Readonly<Record<string, string>> = {
  pfx: 'give cert and key in PEM form',
  passphrase: 'give key in PEM form without encryption',
  secureContext: 'give ca, cert and key in PEM form',
  checkServerIdentity: 'give servername where the name in the certificate is not the host',
  crl: 'certificates are not looked up in lists of revoked ones',
  ciphers: 'leave it out: only TLS 1.2 and 1.3 with authenticated encryption are used',
  sigalgs: 'leave it out',
  ecdhCurve: 'leave it out',
  secureProtocol: 'leave it out: only TLS 1.2 and 1.3 are used',
  secureOptions: 'leave it out',
  ALPNProtocols: 'leave it out',
  pskCallback: 'use certificates',
  privateKeyEngine: 'give key in PEM form',
  privateKeyIdentifier: 'give key in PEM form',
  clientCertEngine: 'give cert and key in PEM form',
  socket: 'hand over a URL instead',
  path: 'hand over a URL instead',
  lookup: 'hand over a URL instead',
};

/** Versions within Rollcall's range of TLS 1.2 and 1.3. */
const MIN_VERSIONS: readonly unknown[] = ['TLSv1', 'TLSv1.1', 'TLSv1.2'];
const MAX_VERSIONS: readonly unknown[] = ['TLSv1.3'];

/** The supported part of Node.js's TLS options; options that could not be honoured are refused. */
export function tlsOptions(field: string, from: unknown): TlsOptions {
  if (typeof from !== 'object' || from === null) {
    return {};
  }
  const tls = from as Fields;
  const name = (option: string) => `redis.options.${field}.${option}`;
  for (const [option, advice] of Object.entries(REFUSED)) {
    const value = tls[option];
    if (value !== undefined && value !== null && !(option === 'ecdhCurve' && value === 'auto')) {
      throw unsupported(`${name(option)} is not supported: ${advice}`);
    }
  }
  checkVersion(name('minVersion'), tls.minVersion, MIN_VERSIONS);
  checkVersion(name('maxVersion'), tls.maxVersion, MAX_VERSIONS);
  const { rejectUnauthorized } = tls;
  return given({
    ca: pem(name('ca'), tls.ca),
    cert: pem(name('cert'), tls.cert),
    key: pem(name('key'), tls.key),
    servername: textOrNone(`${field}.servername`, tls.servername),
    rejectUnauthorized: rejectUnauthorized === false ? false : undefined,
  });
}

function checkVersion(field: string, version: unknown, fitting: readonly unknown[]): void {
  if (version !== undefined && version !== null && !fitting.includes(version)) {
    throw unsupported(
      `${field} is not supported with this value: leave it out, TLS 1.2 and 1.3 are used`,
    );
  }
}

/** PEM in the forms that Node.js accepts: text, bytes, or a list of those. */
function pem(field: string, value: unknown): string | undefined {
  if (value === undefined || value === null) {
    return undefined;
  }
  const parts = isArray(value) ? value : [value];
  if (parts.length === 0) {
    throw invalid(`${field} is an empty list`);
  }
  return parts
    .map((part) => {
      if (typeof part === 'string') {
        return part;
      }
      if (part instanceof Uint8Array) {
        return Buffer.from(part).toString('utf8');
      }
      throw unsupported(`${field} must be PEM text, a Buffer with it, or a list of those`);
    })
    .join('\n');
}
