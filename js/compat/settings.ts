// Derives the settings of a PresenceClient from an ioredis client, a node-redis client or a URL.
// Only settings are read: the client is not used for commands, and may never have connected. Both
// libraries are recognized by their shape; neither is imported.

import { pathToFileURL } from 'node:url';
import { invalid, RollcallError } from '../errors.js';
import type { ClientOptions, SentinelOptions } from '../types.js';
import { checkName, isArray, readFields } from '../validate.js';
import { isMock, mockUrl } from './mock.js';
import { type Fields, given, textOrNone, unsupported } from './redis-options.js';
import { tlsOptions } from './tls.js';

/** The server and the settings of the connection, as in {@link ClientOptions}. */
export type ConnectionSettings = Pick<
  ClientOptions,
  'url' | 'tls' | 'sentinel' | 'keyPrefix' | 'channelPrefix'
>;

/** A client of `ioredis` or of `redis` (node-redis); only its options are read. */
export interface RedisClientLike {
  readonly options?: object | undefined;
}

/** Specifies the Redis server. */
export type RedisSource = string | RedisClientLike | ConnectionSettings;

const SETTINGS = [
  'url',
  'tls',
  'sentinel',
  'keyPrefix',
  'channelPrefix',
] as const satisfies readonly (keyof ConnectionSettings)[];

/**
 * Options of the clients that affect the target of a connection and that Rollcall does not support.
 * All other options that are not read here concern only the client itself: its queues, retries and
 * timeouts.
 */
const REFUSED: Readonly<Record<string, string>> = {
  Connector: 'hand over a URL instead',
  lookup: 'Rollcall resolves names itself; hand over a URL with the address',
  localAddress: 'Rollcall leaves the choice of the local address to the system',
  localPort: 'Rollcall leaves the choice of the local port to the system',
};

function refuse(path: string, options: Fields, refused: Readonly<Record<string, string>>): void {
  for (const [option, advice] of Object.entries(refused)) {
    if (options[option]) {
      throw unsupported(`${path}.${option} is not supported: ${advice}`);
    }
  }
}

/** The prefix of the layout; the clients' own prefixes are prepended to it. */
const PREFIX = 'prs:';

/** @throws `INVALID_ARGUMENT`, or `UNSUPPORTED` with an alternative for unsupported settings. */
export function connectionSettings(redis: unknown): ConnectionSettings {
  try {
    return settingsOf(redis);
  } catch (error) {
    if (error instanceof RollcallError) {
      throw error;
    }
    // An error from a getter of the client can contain anything, including a password.
    throw invalid('redis cannot be read: one of its options throws when it is looked at');
  }
}

