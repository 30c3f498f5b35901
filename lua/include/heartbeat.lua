-- The steps of a heartbeat, for all layouts. The including script has defined `at`, the keys for
-- events; `may_adopt`: whether the epoch of a heartbeat may be higher than the stored one; and, for the
-- node that answers for the connection from now on, `owner_is_dead()`, `add_to_owner(room)` and
-- `released(room, now)`: it has no owner any more.
-- @include now
-- @include event
-- @include owner
local REFRESHED = 0
local UNKNOWN = 1
local STALE = 2
local ELSEWHERE = 3
local CONFLICT = 4
local AHEAD = 5
local UNISSUED = 6
local LOST = 7
local UNCLAIMED = 8

local MAX_AHEAD_MS = 86400000

local conn, user, room = ARGV[1], ARGV[2], ARGV[3]
local given, after = tonumber(ARGV[8]), ARGV[13]
local stored = ARGV[14] == '' and after or ARGV[14]
local node, calls = ARGV[16], ARGV[18]

local found = redis.call('HMGET', KEYS[1], 'epoch', 'room_id', 'user_id', 'node')
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
if adopted and not may_adopt then
  return { UNISSUED, found[1] }
end
if adopted and given > now + MAX_AHEAD_MS then
  return { AHEAD, integer(now + MAX_AHEAD_MS) }
end
local owner = owner_of(found[1], found[4])
if node ~= '' and node ~= owner then
  if ARGV[17] == '' then
    return { UNCLAIMED }
  end
  if owner_is_dead() then
    return { LOST }
  end
end
local separate, rev = false, '0'
if ARGV[9] == '1' then
  local fields = redis.call('HMGET', KEYS[1], 'state', 'compressed', 'state_rev')
  local state, compressed = fields[1], fields[2] or ''
  if not state and fields[3] then
    separate, rev = true, fields[3]
    state = redis.pcall('GET', KEYS[5])
  end
  if type(state) ~= 'string' then
    state = ''
  end
  local place = separate and '1' or '0'
  if state ~= ARGV[10] or compressed ~= ARGV[11] or place ~= ARGV[12] then
    return { CONFLICT, state, compressed, place, rev }
  end
end

local seen = integer(now)
-- A server that is out of memory refuses the HSET of a script that has not written anything. A patch
-- must be refused then, so its HSET comes first. A heartbeat without a patch must not be refused, so
-- its PEXPIRE comes first.
if after ~= '' then
  check_publish_acl(at)
  if separate then
    redis.call('SET', KEYS[5], stored)
    rev = integer((tonumber(rev) or 0) + 1)
    redis.call('HSET', KEYS[1], 'last_seen_ms', seen, 'state_rev', rev)
  else
    redis.call('HSET', KEYS[1], 'last_seen_ms', seen, 'state', stored)
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
  redis.call('HSET', KEYS[3], conn, '{"userId":' .. ARGV[5] .. ',"epoch":' .. integer(epoch) .. '}')
end
if adopted or node ~= owner then
  redis.call('HSET', KEYS[1], 'epoch', (node == '' and '' or '+') .. integer(epoch))
end
if node ~= owner then
  if node == '' then
    redis.call('HDEL', KEYS[1], 'node')
    released(room, seen)
  else
    redis.call('HSET', KEYS[1], 'node', node)
    add_to_owner(room)
  end
  if owner ~= '' then
    dispossess(owner, calls, found[1], conn)
  end
end
redis.call('ZADD', KEYS[2], node == '' and seen or owned_score(now + ARGV[7]), conn)
if after ~= '' then
  publish(at, presence_event(
    'update', ARGV[6], ARGV[5], ARGV[4], after, now, epoch))
end
return { REFRESHED, integer(epoch), seen, rev, adopted and '1' or '0',
  owner ~= '' and node == '' and '1' or '0' }
