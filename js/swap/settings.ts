// From what a server holds in its hands (an ioredis client, a node-redis client, a URL) to where and
// how a PresenceClient connects. Only settings are read: the client is not used for commands, and may
// never have been connected. Both libraries are known by their looks; neither is imported.

import { pathToFileURL } from 'node:url';
import { invalid, RollcallError } from '../errors.js';
import type { ClientOptions, SentinelOptions, TlsOptions } from '../types.js';
import { checkName } from '../validate.js';

/** Where and how to connect, as {@link ClientOptions} has it. */
export type ConnectionSettings = Pick<
  ClientOptions,
  'url' | 'tls' | 'sentinel' | 'keyPrefix' | 'channelPrefix'
>;

/** A client of `ioredis` or of `redis` (node-redis): what is read of it are its options. */
export interface RedisClientLike {
  readonly options?: object | undefined;
}

/** What says where Redis is. */
export type RedisSource = string | RedisClientLike | ConnectionSettings;

type Fields = Record<string, unknown>;

/** The prefix of the layout, before which the clients' own prefixes are put. */
const PREFIX = 'prs:';

/** @throws `INVALID_ARGUMENT`, `UNSUPPORTED` for what cannot be taken over, saying what to do. */
export function connectionSettings(redis: unknown): ConnectionSettings {
  if (typeof redis === 'string') {
    return { url: redis };
  }
  if (typeof redis !== 'object' || redis === null) {
    throw invalid(
      'redis must be an ioredis client, a node-redis client, or a URL such as redis://host:6379',
    );
  }
  const client = redis as Fields;
  if (typeof client.url === 'string') {
    const { url, tls, sentinel, keyPrefix, channelPrefix } = client as ConnectionSettings;
    return given({ url, tls, sentinel, keyPrefix, channelPrefix });
  }
  if (client.isCluster === true && Array.isArray(client.startupNodes)) {
    return ofIoredisCluster(client.startupNodes, (client.options ?? {}) as Fields);
  }
  if (client.isCluster === true || 'slots' in client || 'getRandomNode' in client) {
    throw unsupported(
      'redis is a Redis Cluster client that does not show its options, as those of node-redis; hand ' +
        'over { url: "redis-cluster://host:7000,host:7001", tls } instead',
    );
  }
  const isNodeRedis = typeof client.isOpen === 'boolean';
  const options = client.options;
  if (typeof options !== 'object' || options === null) {
    if (!isNodeRedis) {
      throw invalid('redis is no client whose options can be read; hand over a URL instead');
    }
    throw unsupported(
      'redis does not show its options, as the Sentinel clients and pools of node-redis; hand over ' +
        '{ url, tls, sentinel } instead',
    );
  }
  return isNodeRedis ? ofNodeRedis(options as Fields) : ofIoredis(options as Fields);
}

function ofIoredis(options: Fields): ConnectionSettings {
  const { keyPrefix, db, username, password } = options;
  const prefix = prefixes(keyPrefix);
  const login = { username, password, db };
  if (options.sentinels) {
    return { ...ofSentinels(options), ...prefix };
  }
  if (options.path) {
    return { url: socketUrl(options.path, login), ...prefix };
  }
  const tls = options.tls ? tlsOptions('tls', options.tls) : undefined;
  const { host = 'localhost', port = 6379 } = options;
  const url = `${tls ? 'rediss' : 'redis'}://${userInfo(login)}${address(host, port)}${path(db)}`;
  return given({ url, tls, ...prefix });
}

function ofIoredisCluster(nodes: unknown[], options: Fields): ConnectionSettings {
  for (const option of ['natMap', 'useSRVRecords']) {
    if (options[option]) {
      throw unsupported(
        `redis.options.${option} is not supported: the addresses that the cluster names have to be ` +
          'ones that can be reached (see cluster-announce-ip, cluster-preferred-endpoint-type)',
      );
    }
  }
  if (nodes.length === 0) {
    throw invalid('redis has no startup nodes; hand over a URL instead');
  }
  const servers = nodes.map(clusterNode);
  const all = (options.redisOptions ?? {}) as Fields;
  const { username, password } = { ...servers[0], ...given(all) } as Fields;
  const secure = all.tls ?? servers.find((server) => server.tls)?.tls;
  const hosts = servers.map(({ host, port }) => address(host ?? '127.0.0.1', port ?? 6379));
  const login = userInfo({ username, password });
  const tls = secure ? tlsOptions('redisOptions.tls', secure) : undefined;
  const prefix = prefixes(options.keyPrefix ?? all.keyPrefix);
  return given({ url: `redis-cluster://${login}${hosts.join(',')}`, tls, ...prefix });
}

