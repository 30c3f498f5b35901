// Conversions of arguments and stored items that do not quite match the types of the legacy
// implementation: text for numbers, `null`, empty names. Calls of a PresenceService have the same
// effect as there; values that it would have stored as garbage are left for the client to refuse.
// docs/guide/migrating-differences.md lists every call that differs.

import { CHANGE_FIELDS, ITEM_FIELDS, OPTION_FIELDS } from '../metadata.js';
import type {
  ChannelMetadata,
  ChannelRef,
  MetadataEvent,
  MetadataItem,
  MetadataItemInput,
  UpdateMetadataOptions,
} from '../metadata-types.js';
import { isArray, readItems, readKnown } from '../validate.js';

type Fields = Record<string, unknown>;

/** The arguments of calls for a channel's metadata. */
export interface ChannelMetadataParams extends ChannelRef {
  /** The items to set, change or remove. */
  data?: readonly MetadataItemInput[] | undefined;
  options?: UpdateMetadataOptions | undefined;
  /** The user that makes the change. */
  actorUserId?: string | undefined;
}

/**
 * Copies the known fields and reads each once: the legacy implementation ignored other fields,
 * which a client refuses. Values that are not objects, or cannot be read, are left for the client
 * to refuse.
 */
export function known<T>(from: T, fields: readonly string[]): T {
  if (typeof from !== 'object' || from === null || isArray(from)) {
    return from;
  }
  try {
    return readKnown(from, fields) as T;
  } catch {
    return from;
  }
}

/** Whether {@link known} has copied it. (`NaN` never equals the given value.) */
export function isRead(values: unknown, given: unknown): values is Fields {
  return typeof values === 'object' && values !== null && values !== given;
}

/** A number, converted like in JavaScript's own comparisons. */
export function numberOf(value: unknown): unknown {
  switch (typeof value) {
    case 'string':
    case 'boolean':
    case 'bigint':
      return Number(value);
    default:
      return value === null ? 0 : value;
  }
}

/** An epoch: a negative number becomes 0, which is below every epoch; fractions are rounded down. */
export function epochOf(value: unknown): unknown {
  const epoch = numberOf(value);
  return typeof epoch === 'number' && Number.isFinite(epoch)
    ? Math.max(0, Math.floor(epoch))
    : epoch;
}

/** A change of metadata, its options and its items. */
export function changeOf(params: ChannelMetadataParams): ChannelMetadataParams {
  const change: unknown = known(params, CHANGE_FIELDS);
  if (!isRead(change, params)) {
    return params;
  }
  change.options = optionsOf(change.options);
  // An actor with an empty name is absent: it owns no lock and is no author.
  change.actorUserId = change.actorUserId === '' ? undefined : (change.actorUserId ?? undefined);
  change.data ??= undefined;
  if (isArray(change.data)) {
    change.data = readItems('data', change.data).map(itemOf);
  }
  return change as unknown as ChannelMetadataParams;
}

function optionsOf(given: unknown): unknown {
  const options: unknown = known(given ?? undefined, OPTION_FIELDS);
  if (!isRead(options, given)) {
    return options;
  }
  options.majorRevision = numberOf(options.majorRevision);
  // An empty name means that there is no lock to check.
  options.lockName = options.lockName === '' ? undefined : (options.lockName ?? undefined);
  options.addTimestamp = Boolean(options.addTimestamp);
  options.addUserId = Boolean(options.addUserId);
  return options;
}

function itemOf(given: unknown): MetadataItemInput {
  const item = known(given, ITEM_FIELDS);
  if (isRead(item, given)) {
    if (typeof item.key === 'number') {
      item.key = String(item.key);
    }
    item.value = textOf(item.value);
    item.revision = numberOf(item.revision);
  }
  return item as unknown as MetadataItemInput;
}

/**
 * `null` becomes the empty text; numbers and booleans become text. Objects are left to be refused.
 */
function textOf(value: unknown): unknown {
  switch (typeof value) {
    case 'number':
    case 'boolean':
    case 'bigint':
      return String(value);
    default:
      return value === null ? '' : value;
  }
}

/** Items that were stored in another form, as the legacy implementation read them. */
export function recordOf(record: ChannelMetadata): ChannelMetadata {
  const { metadata } = record;
  for (const key of Object.keys(metadata)) {
    const item = metadata[key] as unknown;
    if (typeof item !== 'object' || item === null) {
      delete metadata[key];
    } else if (!isItem(item)) {
      // A key may be `__proto__`, which an assignment would not set.
      Object.defineProperty(metadata, key, {
        value: readItem(item as Fields),
        ...{ enumerable: true, configurable: true, writable: true },
      });
    }
  }
  return record;
}

/** The same for an event, which other subscribers may share. */
export function eventOf(event: MetadataEvent): MetadataEvent {
  if (event.items.every(isItem)) {
    return event;
  }
  const items = event.items.map(({ key, ...item }) => {
    const { value, revision } = readItem(item);
    return { key, value, revision };
  });
  return { ...event, items };
}

function isItem(item: object): item is MetadataItem {
  const { value, revision } = item as Fields;
  return typeof value === 'string' && typeof revision === 'number';
}

function readItem({ value, revision, updated, authorUid }: Fields): MetadataItem {
  const number = orElse(() => Number(revision), 0);
  return {
    value: value === undefined || value === null ? '' : orElse(() => String(value), ''),
    revision: Number.isFinite(number) ? number : 0,
    ...(typeof updated === 'string' ? { updated } : {}),
    ...(typeof authorUid === 'string' ? { authorUid } : {}),
  };
}

/**
 * An object whose `toString` is not a function, which JSON can contain, has neither text nor
 * number.
 */
function orElse<T>(read: () => T, otherwise: T): T {
  try {
    return read();
  } catch {
    return otherwise;
  }
}
