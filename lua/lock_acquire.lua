-- lock_acquire: acquires a lock, or adds a place to its queue, or refreshes that place.
--
-- KEYS[1..7] – the lock's keys (include/lock.lua)
-- ARGV[1] – name          ARGV[2] – name as JSON string
-- ARGV[3] – by: proof of the holder            ARGV[4] – owner's id
-- ARGV[5] – owner's id as JSON string; '': publish no events of this lock
-- ARGV[6] – ttl (ms)      ARGV[7] – token: 'next', 'ask' (compute the next one, but do not save it),
--           or the one that the lock was already granted with on other servers
-- ARGV[8] – how long the token is kept after its last use (ms)
-- ARGV[9] – number of the request within its node   ARGV[10] – wake channel of the node, or ''
-- ARGV[11] – how long the node counts as alive (ms); 0: do not wait
-- ARGV[12] – place in the queue, as it was assigned; '' for a new one
--
-- Returns {GRANTED, token, newest stored token before}
--      or {WAITING, place, look again (ms), known}: it is in the queue. look again: time after which
--         the lock may be free without a notification; -1 if this waiter does not have to watch for
--         that. known: 1 if the node still counted as alive; 0: its waiters may have been removed
--      or {HELD, owner, ttl left (ms), newest stored token, waiters}: it was not granted. owner: ''
--         if the lock is free and others wait for it. ttl left: -1 if the lock has no TTL
--      or the error WRONGTYPE: a key of the lock holds another type of value
--
-- Races: a repeated call of a holder whose answer was lost recognises its record by `by`, and gets
-- the same token. Locks are granted in order of arrival: a free lock goes to the first live waiter
-- only, and later callers wait behind it. If a notification is lost, any waiter that calls this
-- script and finds the lock free notifies the first one again. Two grants cannot get the same token:
-- the newest token is saved in the same step. If it is lost (a server restarted empty, or the key
-- expired), the clock is ahead of all tokens granted so far.
-- A lock that other software wrote with a plain SET has no record. It is held as long as its key
-- exists.
-- @include lock
local GRANTED = 0
local WAITING = 1
local HELD = 2

local name, name_json, by, owner, owner_json = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local ttl, mode, kept = ARGV[6], ARGV[7], ARGV[8]
local number, wake, lease, place = ARGV[9], ARGV[10], tonumber(ARGV[11]), ARGV[12]
local waiter = number .. ' ' .. wake

local record, held_by, unreadable = look(name, name_json)
local stored = redis.call('GET', KEYS[2]) or '0'
if unreadable or not tonumber(stored) then
  return corrupt()
end

local function grant(token)
  local ends, record_ttl = integer(now + ttl), integer(ttl + kept)
  redis.call('SET', KEYS[1], owner, 'PX', ttl)
  redis.call('HSET', KEYS[3], 'by', by, 'owner', owner, 'json', owner_json, 'token', token,
    'ends', ends, 'wake', wake, 'number', number, 'ttl', ttl)
  -- The record outlives the lock, so that its end can be published.
  redis.call('PEXPIRE', KEYS[3], record_ttl)
  if mode ~= 'ask' then
    redis.call('SET', KEYS[2], token, 'PX', record_ttl)
  end
  indexed(name, ends)
  return { GRANTED, token, stored }
end

if record and record[BY] == by then
  leave_queue(waiter)
  return grant(record[TOKEN])
end

local micros = clock[1] * 1000000 + clock[2]
local again = -1
if not held_by then
  local first, first_wake, first_number = first_waiter(waiter)
  local newer = tonumber(mode) and tonumber(stored) > tonumber(mode)
  if (first == nil or first == waiter) and not newer then
    local token = mode
    if not tonumber(mode) then
      token = integer(math.max(tonumber(stored) + 1, micros))
    end
    if first then
      leave_queue(waiter)
    end
    local granted = grant(token)
    emit('acquired', name_json, owner_json, token)
    return granted
  elseif first == false then
    again = 0
  elseif first and first ~= waiter then
    redis.call('PUBLISH', first_wake, 'turn ' .. first_number)
  end
end

local left = held_by and redis.call('PTTL', KEYS[1]) or 0
if lease == 0 then
  return { HELD, held_by or '', left, stored, redis.call('ZCARD', KEYS[4]) }
end
if place == '' then
  place = redis.call('ZSCORE', KEYS[4], waiter)
end
if not place then
  local last = redis.call('ZRANGE', KEYS[4], -1, -1, 'WITHSCORES')
  place = integer(math.max(micros, (tonumber(last[2]) or 0) + 1))
end
-- The entry of the living first, so that no waiter is in the queue whose node has no entry.
local known = redis.call('ZADD', KEYS[5], integer(now + lease), wake) == 0 and 1 or 0
redis.call('ZADD', KEYS[4], place, waiter)
redis.call('PEXPIRE', KEYS[4], lease * 10)
redis.call('PEXPIRE', KEYS[5], lease * 10)
if held_by and redis.call('ZRANK', KEYS[4], waiter) == 0 then
  again = left
end
return { WAITING, place, again, known }
