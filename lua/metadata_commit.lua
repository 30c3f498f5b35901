-- metadata_commit: writes what changes have made of a channel's record, if the record is still the
-- one that they were computed on and the locks that they ask for are held, and publishes their events.
--
-- KEYS[1]  – prs:{chan:<type>:<name>}:meta
-- KEYS[2]  – prs:{chan:<type>:<name>}:meta_events (channel)
-- KEYS[3..] – for each lock: its key, and the key of its fencing token
--
-- ARGV[1] – items that the changes were computed on (exact text, '' for missing)
-- ARGV[2] – majorRevision that they were computed on (exact text, '' for missing)
-- ARGV[3] – majorRevision after them, '' to write nothing
-- ARGV[4] – totalCount after them
-- ARGV[5] – how many events there are
-- ARGV[6] – how long the record lives after them (ms), '' for until it is changed again
-- ARGV[7..] – for each lock: who must own it ('' for nobody), fencing token of the grant ('' for none)
-- then for each event: its text before the timestamp, its text after it
-- then the items after the changes: the parts between which the time belongs
--
-- Returns {COMMITTED, now, the same in ISO 8601 if it was put between parts, else ''}
--      or {LOCKED, lock, NOT_HELD | HELD_BY_OTHER | OUTRUN | UNREADABLE, newest token or '', …}: three
--         for each lock that does not let the changes through; locks are counted from 0
--      or {CHANGED, items, majorRevision, now}: the locks let them through, but the record is this one
-- Only COMMITTED has written anything.
--
-- Races: compare, check of the locks, write and events are one step, so of two changes that were
-- computed on one record only the first is written; the other gets the record back and is computed
-- anew. The whole text is compared: nodes that know nothing of this script check first and write
-- later, so they can write the same majorRevision twice, with other items.
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
