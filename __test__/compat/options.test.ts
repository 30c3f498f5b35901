// Every option of ioredis and node-redis is honoured, refused with its name, or irrelevant. The
// tables must contain all options of the libraries' types: a new option fails `npm run typecheck`.
import type { ConnectionOptions } from 'node:tls';
import type { ClusterOptions, RedisOptions, SentinelAddress } from 'ioredis';
import type { RedisClientOptions } from 'redis';
import { describe, expect, test } from 'vitest';
import { connectionSettings } from '../../dist/compat/settings.js';
import type { Untyped } from '../support/clients.js';

/**
 * How an option is treated:
 *
 * - `[value, expected]`: honoured; the settings contain these fields.
 * - `{ refused: value }`: refused, and the message names the option.
 * - `irrelevant`: concerns only the client itself (queues, retries, timeouts), or is decided by
 *   Rollcall.
 */
type Treatment = [value: unknown, expected: object] | { refused: unknown } | 'irrelevant';
type Table<Options> = Record<KeyOf<Options>, Treatment>;
/** The literal property names of all members of a union. */
type KeyOf<T> = T extends unknown
  ? keyof { [K in keyof T as string extends K ? never : number extends K ? never : K]: T[K] }
  : never;

const text = (value: string) => value;
const f = () => {};
const map = { 'h:1': { host: 'h', port: 1 } };

const IOREDIS: Table<RedisOptions> = {
  host: ['other', { url: 'redis://other:6379/0' }],
  port: [7, { url: 'redis://localhost:7/0' }],
  path: ['/tmp/s', { url: 'redis+unix:///tmp/s?db=0' }],
  username: ['tenant', { url: 'redis://tenant@localhost:6379/0' }],
  password: ['p/w', { url: 'redis://:p%2Fw@localhost:6379/0' }],
  db: [3, { url: 'redis://localhost:6379/3' }],
  keyPrefix: ['app:', { keyPrefix: 'app:prs:', channelPrefix: 'prs:' }],
  tls: [{ ca: 'pem' }, { url: 'rediss://localhost:6379/0', tls: { ca: 'pem' } }],
  sentinels: 'irrelevant',
  name: 'irrelevant',
  role: 'irrelevant',
  sentinelUsername: 'irrelevant',
  sentinelPassword: 'irrelevant',
  sentinelTLS: 'irrelevant',
  enableTLSForSentinelMode: 'irrelevant',
  preferredSlaves: 'irrelevant',
  natMap: 'irrelevant',
  Connector: { refused: f },
  family: 'irrelevant',
  retryStrategy: 'irrelevant',
  reconnectOnError: 'irrelevant',
  sentinelRetryStrategy: 'irrelevant',
  sentinelReconnectStrategy: 'irrelevant',
  sentinelMaxConnections: 'irrelevant',
  sentinelCommandTimeout: 'irrelevant',
  updateSentinels: 'irrelevant',
  failoverDetector: 'irrelevant',
  commandTimeout: 'irrelevant',
  blockingTimeout: 'irrelevant',
  blockingTimeoutGrace: 'irrelevant',
  socketTimeout: 'irrelevant',
  connectTimeout: 'irrelevant',
  disconnectTimeout: 'irrelevant',
  keepAlive: 'irrelevant',
  noDelay: 'irrelevant',
  connectionName: 'irrelevant',
  disableClientInfo: 'irrelevant',
  clientInfoTag: 'irrelevant',
  autoResubscribe: 'irrelevant',
  autoResendUnfulfilledCommands: 'irrelevant',
  readOnly: 'irrelevant',
  stringNumbers: 'irrelevant',
  protocol: 'irrelevant',
  replyMapping: 'irrelevant',
  monitor: 'irrelevant',
  maxRetriesPerRequest: 'irrelevant',
  maxLoadingRetryTime: 'irrelevant',
  enableAutoPipelining: 'irrelevant',
  autoPipeliningIgnoredCommands: 'irrelevant',
  offlineQueue: 'irrelevant',
  commandQueue: 'irrelevant',
  enableOfflineQueue: 'irrelevant',
  enableReadyCheck: 'irrelevant',
  lazyConnect: 'irrelevant',
  scripts: 'irrelevant',
  showFriendlyErrorStack: 'irrelevant',
  himportFieldsets: 'irrelevant',
};

/** The options that also have a meaning with `sentinels`. */
const IOREDIS_SENTINEL: Partial<Table<RedisOptions>> = {
  name: ['other', { url: 'redis-sentinel://s:1/other/0' }],
  db: [2, { url: 'redis-sentinel://s:1/m/2' }],
  username: ['tenant', { url: 'redis-sentinel://tenant@s:1/m/0' }],
  sentinelUsername: ['watcher', { sentinel: { username: 'watcher' } }],
  sentinelPassword: ['secret', { sentinel: { password: 'secret' } }],
  sentinelTLS: [{ ca: 'pem' }, { sentinel: { tls: { ca: 'pem' } } }],
  role: { refused: 'slave' },
  natMap: { refused: map },
  // As in ioredis, which then uses no TLS to the servers.
  tls: 'irrelevant',
  preferredSlaves: 'irrelevant',
};

