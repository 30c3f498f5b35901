-- heartbeat: refreshes one connection with all that a heartbeat can bring: a patched state, a
-- higher epoch, a place that has to be checked.
--
-- KEYS[1] – prs:conn:<connId>   KEYS[2] – prs:{room}:last_seen   KEYS[3] – prs:{room}:conn_meta
-- KEYS[4] – prs:{room}:events (channel)
--
-- ARGV[1] – connId   ARGV[2] – userId   ARGV[3] – roomId   ARGV[4..6] – the same as JSON strings
-- ARGV[7] – ttl (ms)
-- ARGV[8] – epoch that the caller has, '' for none
-- ARGV[9] – '1' with a patch, '0' without
-- ARGV[10] – with a patch: the state that it was merged into (exact text, '' for a missing one)
-- ARGV[11] – with a patch: the state after it, '' when that is the same as before
--
-- Returns {REFRESHED, epoch}
--      or {UNKNOWN}: no such connection
--      or {STALE, epoch}: the caller's epoch is older than the stored one
--      or {ELSEWHERE, roomId, userId, epoch}: the connection is in another place
--      or {CONFLICT, state, epoch}: the stored state is not the one that the patch was merged into
-- Only REFRESHED has written anything.
--
-- Races: all checks and writes are one step. Two patches of one connection: the second finds
-- another state than the one it merged into, gets that state back, and is merged anew. Writes by
-- nodes that know nothing of this script are seen too, because the whole text is compared.
-- @include now
-- @include event
local REFRESHED = 0
local UNKNOWN = 1
local STALE = 2
local ELSEWHERE = 3
local CONFLICT = 4

local conn, user, room = ARGV[1], ARGV[2], ARGV[3]
local given, base, after = tonumber(ARGV[8]), ARGV[10], ARGV[11]

local found = redis.call('HMGET', KEYS[1], 'epoch', 'room_id', 'user_id')
if not found[1] or not found[2] or not found[3] then
  return { UNKNOWN }
end
local epoch = tonumber(found[1]) or 0
if given and given < epoch then
  return { STALE, found[1] }
end
if found[2] ~= room or found[3] ~= user then
  return { ELSEWHERE, found[2], found[3], found[1] }
end
if ARGV[9] == '1' then
  local state = redis.call('HGET', KEYS[1], 'state') or ''
  if state ~= base then
    return { CONFLICT, state, found[1] }
  end
end

local seen = integer(now)
-- A server that is out of memory refuses a script's HSET as long as it has written nothing. A patch
-- is to be refused then, so its HSET comes first; a mere heartbeat is not, so PEXPIRE does.
if after ~= '' then
  redis.call('HSET', KEYS[1], 'last_seen_ms', seen, 'state', after)
  redis.call('PEXPIRE', KEYS[1], ARGV[7])
else
  redis.call('PEXPIRE', KEYS[1], ARGV[7])
  redis.call('HSET', KEYS[1], 'last_seen_ms', seen)
end
if given and given > epoch then
  epoch = given
  redis.call('HSET', KEYS[1], 'epoch', integer(epoch))
  redis.call('HSET', KEYS[3], conn, '{"userId":' .. ARGV[5] .. ',"epoch":' .. integer(epoch) .. '}')
end
redis.call('ZADD', KEYS[2], seen, conn)
if after ~= '' then
  redis.call('PUBLISH', KEYS[4], presence_event(
    'update', ARGV[6], ARGV[5], ARGV[4], after, now, epoch))
end
return { REFRESHED, integer(epoch) }
