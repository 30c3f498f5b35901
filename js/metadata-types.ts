// The public types of channel metadata: arguments, results and events. No code.

/** Identifies a channel. */
export interface ChannelRef {
  channelName: string;
  /** Must not contain a colon, unless it is declared in `channelTypesWithColon` of the client. */
  channelType: string;
}

export interface GetMetadata extends ChannelRef {
  /** The user that asks. Checked, and not used. */
  actorUserId?: string | undefined;
}

/** An item in a change. */
export interface MetadataItemInput {
  key: string;
  /** Default: `""` in `set`, the current value in `update`. */
  value?: string | undefined;
  /**
   * In `set`: the item's revision, if positive; otherwise it is 1. In `update`: the revision that
   * the item must have; absent or negative: any. With `upsert`, a missing item has revision 0.
   */
  revision?: number | undefined;
}

export interface MetadataOptions {
  /** The major revision that the record must have. Absent or negative: any. */
  majorRevision?: number | undefined;
  /** The lock that `actorUserId` must hold, checked in the same atomic step as the write. */
  lockName?: string | undefined;
  /** Whether the items get `updated`. Default `false`. */
  addTimestamp?: boolean | undefined;
  /** Whether the items get `authorUid`, from `actorUserId`. Default `false`. */
  addUserId?: boolean | undefined;
  /**
   * The TTL of the record after this change; an expired record behaves like one that never existed.
   * Milliseconds, a whole number from 1. Each change sets the TTL again. Default: the client's
   * `metadataTtlMs`, and without it no expiry until the next change.
   */
  ttlMs?: number | undefined;
}

export interface UpdateMetadataOptions extends MetadataOptions {
  /** Whether a missing record and missing items are created, with revision 1. Default `false`. */
  upsert?: boolean | undefined;
}

export interface MetadataChange extends ChannelRef {
  options?: MetadataOptions | undefined;
  /** The user that makes the change; the `authorUid` of the event. */
  actorUserId?: string | undefined;
  /**
   * The fencing token of the caller's grant of `options.lockName`: the change is refused if the
   * lock has been granted again since.
   */
  fencingToken?: number | undefined;
}

export interface SetMetadata extends MetadataChange {
  /** All items of the record. Default: none. Of several items with one key the last counts. */
  data?: readonly MetadataItemInput[] | undefined;
}

export interface UpdateMetadata extends MetadataChange {
  options?: UpdateMetadataOptions | undefined;
  /** The items to change, at least one. */
  data: readonly MetadataItemInput[];
}

export interface RemoveMetadata extends MetadataChange {
  /** The items to remove; only `key` is used. Default, and if empty: all. */
  data?: readonly { key: string }[] | undefined;
}

/**
 * One item of a record. Items that other implementations stored in another form are returned
 * unchanged.
 */
export interface MetadataItem {
  value: string;
  /** Grows by one with every update of the item. */
  revision: number;
  /** The time of its last change with `addTimestamp`: ISO 8601, on the server's clock. */
  updated?: string;
  /** The user of its last change with `addUserId`. */
  authorUid?: string;
}

/** A channel's record. */
export interface ChannelMetadata extends ChannelRef {
  /** The time of this answer: milliseconds since 1970, on the server's clock. */
  timestamp: number;
  /** The number of items. */
  totalCount: number;
  /** Grows by one with every change; 0 for a channel that never had metadata, or whose record expired. */
  majorRevision: number;
  metadata: Record<string, MetadataItem>;
}

/** A channel's record has changed. */
export interface MetadataEvent extends ChannelRef {
  operation: 'set' | 'update' | 'remove';
  /** The items that were set, changed, or removed (with their last values). */
  items: { key: string; value: string; revision: number }[];
  /** The revision after the change. */
  majorRevision: number;
  /** Milliseconds since 1970, on the server's clock. */
  timestamp: number;
  /** The change's `actorUserId`. */
  authorUid?: string;
}

/** Receives metadata events. Exceptions and rejections are logged and affect no other handler. */
export type MetadataHandler = (event: MetadataEvent) => unknown;

/**
 * With both: events of this channel only; the node then subscribes only to this channel in Redis.
 */
export type MetadataSubscribeOptions = ChannelRef | { channelName?: never; channelType?: never };
