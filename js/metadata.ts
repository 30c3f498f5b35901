// Channel metadata as `client.metadata`: checks arguments that only JavaScript can check and passes
// calls to the core as JSON text, in which `__proto__` is an ordinary key.

import { channelKey, type Dispatcher, FEEDS } from './dispatcher.js';
import { invalid } from './errors.js';
import type {
  ChannelMetadata,
  GetMetadata,
  MetadataHandler,
  MetadataSubscribeOptions,
  RemoveMetadata,
  SetMetadata,
  UpdateMetadata,
} from './metadata-types.js';
import type { Session } from './session.js';
import type { Unsubscribe } from './types.js';
import {
  checkCount,
  checkFlag,
  checkHandler,
  checkId,
  checkOptions,
  checkRevision,
  checkText,
  checkWhole,
  isArray,
  readFields,
  readItems,
} from './validate.js';

type Operation = 'set' | 'update' | 'remove';

const CHANNEL_FIELDS = ['channelName', 'channelType'] as const;
/** Every call accepts the user that makes it. */
export const GET_FIELDS = [...CHANNEL_FIELDS, 'actorUserId'] as const;
export const CHANGE_FIELDS = [...GET_FIELDS, 'data', 'options', 'fencingToken'] as const;
export const OPTION_FIELDS = [
  'majorRevision',
  'lockName',
  'addTimestamp',
  'addUserId',
  'ttlMs',
  'upsert',
] as const;
export const ITEM_FIELDS = ['key', 'value', 'revision'] as const;

/**
 * The metadata of channels: a small versioned record of items for each. Every change is one atomic
 * step with its event; changes of one channel that arrive while others are in flight share it.
 * Writers without an expected revision never get a conflict, and no change is lost.
 *
 * Changes reject with `METADATA_CONFLICT` (the error's `current` is the current record),
 * `METADATA_LOCK`, `METADATA_INVALID`, `CORRUPT_DATA` (the key contains data of another program),
 * `OVERLOADED`, and like all calls with `INVALID_ARGUMENT`, `UNAVAILABLE`, `TIMEOUT`,
 * `PERMISSION`, `CLOSED`.
 */
export class Metadata {
  readonly #session: Session;
  readonly #dispatcher: Pick<Dispatcher<never>, 'addMetadata'>;

  /** @internal */
  constructor(session: Session, dispatcher: Pick<Dispatcher<never>, 'addMetadata'>) {
    this.#session = session;
    this.#dispatcher = dispatcher;
  }

  /** Replaces the whole record. */
  set(change: SetMetadata): Promise<ChannelMetadata> {
    return this.#change('set', change);
  }

  /**
   * Changes existing items; each gets its next revision. With `options.upsert`, missing items and a
   * missing record are created.
   *
   * @throws `METADATA_INVALID` if the record or an item does not exist; then nothing is changed.
   */
  update(change: UpdateMetadata): Promise<ChannelMetadata> {
    return this.#change('update', change);
  }

  /** Removes the given items, or all. If no item exists, there is no new revision and no event. */
  remove(change: RemoveMetadata): Promise<ChannelMetadata> {
    return this.#change('remove', change);
  }

  /** The record; for an unknown channel, one without items and with major revision 0. */
  async get(channel: GetMetadata): Promise<ChannelMetadata> {
    checkOptions('metadata.get', channel);
    const { channelName, channelType, actorUserId } = readFields(
      'metadata.get',
      channel,
      GET_FIELDS,
    );
    checkId('channelName', channelName);
    checkId('channelType', channelType);
    if (actorUserId !== undefined) {
      checkId('actorUserId', actorUserId);
    }
    return (await this.#session.call('metadataGet', channelType, channelName)) as ChannelMetadata;
  }

  /**
   * Calls `handler` for each metadata event of all channels, or of one. Resolves when Redis has
   * confirmed the subscription. The events of a channel arrive in the order of its revisions.
   *
   * @returns a function that ends the subscription. An open subscription keeps the process alive.
   */
  async subscribe(
    handler: MetadataHandler,
    options: MetadataSubscribeOptions = {},
  ): Promise<Unsubscribe> {
    checkHandler('handler', handler);
    checkOptions('metadata.subscribe', options);
    const { channelName, channelType } = readFields('metadata.subscribe', options, CHANNEL_FIELDS);
    if (channelName === undefined && channelType === undefined) {
      const remove = this.#dispatcher.addMetadata(undefined, handler);
      return this.#session.subscribe(FEEDS.allChannels, '', remove);
    }
    checkId('channelName', channelName);
    checkId('channelType', channelType);
    const key = channelKey({ channelType, channelName });
    const remove = this.#dispatcher.addMetadata(key, handler);
    return this.#session.subscribe(FEEDS.channel, key, remove);
  }

  async #change(operation: Operation, change: object): Promise<ChannelMetadata> {
    checkOptions(`metadata.${operation}`, change);
    const { channelName, channelType, data, options, actorUserId, fencingToken } = readFields(
      `metadata.${operation}`,
      change,
      CHANGE_FIELDS,
    );
    checkId('channelName', channelName);
    checkId('channelType', channelType);
    if (actorUserId !== undefined) {
      checkId('actorUserId', actorUserId);
    }
    if (fencingToken !== undefined) {
      checkWhole('fencingToken', fencingToken);
    }
    const request = JSON.stringify({
      data: itemsOf(operation, data),
      ...optionsOf(options),
      actorUserId,
      fencingToken,
    });
    return (await this.#session.call(
      'metadataChange',
      operation,
      channelType,
      channelName,
      request,
    )) as ChannelMetadata;
  }
}

function optionsOf(options: unknown): object {
  if (options === undefined) {
    return {};
  }
  checkOptions('options', options);
  const { majorRevision, lockName, addTimestamp, addUserId, ttlMs, upsert } = readFields(
    'options',
    options,
    OPTION_FIELDS,
  );
  if (lockName !== undefined) {
    checkId('options.lockName', lockName);
  }
  if (ttlMs !== undefined) {
    checkCount('options.ttlMs', ttlMs);
  }
  return {
    majorRevision: checkRevision('options.majorRevision', majorRevision),
    lockName,
    addTimestamp: checkFlag('options.addTimestamp', addTimestamp, false),
    addUserId: checkFlag('options.addUserId', addUserId, false),
    ttlMs,
    upsert: checkFlag('options.upsert', upsert, false),
  };
}

function itemsOf(operation: Operation, data: unknown): object[] {
  if (data === undefined) {
    return [];
  }
  if (!isArray(data)) {
    throw invalid('data must be an array of items, each with a key');
  }
  return readItems('data', data).map((item, place) => {
    const field = `data[${place}]`;
    checkOptions(field, item);
    const { key, value, revision } = readFields(field, item, ITEM_FIELDS);
    checkText(`${field}.key`, key);
    if (!key.isWellFormed()) {
      throw invalid(`${field}.key holds half a surrogate pair, which is no Unicode text`);
    }
    if (operation === 'remove') {
      return { key };
    }
    if (value !== undefined) {
      checkText(`${field}.value`, value);
    }
    return { key, value, revision: checkRevision(`${field}.revision`, revision) };
  });
}
