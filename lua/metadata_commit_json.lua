-- metadata_commit_json: like metadata_commit.lua, for records that are RedisJSON documents
-- `{majorRevision, totalCount, items, id}`. Changed items are written by path. The rest of the
-- document is neither read nor sent.
--
-- KEYS[1]  – prs:{chan:<type>:<name>}:meta
-- KEYS[2]  – prs:{chan:<type>:<name>}:meta_events (channel)
-- KEYS[3..] – for each lock: its key, and the key of its fencing token
--
-- ARGV[1] – majorRevision that the changes were computed on ('' for no document)
-- ARGV[2] – majorRevision after them, '' to write nothing
-- ARGV[3] – totalCount after them
-- ARGV[4] – number of events
-- ARGV[5] – how long the record lives after them (ms), '' if it does not expire
-- ARGV[6] – number of changed items; -1 for all of them
-- ARGV[7] – id of the document that the changes were computed on ('' for none)
-- ARGV[8] – id for the document, if this creates or replaces it, or if it has none
-- ARGV[9..] – for each lock: the required owner ('' for none), fencing token of the grant ('' for
--             none)
-- then for each event: its text before the timestamp, its text after it
-- then for each changed item: its path, its text before the time, its text after it ('' if the item
--         does not contain the time); or all items: the parts between which the time is inserted
--
-- Returns {COMMITTED, now, the same in ISO 8601, id of the document}
--      or {LOCKED, lock, NOT_HELD | HELD_BY_OTHER | OUTRUN | UNREADABLE, newest token or '', …}:
--         three values for each lock that does not allow the changes; locks are counted from 0
--      or {CHANGED, items, majorRevision, now, id}: the locks allow them, but the stored record is
--         this one
-- Only COMMITTED has written anything.
--
-- Races: as in metadata_commit.lua, but records are compared by id and majorRevision. This is
-- sufficient, because only this script writes such documents, and it never uses a majorRevision twice
-- with one id. After a document was deleted or has expired, the next one begins with majorRevision 1
-- again, and may reach any revision that a node remembers of the former document. Its id differs.
-- @include now
-- @include event
-- @include iso
-- @include locks
-- @include may_publish
-- @include record_ttl
local COMMITTED = 0
local LOCKED = 1
local CHANGED = 2

local after, total, events, changed = ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[6])

local refused = refusals(9)
if #refused > 0 then
  return { LOCKED, unpack(refused) }
end

-- A part of the document as JSON text: '' without a document, 'unreadable' if the part is missing.
local kind = redis.call('TYPE', KEYS[1]).ok
local function part(path)
  if kind == 'none' then
    return ''
  end
  local text = redis.pcall('JSON.GET', KEYS[1], path)
  return type(text) == 'string' and text or 'unreadable'
end
if kind ~= 'none' and kind ~= 'ReJSON-RL' then
  return redis.error_reply('WRONGTYPE the key holds no JSON document')
end

local major, id = part('.majorRevision'), part('.id')
if id == 'unreadable' then
  -- A document of an older version or of other software.
  id = ''
end
if major ~= ARGV[1] or id ~= ARGV[7] then
  return { CHANGED, part('.items'), major, integer(now), id }
end

local time = iso_time(now)
if after ~= '' then
  may_publish(KEYS[2])
  local at = 9 + #KEYS - 2
  local items = at + 2 * events
  if changed < 0 then
    id = ARGV[8]
    redis.call('JSON.SET', KEYS[1], '$', '{"majorRevision":' .. after .. ',"totalCount":' .. total
      .. ',"items":' .. table.concat(ARGV, time, items) .. ',"id":' .. id .. '}')
  else
    for item = items, items + 3 * changed - 1, 3 do
      local text = ARGV[item + 1]
      if ARGV[item + 2] ~= '' then
        text = text .. time .. ARGV[item + 2]
      end
      redis.call('JSON.SET', KEYS[1], ARGV[item], text)
    end
    redis.call('JSON.SET', KEYS[1], '$.majorRevision', after)
    if id == '' then
      id = ARGV[8]
      redis.call('JSON.SET', KEYS[1], '$.id', id)
    end
  end
  record_ttl(KEYS[1], ARGV[5])
  for event = at, items - 1, 2 do
    redis.call('PUBLISH', KEYS[2], ARGV[event] .. integer(now) .. ARGV[event + 1])
  end
end
return { COMMITTED, integer(now), time, id }
