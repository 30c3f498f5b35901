// redis-sentinel:// (spec 11): the client finds the master by name, and the new master after any
// kind of failover.
import { PresenceClient, type PresenceEvent } from 'rollcall';
import { describe, expect, test } from 'vitest';
import { keepLog, openClient, rejection, type Untyped } from '../support/clients.js';
import { freePort, startRedis } from '../support/redis.js';
import { type SentinelGroup, startSentinels } from '../support/sentinel.js';
import { eventually } from '../support/wait.js';

const IDS = { roomId: 'r', userId: 'u', connId: 'c' };

/** Subscribes to all events, and can wait for new ones. */
async function follow(client: PresenceClient<Untyped>) {
  const events: PresenceEvent<Untyped>[] = [];
  const resyncs: string[] = [];
  client.on('resync', ({ reason }) => void resyncs.push(reason));
  await client.subscribe((event) => void events.push(event));
  return { events, resyncs };
}

/** Checks that the client writes to the current master and receives the event. */
async function worksOn(
  group: SentinelGroup,
  client: PresenceClient<Untyped>,
  { events }: { events: PresenceEvent<Untyped>[] },
): Promise<void> {
  const master = await group.master();
  let turn = 0;
  await eventually(
    async () => {
      const connId = `c${turn++}`;
      await client.join({ ...IDS, connId });
      const redis = await master.client();
      expect(await redis.exists(`prs:conn:${connId}`)).toBe(1);
      redis.disconnect();
      await eventually(() => expect(events.map((event) => event.connId)).toContain(connId), {
        timeoutMs: 500,
      });
    },
    { timeoutMs: 15_000, intervalMs: 50 },
  );
}

