// Starts a Redis Cluster on free ports of the loopback interface. Reports the CPU time of all its
// servers, and the bytes that they send each other on the cluster bus.
import { execFileSync } from 'node:child_process';
import { connectIoredis } from './connect.mjs';
import { serverCpuMs } from './measure.mjs';
import { freePort, startRedis } from './redis-server.mjs';

const SLOTS = 16_384;
const WAIT_MS = 20;
const MAX_WAITS = 1000;

/**
 * @param {string} program path of a redis-server
 * @param {{ masters?: number, replicas?: number }} [options] `replicas`: of each master
 */
export async function startCluster(program, { masters = 3, replicas = 0 } = {}) {
  const servers = [];
  const clients = [];
  const stop = () => {
    for (const client of clients) client.disconnect();
    for (const server of servers) server.stop();
  };
  try {
    for (let i = 0; i < masters * (1 + replicas); i++) {
      const busPort = await freePort();
      const server = await startRedis(program, {
        databases: [1],
        'cluster-enabled': ['yes'],
        'cluster-config-file': ['nodes.conf'],
        'cluster-port': [busPort],
        'repl-diskless-sync-delay': [0],
      });
      servers.push({ ...server, busPort });
      clients.push(connectIoredis({ port: server.port, db: 0 }));
    }
    await form({ servers, clients, masters });
  } catch (error) {
    stop();
    throw error;
  }
  return {
    url: `redis-cluster://${servers.map(({ port }) => `127.0.0.1:${port}`).join(',')}`,
    ports: servers.map(({ port }) => port),
    masterPorts: servers.slice(0, masters).map(({ port }) => port),
    /** CPU time of all servers so far, in milliseconds. */
    cpuMs: async () => sum(await Promise.all(clients.map(serverCpuMs))),
    /** Bytes sent between servers so far; `undefined` where `ss` is missing. */
    busBytes: () => busBytes(new Set(servers.map(({ busPort }) => busPort))),
    stop,
  };
}

async function form({ servers, clients, masters }) {
  const [first] = clients;
  for (const [i, { port, busPort }] of servers.entries()) {
    await clients[i].call('CLUSTER', 'SET-CONFIG-EPOCH', i + 1);
    if (i < masters) {
      const [from, to] = [i, i + 1].map((n) => Math.floor((SLOTS * n) / masters));
      await clients[i].call('CLUSTER', 'ADDSLOTSRANGE', from, to - 1);
    }
    if (i > 0) await first.call('CLUSTER', 'MEET', '127.0.0.1', port, busPort);
  }
  const ids = await Promise.all(clients.map((client) => client.call('CLUSTER', 'MYID')));
  await until('every server knows every other', clients, async (client) => {
    const nodes = `${await client.call('CLUSTER', 'NODES')}`;
    return ids.every((id) => nodes.includes(id)) && !nodes.includes('handshake');
  });
  for (let i = masters; i < clients.length; i++) {
    await clients[i].call('CLUSTER', 'REPLICATE', ids[i % masters]);
  }
  await until('the cluster is complete', clients, async (client, i) => {
    const info = `${await client.call('CLUSTER', 'INFO')}`;
    const replication = i < masters ? 'link_status:up' : await client.info('replication');
    // What a server publishes does not reach servers that it is not connected to.
    const nodes = `${await client.call('CLUSTER', 'NODES')}`;
    return (
      info.includes('cluster_state:ok') &&
      replication.includes('link_status:up') &&
      !nodes.includes('disconnected')
    );
  });
}

async function until(description, clients, holds) {
  for (const [i, client] of clients.entries()) {
    for (let waits = 0; !(await holds(client, i)); waits++) {
      if (waits === MAX_WAITS) throw new Error(`timed out: ${description}`);
      await new Promise((resolve) => setTimeout(resolve, WAIT_MS));
    }
  }
}

/** Each end of a connection counts the bytes that it sends. */
function busBytes(ports) {
  let sockets;
  try {
    sockets = execFileSync('ss', ['-tinHO', 'state', 'established'], {
      encoding: 'utf8',
      maxBuffer: 1 << 28,
    });
  } catch {
    return undefined;
  }
  let bytes = 0;
  for (const line of sockets.split('\n')) {
    const ends = [...line.matchAll(/:(\d+)(?=\s)/g)].slice(0, 2).map(([, port]) => Number(port));
    if (!ends.some((port) => ports.has(port))) continue;
    bytes += Number(/ bytes_sent:(\d+)/.exec(line)?.[1] ?? 0);
  }
  return bytes;
}

const sum = (values) => values.reduce((total, value) => total + value, 0);
