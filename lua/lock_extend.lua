-- lock_extend: sets the remaining time of a held lock to a ttl.
--
-- KEYS[1..7] – the lock's keys (include/lock.lua)
-- ARGV[1] – name      ARGV[2] – name as JSON string     ARGV[3] – by: proof of the holder
-- ARGV[4] – ttl (ms)  ARGV[5] – how long the token is kept after its last use (ms)
--
-- Returns {EXTENDED} or {NOT_HELD, owner of the lock or ''}
--
-- Races: a lock whose lease has ended is lost, even if it was not granted since: another grant may
-- have come and gone in between. A lock whose key was deleted or overwritten by other software is
-- lost too, whatever the new value is.
-- @include lock
local EXTENDED = 0
local NOT_HELD = 1

local name, name_json, by, ttl, kept = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5]
local record, held_by = look(name, name_json)
if not record or record[BY] ~= by then
  return { NOT_HELD, held_by or '' }
end
local ends = integer(now + ttl)
-- PEXPIRE first: a server that is out of memory refuses HSET, but only until the script has written
-- something.
redis.call('PEXPIRE', KEYS[1], ttl)
redis.call('HSET', KEYS[3], 'ends', ends, 'ttl', ttl)
redis.call('PEXPIRE', KEYS[2], ttl + tonumber(kept))
redis.call('PEXPIRE', KEYS[3], ttl + tonumber(kept))
indexed(name, ends)
return { EXTENDED }
