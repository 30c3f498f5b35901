// Describes the machine of a run, as far as the figures need it: no names and no paths.
import os from 'node:os';
import { Redis } from 'ioredis';
import { threadClock } from './clock.mjs';

export async function describeMachine(port) {
  const redis = new Redis(port, '127.0.0.1');
  const info = await redis.info('server');
  redis.disconnect();
  const version = (name) => new RegExp(`^${name}:(.*?)\\r?$`, 'm').exec(info)?.[1];
  return {
    cpu: os.cpus()[0]?.model.trim() ?? 'unknown',
    cores: os.availableParallelism(),
    memoryGB: Math.round(os.totalmem() / 2 ** 30),
    platform: `${process.platform} ${process.arch}`,
    node: process.versions.node,
    server: version('valkey_version')
      ? `Valkey ${version('valkey_version')}`
      : `Redis ${version('redis_version')}`,
    threadClock,
    /** Load average of the minute before the run: above 0.5, other processes were busy. */
    loadBefore: Number(os.loadavg()[0].toFixed(2)),
  };
}

export function machineLine({ cpu, cores, memoryGB, platform, node, server }) {
  return `${cores} cores (${cpu}), ${memoryGB} GB, ${platform}, Node.js ${node}, ${server} on the same machine`;
}
