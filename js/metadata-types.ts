// The public types of channel metadata: what its calls take and give, and its events. No code.

/** What has metadata. */
export interface ChannelRef {
  channelName: string;
  /** Must not hold a colon, unless it is declared in `channelTypesWithColon` of the client. */
  channelType: string;
}

export interface GetMetadata extends ChannelRef {
  /** Who asks. Checked, and not used. */
  actorUserId?: string | undefined;
}

/** An item that a change names. */
export interface MetadataItemInput {
  key: string;
  /** Not given: `""` in `set`, the value that is there in `update`. */
  value?: string | undefined;
  /**
   * In `set`: the item's revision, if positive; else it is 1. In `update`: the revision that the item
   * must have; not given or negative: any. With `upsert`, an item that does not exist has revision 0.
   */
  revision?: number | undefined;
}

export interface MetadataOptions {
  /** The major revision that the record must have. Not given or negative: any. */
  majorRevision?: number | undefined;
  /** The lock that `actorUserId` must hold, checked in the same atomic step as the write. */
  lockName?: string | undefined;
  /** Whether the items get `updated`. Default `false`. */
  addTimestamp?: boolean | undefined;
  /** Whether the items get `authorUid`, from `actorUserId`. Default `false`. */
  addUserId?: boolean | undefined;
  /**
   * How long the record lives after this change; then it is as one that never existed. Milliseconds, a
   * whole number from 1. Each change decides anew. Default: the client's `metadataTtlMs`, and without
   * it until the record is changed again.
   */
  ttlMs?: number | undefined;
}

export interface UpdateMetadataOptions extends MetadataOptions {
  /** Whether the record and the items that do not exist are created, with revision 1. Default `false`. */
  upsert?: boolean | undefined;
}

export interface MetadataChange extends ChannelRef {
  options?: MetadataOptions | undefined;
  /** Who makes the change; becomes `authorUid` of the event. */
  actorUserId?: string | undefined;
  /**
   * The fencing token of the caller's grant of `options.lockName`: the change is refused if the lock
   * has been granted anew since.
   */
  fencingToken?: number | undefined;
}

export interface SetMetadata extends MetadataChange {
  /** All items of the record. Default: none. Of several with one key the last counts. */
  data?: readonly MetadataItemInput[] | undefined;
}

export interface UpdateMetadata extends MetadataChange {
  options?: UpdateMetadataOptions | undefined;
  /** The items to change, at least one. */
  data: readonly MetadataItemInput[];
}

export interface RemoveMetadata extends MetadataChange {
  /** The items to remove; only `key` is looked at. Default, and if empty: all. */
  data?: readonly { key: string }[] | undefined;
}

/** One item of a record. What other implementations stored in another form is as they stored it. */
export interface MetadataItem {
  value: string;
  /** Grows by one with every update of the item. */
  revision: number;
  /** When it was last changed with `addTimestamp`: ISO 8601, on the server's clock. */
  updated?: string;
  /** Who last changed it with `addUserId`. */
  authorUid?: string;
}

/** A channel's record. */
export interface ChannelMetadata extends ChannelRef {
  /** When this was so: milliseconds since 1970, on the server's clock. */
  timestamp: number;
  /** How many items there are. */
  totalCount: number;
  /** Grows by one with every change; 0 for a channel that never had metadata, or whose record expired. */
  majorRevision: number;
  metadata: Record<string, MetadataItem>;
}

/** A channel's record has changed. */
export interface MetadataEvent extends ChannelRef {
  operation: 'set' | 'update' | 'remove';
  /** The items that were set, changed, or removed; those as they were. */
  items: { key: string; value: string; revision: number }[];
  /** After the change. */
  majorRevision: number;
  /** Milliseconds since 1970, on the server's clock. */
  timestamp: number;
  /** The change's `actorUserId`. */
  authorUid?: string;
}

/** Gets metadata events. What it throws or rejects with is logged and disturbs nobody else. */
export type MetadataHandler = (event: MetadataEvent) => unknown;

/** Both: events of this channel only; the node then follows only this channel in Redis. */
export type MetadataSubscribeOptions = ChannelRef | { channelName?: never; channelType?: never };
