-- metadata_commit_json: as metadata_commit.lua, for records that are RedisJSON documents
-- `{majorRevision, totalCount, items}`. Items that changed are written by path; nothing else of the
-- document is read or sent.
--
-- KEYS[1]  – prs:{chan:<type>:<name>}:meta
-- KEYS[2]  – prs:{chan:<type>:<name>}:meta_events (channel)
-- KEYS[3..] – for each lock: its key, and the key of its fencing token
--
-- ARGV[1] – majorRevision that the changes were computed on ('' for no document)
-- ARGV[2] – majorRevision after them, '' to write nothing
-- ARGV[3] – totalCount after them
-- ARGV[4] – how many events there are
-- ARGV[5] – how long the record lives after them (ms), '' for until it is changed again
-- ARGV[6] – how many items changed; -1 for all of them
-- ARGV[7..] – for each lock: who must own it ('' for nobody), fencing token of the grant ('' for none)
-- then for each event: its text before the timestamp, its text after it
-- then for each item that changed: its path, its text before the time, its text after it ('' if the
--         time is not in it); or all items: the parts between which the time belongs
--
-- Returns {COMMITTED, now, the same in ISO 8601}
--      or {LOCKED, lock, NOT_HELD | HELD_BY_OTHER | OUTRUN | UNREADABLE, newest token or '', …}: three
--         for each lock that does not let the changes through; locks are counted from 0
--      or {CHANGED, items, majorRevision, now}: the locks let them through, but the record is this one
-- Only COMMITTED has written anything.
--
-- Races: as in metadata_commit.lua, but majorRevision alone tells whether the record is another one:
-- only this script writes such documents, and it never gives a majorRevision twice.
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

local refused = refusals(7)
if #refused > 0 then
  return { LOCKED, unpack(refused) }
end

-- A part of the document, as JSON text: '' without a document, 'unreadable' if it has no such part.
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

local major = part('.majorRevision')
if major ~= ARGV[1] then
  return { CHANGED, part('.items'), major, integer(now) }
end

local time = iso_time(now)
if after ~= '' then
  may_publish(KEYS[2])
  local at = 7 + #KEYS - 2
  local items = at + 2 * events
  if changed < 0 then
    redis.call('JSON.SET', KEYS[1], '$', '{"majorRevision":' .. after .. ',"totalCount":' .. total
      .. ',"items":' .. table.concat(ARGV, time, items) .. '}')
  else
    for item = items, items + 3 * changed - 1, 3 do
      local text = ARGV[item + 1]
      if ARGV[item + 2] ~= '' then
        text = text .. time .. ARGV[item + 2]
      end
      redis.call('JSON.SET', KEYS[1], ARGV[item], text)
    end
    redis.call('JSON.SET', KEYS[1], '$.majorRevision', after)
  end
  record_ttl(KEYS[1], ARGV[5])
  for event = at, items - 1, 2 do
    redis.call('PUBLISH', KEYS[2], ARGV[event] .. integer(now) .. ARGV[event + 1])
  end
end
return { COMMITTED, integer(now), time }
