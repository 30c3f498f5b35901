-- metadata_commit: writes the result of changes to a channel's record and publishes their events, if
-- the record is still the one that the changes were computed on, and if the required locks are held.
--
-- KEYS[1]  – prs:{chan:<type>:<name>}:meta
-- KEYS[2]  – prs:{chan:<type>:<name>}:meta_events (channel)
-- KEYS[3..] – for each lock: its key, and the key of its fencing token
--
-- ARGV[1] – items that the changes were computed on (exact text, '' for missing)
-- ARGV[2] – majorRevision that they were computed on (exact text, '' for missing)
-- ARGV[3] – majorRevision after them, '' to write nothing
-- ARGV[4] – totalCount after them
-- ARGV[5] – number of events
-- ARGV[6] – how long the record lives after them (ms), '' if it does not expire
-- ARGV[7..] – for each lock: the required owner ('' for none), fencing token of the grant ('' for
--             none)
-- then for each event: its text before the timestamp, its text after it
-- then the items after the changes: the parts between which the time is inserted
--
-- Returns {COMMITTED, now, the same in ISO 8601 if it was inserted between parts, else ''}
--      or {LOCKED, lock, NOT_HELD | HELD_BY_OTHER | OUTRUN | UNREADABLE, newest token or '', …}:
--         three values for each lock that does not allow the changes; locks are counted from 0
--      or {CHANGED, items, majorRevision, now}: the locks allow them, but the stored record is this
--         one
-- Only COMMITTED has written anything.
--
-- Races: comparison, check of the locks, write and events are one step. Of two changes that were
-- computed on one record, only the first is written. The other gets the record back and is computed
-- again. The whole text is compared, because legacy nodes check first and write later, so they can
-- write the same majorRevision twice with different items.
-- @include now
-- @include event
-- @include may_publish
-- @include iso
-- @include locks
-- @include record_ttl
local COMMITTED = 0
local LOCKED = 1
local CHANGED = 2

local after, total, events = ARGV[3], ARGV[4], tonumber(ARGV[5])
local locks = (#KEYS - 2) / 2

local refused = refusals(7)
if #refused > 0 then
  return { LOCKED, unpack(refused) }
end

local found = redis.call('HMGET', KEYS[1], 'items', 'majorRevision')
local items, major = found[1] or '', found[2] or ''
if items ~= ARGV[1] or major ~= ARGV[2] then
  return { CHANGED, items, major, integer(now) }
end

local time = ''
if after ~= '' then
  may_publish(KEYS[2])
  local first = 7 + 2 * locks
  local last = first + 2 * events
  local text = ARGV[last]
  if #ARGV > last then
    time = iso_time(now)
    text = table.concat(ARGV, time, last)
  end
  redis.call('HSET', KEYS[1], 'items', text, 'totalCount', total, 'majorRevision', after)
  record_ttl(KEYS[1], ARGV[6])
  for at = first, last - 1, 2 do
    redis.call('PUBLISH', KEYS[2], ARGV[at] .. integer(now) .. ARGV[at + 1])
  end
end
return { COMMITTED, integer(now), time }