/** A startup node of ioredis: options, a URL or `host:port`, or a port. */
function clusterNode(node: unknown): Fields {
  if (typeof node === 'number') {
    return { port: node };
  }
  if (typeof node === 'object' && node !== null) {
    return node as Fields;
  }
  const url = new URL(/^rediss?:\/\//.test(String(node)) ? String(node) : `redis://${node}`);
  return given({
    host: url.hostname.replace(/^\[|\]$/g, '') || undefined,
    port: url.port === '' ? undefined : Number(url.port),
    username: decodeURIComponent(url.username) || undefined,
    password: decodeURIComponent(url.password) || undefined,
    tls: url.protocol === 'rediss:' ? true : undefined,
  });
}

function ofSentinels(options: Fields): ConnectionSettings {
  const { sentinels, name, db, username, password } = options;
  if (!Array.isArray(sentinels) || sentinels.length === 0) {
    throw invalid('redis.options.sentinels must be a list of { host, port }');
  }
  checkName('redis.options.name', name);
  if (options.role === 'slave') {
    throw unsupported(
      'redis.options.role is "slave": presence is written, so it needs the master; hand over a ' +
        'client of the master',
    );
  }
  if (options.natMap) {
    throw unsupported(
      'redis.options.natMap is not supported: the addresses that the sentinels name have to be ones ' +
        'that can be reached (see sentinel announce-ip)',
    );
  }
  const hosts = sentinels.map((sentinel: Fields) =>
    address(sentinel.host ?? '127.0.0.1', sentinel.port ?? 26379),
  );
  const login = userInfo({ username, password });
  // ioredis talks TLS to the master only if it is told so twice.
  const tls =
    options.enableTLSForSentinelMode && options.tls ? tlsOptions('tls', options.tls) : undefined;
  const sentinel: SentinelOptions = given({
    username: textOrNone('sentinelUsername', options.sentinelUsername),
    password: textOrNone('sentinelPassword', options.sentinelPassword),
    tls: options.sentinelTLS ? tlsOptions('sentinelTLS', options.sentinelTLS) : undefined,
  });
  const url = `redis-sentinel://${login}${hosts.join(',')}/${encodeURIComponent(name)}${path(db)}`;
  return given({ url, tls, sentinel });
}

function ofNodeRedis(options: Fields): ConnectionSettings {
  const { username, password, database } = options;
  const prefix = prefixes(options.keyPrefix);
  const login = { username, password, db: database };
  if (options.credentialsProvider && username === undefined && password === undefined) {
    throw unsupported(
      'redis.options.credentialsProvider is not supported: hand over a client with username and ' +
        'password, or a URL',
    );
  }
  const socket = (options.socket ?? {}) as Fields;
  if (socket.path) {
    return { url: socketUrl(socket.path, login), ...prefix };
  }
  const tls = socket.tls ? tlsOptions('socket', socket) : undefined;
  const { host = 'localhost', port = 6379 } = socket;
  const place = address(host, port) + path(database);
  return given({ url: `${tls ? 'rediss' : 'redis'}://${userInfo(login)}${place}`, tls, ...prefix });
}

/** Both libraries put their prefix before keys, and before no channel. */
function prefixes(keyPrefix: unknown): Pick<ConnectionSettings, 'keyPrefix' | 'channelPrefix'> {
  if (keyPrefix === undefined || keyPrefix === null || keyPrefix === '') {
    return {};
  }
  checkName('redis.options.keyPrefix', keyPrefix);
  return { keyPrefix: keyPrefix + PREFIX, channelPrefix: PREFIX };
}

/** What of Node's TLS options says whom to trust; what we could not honour is refused. */
function tlsOptions(field: string, from: unknown): TlsOptions {
  if (typeof from !== 'object' || from === null) {
    return {};
  }
  const tls = from as Fields;
  const name = (option: string) => `redis.options.${field}.${option}`;
  for (const option of ['pfx', 'passphrase', 'secureContext', 'checkServerIdentity', 'crl']) {
    if (tls[option] !== undefined && tls[option] !== null) {
      throw unsupported(
        `${name(option)} is not supported: give ca, cert and key in PEM form, and servername where ` +
          'the name in the certificate is not the host',
      );
    }
  }
  const { rejectUnauthorized } = tls;
  return given({
    ca: pem(name('ca'), tls.ca),
    cert: pem(name('cert'), tls.cert),
    key: pem(name('key'), tls.key),
    servername: textOrNone(`${field}.servername`, tls.servername),
    rejectUnauthorized: rejectUnauthorized === false ? false : undefined,
  });
}

/** PEM as Node.js takes it: text, bytes, or a list of those. */
function pem(field: string, value: unknown): string | undefined {
  if (value === undefined || value === null) {
    return undefined;
  }
  const parts = Array.isArray(value) ? value : [value];
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

interface Login {
  username?: unknown;
  password?: unknown;
  db?: unknown;
}

/** Without a password there is nothing to log in with. */
function userInfo({ username, password }: Login): string {
  const secret = textOrNone('password', password);
  if (secret === undefined) {
    return '';
  }
  const user = textOrNone('username', username) ?? '';
  return `${encodeURIComponent(user)}:${encodeURIComponent(secret)}@`;
}

function socketUrl(file: unknown, login: Login): string {
  checkName('redis.options.path', file);
  const query = new URLSearchParams();
  const secret = textOrNone('password', login.password);
  if (secret !== undefined) {
    const user = textOrNone('username', login.username);
    if (user !== undefined) {
      query.set('user', user);
    }
    query.set('pass', secret);
  }
  if (login.db !== undefined && login.db !== null) {
    query.set('db', String(login.db));
  }
  return `redis+unix://${pathToFileURL(file).pathname}?${query}`;
}

function address(host: unknown, port: unknown): string {
  checkName('redis.options.host', host);
  if (/[\s/@?#,]/.test(host)) {
    throw invalid('redis.options.host is not the name or address of a host');
  }
  if (!Number.isInteger(Number(port))) {
    throw invalid('redis.options.port must be a whole number');
  }
  return `${host.includes(':') ? `[${host}]` : host}:${Number(port)}`;
}

function path(db: unknown): string {
  return db === undefined || db === null ? '' : `/${db}`;
}

function textOrNone(field: string, value: unknown): string | undefined {
  if (value === undefined || value === null || value === '') {
    return undefined;
  }
  checkName(`redis.options.${field}`, value);
  return value;
}

/** The fields that have a value. */
function given<T extends object>(fields: { [Key in keyof T]?: T[Key] | undefined }): T {
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined)) as T;
}

function unsupported(message: string): RollcallError {
  return new RollcallError('UNSUPPORTED', message);
}
