-- lock_extend: gives the holder of a lock another ttl from now.
--
-- KEYS[1..7] – the lock's keys (include/lock.lua)
-- ARGV[1] – name      ARGV[2] – name as JSON string     ARGV[3] – by: what proves the holder
-- ARGV[4] – ttl (ms)  ARGV[5] – how long the token is kept after its last use (ms)
--
-- Returns {EXTENDED} or {NOT_HELD, owner of the lock or ''}
--
-- Races: a lock whose time is up is lost, also if nobody has taken it since: a grant in between may
-- have come and gone. A lock whose key was deleted or overwritten by others is lost too, whatever they
-- have put there.
-- @include lock
local EXTENDED = 0
local NOT_HELD = 1

local name, name_json, by, ttl, kept = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5]
local record, held_by = look(name, name_json)
if not record or record[BY] ~= by then
  return { NOT_HELD, held_by or '' }
end
local ends = integer(now + ttl)
-- First: a server without memory refuses HSET, but only as long as the script has written nothing.
redis.call('PEXPIRE', KEYS[1], ttl)
redis.call('HSET', KEYS[3], 'ends', ends, 'ttl', ttl)
redis.call('PEXPIRE', KEYS[2], ttl + tonumber(kept))
redis.call('PEXPIRE', KEYS[3], ttl + tonumber(kept))
indexed(name, ends)
return { EXTENDED }
