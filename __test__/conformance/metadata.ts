// Helpers of the channel metadata tests: a test channel, short forms of records, and recorded
// events.
import type { ChannelMetadata, ChannelRef, MetadataEvent } from 'rollcall';
import { eventually } from '../support/wait.js';
import { type Client, ofCluster } from './stores.js';

export const CHANNEL: ChannelRef = { channelType: 'doc', channelName: 'one' };

/** The fields of the record that differ: `{ major, total, items: { key: [value, revision] } }`. */
export function brief({ majorRevision, totalCount, metadata }: ChannelMetadata) {
  const items = Object.entries(metadata).map(([key, { value, revision }]) => [
    key,
    [value, revision],
  ]);
  return { major: majorRevision, total: totalCount, items: Object.fromEntries(items) };
}

/** Items to set, from `{ key: value }`. */
export function items(values: Record<string, string>): { key: string; value: string }[] {
  return Object.entries(values).map(([key, value]) => ({ key, value }));
}

export interface MetadataRecorder {
  readonly events: MetadataEvent[];
  /** All events so far, including those of all changes applied before this call. */
  settled(): Promise<MetadataEvent[]>;
  stop(): Promise<void>;
}

const MARKER: ChannelRef = { channelType: 'marker-of-the-tests', channelName: 'marker' };
let markers = 0;

/** Subscribes to all channels. */
export async function recordMetadata(client: Client): Promise<MetadataRecorder> {
  const all: MetadataEvent[] = [];
  const events: MetadataEvent[] = [];
  const stop = await client.metadata.subscribe((event) => {
    all.push(event);
    if (event.channelType !== MARKER.channelType) events.push(event);
  });
  const settled = async () => {
    const number = ++markers;
    // The slots of these names are on the three masters of a cluster.
    for (const i of ofCluster.has(client) ? [0, 1, 2] : ['']) {
      const key = `${number}-${i}`;
      const channelName = `${MARKER.channelName}${i}`;
      await client.metadata.set({ ...MARKER, channelName, data: [{ key }] });
      await eventually(() => all.some((event) => event.items[0]?.key === key), { intervalMs: 1 });
    }
    return [...events];
  };
  if (ofCluster.has(client)) {
    // Events of the previous test may still be on the cluster's bus.
    await settled();
    events.length = 0;
  }
  return { events, stop, settled };
}
