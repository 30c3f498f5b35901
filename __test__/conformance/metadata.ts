// What the tests of channel metadata share: a channel of the test's own, records in a few words,
// events as they came.
import type { ChannelMetadata, ChannelRef, MetadataEvent } from 'rollcall';
import { eventually } from '../support/wait.js';
import { type Client, ofCluster } from './stores.js';

export const CHANNEL: ChannelRef = { channelType: 'doc', channelName: 'one' };

/** The record without what is the same everywhere: `{ major, total, items: { key: [value, revision] } }`. */
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
  /** The events so far, complete: whatever was applied before this call is among them. */
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
    // Channels with these names have their slots on the three masters of a cluster.
    for (const i of ofCluster.has(client) ? [0, 1, 2] : ['']) {
      const key = `${number}-${i}`;
      const channelName = `${MARKER.channelName}${i}`;
      await client.metadata.set({ ...MARKER, channelName, data: [{ key }] });
      await eventually(() => all.some((event) => event.items[0]?.key === key), { intervalMs: 1 });
    }
    return [...events];
  };
  if (ofCluster.has(client)) {
    // What was published before, by the test before, may still be on the cluster's bus.
    await settled();
    events.length = 0;
  }
  return { events, stop, settled };
}