const SENTINEL_ADDRESS: Table<SentinelAddress> = {
  host: ['other', { url: 'redis-sentinel://other:1/m/0' }],
  port: [7, { url: 'redis-sentinel://s:7/m/0' }],
  family: 'irrelevant',
};

const IOREDIS_CLUSTER: Table<ClusterOptions> = {
  redisOptions: [{ username: 'tenant' }, { url: 'redis-cluster://tenant@h:1' }],
  keyPrefix: ['app:', { keyPrefix: 'app:prs:' }],
  natMap: { refused: map },
  useSRVRecords: { refused: true },
  // Used only with useSRVRecords.
  resolveSrv: 'irrelevant',
  // Usually `(address, callback) => callback(null, address)`; Rollcall resolves names itself.
  dnsLookup: 'irrelevant',
  clusterRetryStrategy: 'irrelevant',
  clusterNodeRetryStrategy: 'irrelevant',
  enableOfflineQueue: 'irrelevant',
  enableReadyCheck: 'irrelevant',
  scaleReads: 'irrelevant',
  maxRedirections: 'irrelevant',
  retryDelayOnFailover: 'irrelevant',
  retryDelayOnClusterDown: 'irrelevant',
  retryDelayOnTryAgain: 'irrelevant',
  retryDelayOnMoved: 'irrelevant',
  slotsRefreshTimeout: 'irrelevant',
  slotsRefreshInterval: 'irrelevant',
  shardedSubscribers: 'irrelevant',
  lazyConnect: 'irrelevant',
  enableAutoPipelining: 'irrelevant',
  autoPipeliningIgnoredCommands: 'irrelevant',
  scripts: 'irrelevant',
  showFriendlyErrorStack: 'irrelevant',
  himportFieldsets: 'irrelevant',
};

const NODE_REDIS: Table<RedisClientOptions> = {
  // The client derives the other options from it.
  url: 'irrelevant',
  socket: [{ host: 'other', port: 7 }, { url: 'redis://other:7' }],
  username: ['tenant', { url: 'redis://tenant@localhost:6379' }],
  password: ['p/w', { url: 'redis://:p%2Fw@localhost:6379' }],
  database: [3, { url: 'redis://localhost:6379/3' }],
  keyPrefix: ['app:', { keyPrefix: 'app:prs:' }],
  credentialsProvider: { refused: {} },
  name: 'irrelevant',
  commandsQueueMaxLength: 'irrelevant',
  disableOfflineQueue: 'irrelevant',
  readonly: 'irrelevant',
  pingInterval: 'irrelevant',
  commandOptions: 'irrelevant',
  clientSideCache: 'irrelevant',
  maintNotifications: 'irrelevant',
  maintEndpointType: 'irrelevant',
  maintRelaxedCommandTimeout: 'irrelevant',
  maintRelaxedSocketTimeout: 'irrelevant',
  disableClientInfo: 'irrelevant',
  clientInfoTag: 'irrelevant',
  modules: 'irrelevant',
  functions: 'irrelevant',
  scripts: 'irrelevant',
  RESP: 'irrelevant',
  emitInvalidate: 'irrelevant',
  himportRegistry: 'irrelevant',
};

type Socket = NonNullable<RedisClientOptions['socket']>;
/** A separate table has the TLS options. */
const SOCKET: Record<
  Exclude<KeyOf<Socket>, keyof ConnectionOptions> | 'host' | 'port' | 'path' | 'lookup',
  Treatment
> = {
  host: ['other', { url: 'redis://other:6379' }],
  port: [7, { url: 'redis://localhost:7' }],
  path: ['/tmp/s', { url: 'redis+unix:///tmp/s?' }],
  tls: [true, { url: 'rediss://localhost:6379', tls: {} }],
  lookup: { refused: f },
  localAddress: { refused: '127.0.0.2' },
  localPort: { refused: 7 },
  allowHalfOpen: 'irrelevant',
  autoSelectFamily: 'irrelevant',
  autoSelectFamilyAttemptTimeout: 'irrelevant',
  family: 'irrelevant',
  fd: 'irrelevant',
  hints: 'irrelevant',
  keepAlive: 'irrelevant',
  keepAliveInitialDelay: 'irrelevant',
  noDelay: 'irrelevant',
  signal: 'irrelevant',
  connectTimeout: 'irrelevant',
  socketTimeout: 'irrelevant',
  reconnectStrategy: 'irrelevant',
};

