-- lock_release: gives a lock up, or a place in its queue, or whichever of the two there is.
--
-- KEYS[1..7] – the lock's keys (include/lock.lua)
-- ARGV[1] – name      ARGV[2] – name as JSON string     ARGV[3] – by: what proves the holder
-- ARGV[4] – number of the request within its node       ARGV[5] – wake channel of the node, or ''
-- ARGV[6] – the least that the newest token is to be, 0 if nothing is known
-- ARGV[7] – how long the token is kept (ms)
--
-- Returns {RELEASED} or {NOT_HELD, owner of the lock or ''}
--
-- Races: only the proof counts, not the owner's id: who lost the lock cannot release it for who has
-- it now. The next waiter is told in the same step. A waiter that gives up when the lock has just
-- been offered to it passes the offer on.
-- @include lock
local RELEASED = 0
local NOT_HELD = 1

local name, name_json, by = ARGV[1], ARGV[2], ARGV[3]
local record, held_by = look(name, name_json)
local waited = leave_queue(ARGV[4] .. ' ' .. ARGV[5])
if record and record[BY] == by then
  redis.call('DEL', KEYS[1], KEYS[3])
  forgotten(name)
  local stored, unreadable = read('GET', KEYS[2])
  if not unreadable and tonumber(ARGV[6]) > (tonumber(stored or '') or 0) then
    redis.call('SET', KEYS[2], ARGV[6], 'PX', ARGV[7])
  end
  emit('released', name_json, record[OWNER_JSON], record[TOKEN])
  wake_next()
  return { RELEASED }
end
if waited and not held_by then
  wake_next()
end
return { NOT_HELD, held_by or '' }
