-- lock_release: releases a lock, or leaves its queue, or both.
--
-- KEYS[1..7] – the lock's keys (include/lock.lua)
-- ARGV[1] – name      ARGV[2] – name as JSON string     ARGV[3] – by: proof of the holder
-- ARGV[4] – number of the request within its node       ARGV[5] – wake channel of the node, or ''
-- ARGV[6] – the minimum for the newest token, for a lock on several servers; 0: there is none
-- ARGV[7] – how long the token is kept (ms)
--
-- Returns {RELEASED} or {NOT_HELD, owner of the lock or ''}
--
-- Races: only the proof counts, not the owner's id, so that a former holder cannot release the lock
-- of the current one. The next waiter is notified in the same step. A waiter that gives up after it
-- was notified passes the notification on to the next.
-- @include lock
local RELEASED = 0
local NOT_HELD = 1

local name, name_json, by = ARGV[1], ARGV[2], ARGV[3]
local record, held_by = look(name, name_json)
local queue = redis.call('EXISTS', KEYS[4]) == 1
local waited = queue and leave_queue(ARGV[4] .. ' ' .. ARGV[5])
if record and record[BY] == by then
  redis.call('DEL', KEYS[1], KEYS[3])
  forgotten(name)
  if ARGV[6] ~= '0' then
    local stored, unreadable = read('GET', KEYS[2])
    if not unreadable and tonumber(ARGV[6]) > (tonumber(stored or '') or 0) then
      redis.call('SET', KEYS[2], ARGV[6], 'PX', ARGV[7])
    end
  end
  emit('released', name_json, record[OWNER_JSON], record[TOKEN])
  if queue then
    wake_next()
  end
  return { RELEASED }
end
if waited and not held_by then
  wake_next()
end
return { NOT_HELD, held_by or '' }