const TLS: Table<ConnectionOptions> = {
  ca: ['pem', { tls: { ca: 'pem' } }],
  cert: [Buffer.from('pem'), { tls: { cert: 'pem' } }],
  key: [['pem'], { tls: { key: 'pem' } }],
  servername: ['name', { tls: { servername: 'name' } }],
  rejectUnauthorized: [false, { tls: { rejectUnauthorized: false } }],
  // ioredis gives these options precedence over its own.
  host: ['other', { url: 'rediss://other:6379/0' }],
  port: [7, { url: 'rediss://localhost:7/0' }],
  minVersion: { refused: 'TLSv1.3' },
  maxVersion: { refused: 'TLSv1.2' },
  pfx: { refused: text('pfx') },
  passphrase: { refused: text('secret') },
  secureContext: { refused: {} },
  checkServerIdentity: { refused: f },
  crl: { refused: 'pem' },
  ciphers: { refused: 'HIGH' },
  sigalgs: { refused: 'ed25519' },
  ecdhCurve: { refused: 'P-521' },
  secureProtocol: { refused: 'TLSv1_2_method' },
  secureOptions: { refused: 1 },
  ALPNProtocols: { refused: ['redis'] },
  // Server-side options.
  ALPNCallback: 'irrelevant',
  pskCallback: { refused: f },
  privateKeyEngine: { refused: 'engine' },
  privateKeyIdentifier: { refused: 'key' },
  clientCertEngine: { refused: 'engine' },
  socket: { refused: {} },
  path: { refused: '/tmp/s' },
  lookup: { refused: f },
  // A given certificate authority is trusted, with any issuer.
  allowPartialTrustChain: 'irrelevant',
  session: 'irrelevant',
  sessionIdContext: 'irrelevant',
  sessionTimeout: 'irrelevant',
  ticketKeys: 'irrelevant',
  enableTrace: 'irrelevant',
  requestCert: 'irrelevant',
  SNICallback: 'irrelevant',
  minDHSize: 'irrelevant',
  timeout: 'irrelevant',
  dhparam: 'irrelevant',
  honorCipherOrder: 'irrelevant',
};

type Make = (options: object) => unknown;

const SOURCES: [string, Record<string, Treatment>, Make][] = [
  ['ioredis', IOREDIS, (options) => ({ options: { db: 0, ...options } })],
  [
    'ioredis with Sentinel',
    IOREDIS_SENTINEL as Record<string, Treatment>,
    (options) => ({
      options: { db: 0, name: 'm', sentinels: [{ host: 's', port: 1 }], ...options },
    }),
  ],
  [
    'a Sentinel of ioredis',
    SENTINEL_ADDRESS,
    (options) => ({
      options: { db: 0, name: 'm', sentinels: [{ host: 's', port: 1, ...options }] },
    }),
  ],
  [
    'an ioredis Cluster',
    IOREDIS_CLUSTER,
    (options) => ({ isCluster: true, startupNodes: [{ host: 'h', port: 1 }], options }),
  ],
  ['node-redis', NODE_REDIS, (options) => ({ isOpen: false, options })],
  ['the socket of node-redis', SOCKET, (socket) => ({ isOpen: false, options: { socket } })],
  ['tls of ioredis', TLS, (tls) => ({ options: { db: 0, tls } })],
];

describe.each(SOURCES)('16: every option of %s', (_, table, make) => {
  const plain = () => connectionSettings(make({}));

  test.each(Object.entries(table))('%s', (option, treatment) => {
    if (treatment === 'irrelevant') {
      for (const value of [1, true, 'text', f]) {
        const source: Untyped = make({ [option]: value });
        // Other options give this option its meaning, so they are not checked here.
        if (['sentinels', 'tls', 'url'].includes(option)) continue;
        expect(connectionSettings(source)).toEqual(plain());
      }
    } else if (Array.isArray(treatment)) {
      const [value, expected] = treatment;
      expect(connectionSettings(make({ [option]: value }))).toMatchObject(expected);
    } else {
      const call = () => connectionSettings(make({ [option]: treatment.refused }));
      expect(call).toThrow(expect.objectContaining({ code: 'UNSUPPORTED' }));
      expect(call).toThrow(new RegExp(`redis\\.\\S*${option}\\b`));
    }
  });
});

test('16: startup nodes of a cluster with different credentials, or with options that a cluster does not support', () => {
  const of = (startupNodes: unknown[], options = {}) =>
    connectionSettings({ isCluster: true, startupNodes, options });
  expect(of(['redis://a:1', 'b:2', 3, { host: 'c' }]).url).toBe(
    'redis-cluster://a:1,b:2,127.0.0.1:3,c:6379',
  );
  expect(of(['rediss://u:p@a:1']).tls).toEqual({});
  for (const nodes of [['redis://u:p@a', 'redis://u:q@b'], [{ path: '/tmp/s' }]]) {
    expect(() => of(nodes)).toThrow(expect.objectContaining({ code: 'UNSUPPORTED' }));
  }
  for (const node of ['redis://a/7', 'redis://a?family=6', 'redis://a#x', null, true]) {
    expect(() => of([node])).toThrow(expect.objectContaining({ code: 'INVALID_ARGUMENT' }));
  }
  expect(() => of(['redis://a'], { redisOptions: { db: 1 } })).toThrow(
    /redisOptions\.db must be 0/,
  );
});

test('16: { url, … } takes no other fields', () => {
  const settings: Untyped = { url: 'redis://h', password: 'x' };
  expect(() => connectionSettings(settings)).toThrow(/redis has no field "password"/);
});