describe('11: redis-sentinel://', () => {
  test('follows the master: after SENTINEL FAILOVER, and after a crash', async () => {
    await using group = await startSentinels({ password: 'p@ss/w:rd' });
    const log = keepLog();
    const client = await openClient({ url: group.url, logger: log });
    const followed = await follow(client);
    const [first, second] = group.servers;
    expect(await group.master()).toBe(first);
    await worksOn(group, client, followed);

    const sentinel = await group.ask();
    await eventually(() => sentinel.call('SENTINEL', 'FAILOVER', 'the master'), {
      timeoutMs: 10_000,
    });
    await eventually(async () => expect(await group.master()).toBe(second), { timeoutMs: 15_000 });
    await worksOn(group, client, followed);
    // The old master becomes a replica, and its subscribers find the new master.
    await eventually(() => expect(followed.resyncs).toContain('reconnected'), {
      timeoutMs: 15_000,
    });
    await worksOn(group, client, followed);

    // The old master replicates the new one, so it can take over again.
    const redis = await second?.client();
    await eventually(
      async () => expect(await redis?.info('replication')).toMatch(/slave0:.*state=online/),
      { timeoutMs: 15_000 },
    );
    // A sentinel inspects a new replica only after a while.
    await eventually(
      async () => {
        const [replica] = (await sentinel.call('SENTINEL', 'REPLICAS', 'the master')) as string[][];
        const of = (name: string) => replica?.[replica.indexOf(name) + 1];
        expect([of('flags'), of('master-link-status')]).toEqual(['slave', 'ok']);
      },
      { timeoutMs: 20_000, intervalMs: 100 },
    );
    const before = followed.resyncs.length;
    await second?.kill();
    await eventually(async () => expect(await group.master()).toBe(first), { timeoutMs: 20_000 });
    await worksOn(group, client, followed);
    await eventually(() => expect(followed.resyncs.length).toBeGreaterThan(before));
    expect(log.lines.join('\n')).not.toContain('p@ss');
  }, 90_000);

  test('with a password for the sentinels, some of which are down', async () => {
    await using group = await startSentinels({
      servers: 1,
      sentinels: 1,
      sentinelPassword: 'watch/ers',
    });
    const dead = await freePort();
    const url = group.url.replace('//', `//127.0.0.1:${dead},`);
    const client = await openClient({ url: `${url}/5`, sentinel: { password: 'watch/ers' } });
    await client.join(IDS);
    expect(await group.servers[0]?.dbsize(5)).toBeGreaterThan(0);

    const limits = { connectTimeoutMs: 1000 };
    const failure = (options: object) =>
      rejection(() => PresenceClient.connect({ limits, logger: {}, ...options }));
    const refused = await failure({ url, sentinel: { password: 'wrong' } });
    expect(refused.code).toBe('PERMISSION');
    expect(refused.message).toMatch(/\(a sentinel\)/);
    const unknown = await failure({
      url: url.replace('the%20master', 'nobody'),
      sentinel: { password: 'watch/ers' },
    });
    expect(unknown.code).toBe('INVALID_ARGUMENT');
    expect(unknown.message).toContain('know no master named "nobody"');
    const away = await failure({ url: `redis-sentinel://u:hush@127.0.0.1:${dead}/m` });
    expect(away.code).toBe('UNAVAILABLE');
    expect(away.message).toBe(`none of the sentinels 127.0.0.1:${dead} can be reached`);
    const malformed = await failure({ url: 'redis-sentinel://u:hush@h' });
    expect(malformed.code).toBe('INVALID_ARGUMENT');
    expect(malformed.message).toMatch(/redis-sentinel:.*master/);
  }, 60_000);

  test('with TLS to the sentinels and to the servers', async () => {
    await using group = await startSentinels({ servers: 1, sentinels: 1, tls: true });
    const tls = { ca: group.servers[0]?.tls?.ca ?? '' };
    const client = await openClient({ url: group.url, tls, sentinel: { tls } });
    await client.join(IDS);
    expect(await client.fetchRoomSnapshot('r')).toHaveLength(1);
    const plain = await rejection(() =>
      PresenceClient.connect({
        url: group.url,
        tls,
        limits: { connectTimeoutMs: 1000 },
        logger: {},
      }),
    );
    expect(plain.code).toBe('UNAVAILABLE');
  }, 60_000);

  test('the client leaves a server that is no longer master, even if it still answers', async () => {
    // Two masters, and one sentinel that is configured by hand: no connection ends.
    await using group = await startSentinels({ servers: 1, sentinels: 1 });
    await using other = await startSentinels({ servers: 1, sentinels: 1 });
    const [old, next] = [group.servers[0], other.servers[0]];
    if (!old || !next) throw new Error('no servers');
    const client = await openClient(group.url);
    const followed = await follow(client);
    await client.join(IDS);
    const sentinel = await group.ask();
    await sentinel.call('SENTINEL', 'REMOVE', 'the master');
    await sentinel.call('SENTINEL', 'MONITOR', 'the master', next.host, String(next.port), '1');
    await (await old.client()).replicaof(next.host, next.port);
    // The subscriber's connection sends nothing: only the check of its role can detect the change.
    await eventually(() => expect(followed.resyncs).toEqual(['reconnected']), {
      timeoutMs: 10_000,
    });
    const admin = await next.client();
    await eventually(async () => {
      await client.join({ ...IDS, connId: 'new' });
      expect(await admin.exists('prs:conn:new')).toBe(1);
      expect(followed.events.map(({ connId }) => connId)).toContain('new');
    });
  }, 60_000);
});

describe('11: rediss://', () => {
  test('tls.servername is the name for SNI and verification; the host is the address to connect to', async () => {
    await using server = await startRedis({ tls: true });
    const tls = { ca: server.tls?.ca ?? '' };
    const limits = { connectTimeoutMs: 2000 };
    const bound = { url: server.url, limits, logger: {} };
    const client = await openClient({ ...bound, tls: { ...tls, servername: 'localhost' } });
    await client.join(IDS);
    for (const servername of ['elsewhere.example', '127.0.0.2']) {
      const error = await rejection(() =>
        PresenceClient.connect({
          ...bound,
          tls: { ...tls, servername },
        }),
      );
      expect(error.code).toBe('PERMISSION');
    }
  });
});
