-- heartbeat: refreshes one connection with all that a heartbeat can bring: a patched state, a
-- higher epoch, a place that has to be checked.
--
-- KEYS[1] – prs:conn:<connId>   KEYS[2] – prs:{room}:last_seen   KEYS[3] – prs:{room}:conn_meta
-- KEYS[4] – prs:{room}:events (channel)   KEYS[5] – prs:conn:<connId>:state
-- KEYS[6] – with sharded events: the slot's channel
--
-- ARGV[1] – connId   ARGV[2] – userId   ARGV[3] – roomId   ARGV[4..6] – the same as JSON strings
-- ARGV[7] – ttl (ms)
-- ARGV[8] – epoch that the caller has, '' for none
-- ARGV[9] – '1' with a patch, '0' without
-- ARGV[10..12] – with a patch, the state that it was merged into: exactly as it is stored ('' for a
--            missing one); its `compressed` ('' for none); '1' if it is in KEYS[5], '0' if in the hash
-- ARGV[13] – with a patch: the state after it, '' when that is the same as before
-- ARGV[14..15] – the same as it is to be stored, '' if as it is; its `compressed`, '' for none
-- ARGV[16] – '1' if the state after it is large: then patch_check.lua is to know it again
-- ARGV[17] – the layout: see include/layout.lua
--
-- Returns {REFRESHED, epoch, now, state_rev after it (0 for none), '1' if a higher epoch was adopted,
--         else '0'}
--      or {UNKNOWN}: no such connection
--      or {STALE, epoch}: the caller's epoch is older than the stored one
--      or {ELSEWHERE, roomId, userId, epoch}: the connection is in another place
--      or {CONFLICT, state as it is stored, compressed, '1' if it is in KEYS[5] else '0', state_rev}:
--         the stored state is not the one that the patch was merged into
--      or {AHEAD, epoch}: the caller's epoch is higher than the stored one and than this epoch, which is the
--         highest that a heartbeat may bring: one day ahead of the clock
--      or {UNISSUED, epoch}: not on v1: the caller's epoch is higher than this one, which is stored, and no
--         join has it here
-- Only REFRESHED has written anything.
--
-- Races: all checks and writes are one step. Two patches of one connection: the second finds
-- another state than the one it merged into, gets that state back, and is merged anew. Writes by
-- nodes that know nothing of this script are seen too, because the whole text is compared. A state
-- stays where its join has put it; but one that somebody wrote into the hash counts before one in
-- the key. state_rev grows with every write of a state that ever was large or in the key. A join that
-- comes too late is taken back by its epoch: so that stays as it is until the join is settled (another
-- one may have had the higher epoch already).
-- @include now
-- @include event
-- @include layout
local REFRESHED = 0
local UNKNOWN = 1
local STALE = 2
local ELSEWHERE = 3
local CONFLICT = 4
local AHEAD = 5
local UNISSUED = 6

local MAX_AHEAD_MS = 86400000

local conn, user, room = ARGV[1], ARGV[2], ARGV[3]
local given, after = tonumber(ARGV[8]), ARGV[13]
local stored = ARGV[14] == '' and after or ARGV[14]

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
local adopted = given and given > epoch
if adopted and layout ~= 'v1' then
  return { UNISSUED, found[1] }
end
if adopted and given > now + MAX_AHEAD_MS then
  return { AHEAD, integer(now + MAX_AHEAD_MS) }
end
local separate, rev = false, nil
if ARGV[9] == '1' then
  local fields = redis.call('HMGET', KEYS[1], 'state', 'compressed', 'state_rev')
  local state, compressed = fields[1], fields[2] or ''
  rev = fields[3]
  if not state and rev then
    separate = true
    state = redis.pcall('GET', KEYS[5])
  end
  if type(state) ~= 'string' then
    state = ''
  end
  local place = separate and '1' or '0'
  if state ~= ARGV[10] or compressed ~= ARGV[11] or place ~= ARGV[12] then
    return { CONFLICT, state, compressed, place, rev or '0' }
  end
end

local seen = integer(now)
local written = seen
if rev or ARGV[16] == '1' then
  rev = integer((tonumber(rev) or 0) + 1)
end
if ARGV[16] == '1' and not separate then
  -- Nobody else writes it so: see patch_check.lua.
  written = '0' .. seen
end
-- A server that is out of memory refuses a script's HSET as long as it has written nothing. A patch
-- is to be refused then, so its HSET comes first; a mere heartbeat is not, so PEXPIRE does.
if after ~= '' then
  check_publish_acl(KEYS[4], KEYS[6])
  if separate then
    redis.call('SET', KEYS[5], stored)
    redis.call('HSET', KEYS[1], 'last_seen_ms', seen)
  else
    redis.call('HSET', KEYS[1], 'last_seen_ms', written, 'state', stored)
  end
  if rev then
    redis.call('HSET', KEYS[1], 'state_rev', rev)
  end
  if ARGV[15] ~= '' then
    redis.call('HSET', KEYS[1], 'compressed', ARGV[15])
  elseif ARGV[11] ~= '' then
    redis.call('HDEL', KEYS[1], 'compressed')
  end
  redis.call('PEXPIRE', KEYS[1], ARGV[7])
else
  redis.call('PEXPIRE', KEYS[1], ARGV[7])
  redis.call('HSET', KEYS[1], 'last_seen_ms', seen)
end
redis.call('PEXPIRE', KEYS[5], ARGV[7])
if adopted then
  epoch = given
  redis.call('HSET', KEYS[1], 'epoch', integer(epoch))
  redis.call('HSET', KEYS[3], conn, '{"userId":' .. ARGV[5] .. ',"epoch":' .. integer(epoch) .. '}')
end
redis.call('ZADD', KEYS[2], seen, conn)
if after ~= '' then
  publish(KEYS[4], KEYS[6], presence_event(
    'update', ARGV[6], ARGV[5], ARGV[4], after, now, epoch))
end
return { REFRESHED, integer(epoch), seen, rev or '0', adopted and '1' or '0' }