function settingsOf(redis: unknown): ConnectionSettings {
  if (typeof redis === 'string') {
    return { url: redis };
  }
  if (typeof redis !== 'object' || redis === null) {
    throw invalid(
      'redis must be an ioredis client, a node-redis client, or a URL such as redis://host:6379',
    );
  }
  if (isMock(redis)) {
    return { url: mockUrl(redis) };
  }
  const client = redis as Fields;
  if (typeof client.url === 'string' || isArray(client.url)) {
    return given(readFields('redis', client, SETTINGS) as ConnectionSettings);
  }
  if (client.isCluster === true && isArray(client.startupNodes)) {
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
  refuse('redis.options', options, REFUSED);
  const { keyPrefix, db, username, password } = options;
  const prefix = prefixes(keyPrefix);
  const login = { username, password, db };
  if (options.sentinels) {
    return { ...ofSentinels(options), ...prefix };
  }
  if (options.path) {
    if (options.tls) {
      throw unsupported('redis.options.tls is not supported with path: a unix socket has no TLS');
    }
    return { url: socketUrl(options.path, login), ...prefix };
  }
  const tls = options.tls ? tlsOptions('tls', options.tls) : undefined;
  // ioredis gives its TLS options precedence over the others, including these two.
  const over = (tls === undefined ? {} : options.tls) as Fields;
  const { host, port } = { host: 'localhost', port: 6379, ...place(options), ...place(over) };
  const url = `${tls ? 'rediss' : 'redis'}://${userInfo(login)}${address(host, port)}${path(db)}`;
  return given({ url, tls, ...prefix });
}

function ofIoredisCluster(nodes: readonly unknown[], options: Fields): ConnectionSettings {
  const reachable =
    'the addresses that the cluster names have to be ones that can be reached (see ' +
    'cluster-announce-ip, cluster-preferred-endpoint-type)';
  refuse('redis.options', options, { natMap: reachable, useSRVRecords: reachable });
  if (nodes.length === 0) {
    throw invalid('redis has no startup nodes; hand over a URL instead');
  }
  const servers = nodes.map((node, at) => clusterNode(`redis.startupNodes[${at}]`, node));
  const all = (options.redisOptions ?? {}) as Fields;
  refuse('redis.options.redisOptions', all, REFUSED);
  if (all.db !== undefined && all.db !== null && path(all.db) !== '/0') {
    throw invalid('redis.options.redisOptions.db must be 0: a cluster has no other database');
  }
  const logins = servers.map((server) => userInfo({ ...server, ...given(all) }));
  if (logins.some((login) => login !== logins[0])) {
    throw unsupported(
      'redis.startupNodes have different users or passwords, which is not supported: give one as ' +
        'redisOptions.username and redisOptions.password',
    );
  }
  const secure = all.tls ?? servers.find((server) => server.tls)?.tls;
  const hosts = servers.map(({ host, port }) => address(host ?? '127.0.0.1', port ?? 6379));
  const tls = secure ? tlsOptions('redisOptions.tls', secure) : undefined;
  const prefix = prefixes(options.keyPrefix ?? all.keyPrefix);
  return given({ url: `redis-cluster://${logins[0]}${hosts.join(',')}`, tls, ...prefix });
}

/** A startup node of ioredis: options, a URL or `host:port`, or a port. */
function clusterNode(field: string, node: unknown): Fields {
  if (typeof node === 'number') {
    return { port: node };
  }
  if (typeof node === 'object' && node !== null) {
    const fields = node as Fields;
    refuse(field, fields, { path: 'a server of a cluster has an address, no unix socket' });
    return fields;
  }
  if (typeof node !== 'string') {
    throw invalid(`${field} must be a URL, a port, or an object with host and port`);
  }
  // The message must contain neither the text nor the parser's error: both can contain a password.
  const malformed = () =>
    invalid(`${field} must have the form redis://user:password@host:6379, percent-encoded`);
  let url: URL;
  try {
    url = new URL(/^rediss?:\/\//i.test(node) ? node : `redis://${node}`);
  } catch {
    throw malformed();
  }
  if (url.search !== '' || url.hash !== '' || !['', '/', '/0'].includes(url.pathname)) {
    throw malformed();
  }
  const decode = (text: string) => {
    try {
      return decodeURIComponent(text) || undefined;
    } catch {
      throw malformed();
    }
  };
  return given({
    host: url.hostname.replace(/^\[|\]$/g, '') || undefined,
    port: url.port === '' ? undefined : Number(url.port),
    username: decode(url.username),
    password: decode(url.password),
    tls: url.protocol === 'rediss:' ? true : undefined,
  });
}

function ofSentinels(options: Fields): ConnectionSettings {
  const { sentinels, name, db, username, password } = options;
  if (!isArray(sentinels) || sentinels.length === 0) {
    throw invalid('redis.options.sentinels must be a list of { host, port }');
  }
  checkName('redis.options.name', name);
  if (options.role === 'slave') {
    throw unsupported(
      'redis.options.role is "slave": presence is written, so it needs the master; hand over a ' +
        'client of the master',
    );
  }
  refuse('redis.options', options, {
    natMap:
      'the addresses that the sentinels name have to be ones that can be reached (see sentinel ' +
      'announce-ip)',
  });
  const hosts = sentinels.map((sentinel) => {
    const { host, port } = (sentinel ?? {}) as Fields;
    return address(host ?? '127.0.0.1', port ?? 26379);
  });
  const login = userInfo({ username, password });
  // ioredis uses TLS to the master only if two options enable it.
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
  refuse('redis.options.socket', socket, REFUSED);
  if (socket.path) {
    if (socket.tls) {
      throw unsupported(
        'redis.options.socket.tls is not supported with path: a unix socket has no TLS',
      );
    }
    return { url: socketUrl(socket.path, login), ...prefix };
  }
  const tls = socket.tls ? tlsOptions('socket', socket) : undefined;
  const { host, port } = { host: 'localhost', port: 6379, ...place(socket) };
  const where = address(host, port) + path(database);
  return given({ url: `${tls ? 'rediss' : 'redis'}://${userInfo(login)}${where}`, tls, ...prefix });
}

/** Both libraries prepend their prefix to keys, and not to channels. */
function prefixes(keyPrefix: unknown): Pick<ConnectionSettings, 'keyPrefix' | 'channelPrefix'> {
  if (keyPrefix === undefined || keyPrefix === null || keyPrefix === '') {
    return {};
  }
  checkName('redis.options.keyPrefix', keyPrefix);
  return { keyPrefix: keyPrefix + PREFIX, channelPrefix: PREFIX };
}

interface Login {
  username?: unknown;
  password?: unknown;
  db?: unknown;
}

/** A user without a password needs none (`nopass`), and is not `default`. */
function userInfo({ username, password }: Login): string {
  const user = textOrNone('username', username);
  const secret = textOrNone('password', password);
  if (secret === undefined) {
    return user === undefined ? '' : `${encoded(user)}@`;
  }
  return `${encoded(user ?? '')}:${encoded(secret)}@`;
}

function encoded(text: string): string {
  if (!text.isWellFormed()) {
    throw invalid('redis.options: a user or password holds half a surrogate pair');
  }
  return encodeURIComponent(text);
}

function socketUrl(file: unknown, login: Login): string {
  checkName('redis.options.path', file);
  const query = new URLSearchParams();
  const user = textOrNone('username', login.username);
  const secret = textOrNone('password', login.password);
  if (user !== undefined) {
    query.set('user', user);
  }
  if (secret !== undefined) {
    query.set('pass', secret);
  }
  const db = path(login.db).slice(1);
  if (db !== '') {
    query.set('db', db);
  }
  return `redis+unix://${pathToFileURL(file).pathname}?${query}`;
}

/** The given host and port. */
function place({ host, port }: Fields): Fields {
  return given({ host: host ?? undefined, port: port ?? undefined });
}

function address(host: unknown, port: unknown): string {
  checkName('redis.options.host', host);
  if (/[\s/@?#,[\]]/.test(host)) {
    throw invalid('redis.options.host is not the name or address of a host');
  }
  // ioredis also accepts a port as text.
  const number = typeof port === 'string' && /^\d+$/.test(port) ? Number(port) : port;
  if (!Number.isInteger(number) || (number as number) < 1 || (number as number) > 65_535) {
    throw invalid('redis.options.port must be a whole number from 1 to 65535');
  }
  return `${host.includes(':') ? `[${host}]` : host}:${number}`;
}

function path(db: unknown): string {
  if (db === undefined || db === null) {
    return '';
  }
  if (!(typeof db === 'number' || typeof db === 'string') || !/^\d+$/.test(String(db))) {
    throw invalid('redis.options.db (database) must be a whole number from 0');
  }
  return `/${db}`;
}
