-- The steps of a join, for all layouts. The including script has defined, for its own keys:
-- `at`: the keys of the connection's place;
-- `owner_is_dead()`: whether the node that joins was declared dead; `add_to_owner(room)`: adds the
-- connection to those of that node;
-- `places`: the number of places to leave first; `place_keys(i)`: the keys of the i-th (0-based), and
-- a table with those of its user; `first_epoch(least)`: the lowest epoch that the join may get;
-- `refuse_epoch(epoch, least)`: the reply if it must not get `epoch`; `index_join`: writes the
-- indices that differ between the layouts.
-- @include owner
local JOINED = 0
local ELSEWHERE = 1
local GHOST = 2
local LOST = 5

local conn, user, room = ARGV[1], ARGV[2], ARGV[3]
local conn_json, user_json, room_json = ARGV[4], ARGV[5], ARGV[6]
local state, ttl = ARGV[7], ARGV[8]
local stored = ARGV[10] == '' and state or ARGV[10]
local owner, calls = ARGV[13], ARGV[15]
local score = owner == '' and integer(now) or owned_score(now + ttl)
local first_place = 16

-- The index of the given place that matches, or nil. The user of a ghost is taken from its conn_meta.
local function given(old_room, old_user, meta)
  for i = 0, places - 1 do
    local arg = first_place + 6 * i
    if ARGV[arg + 1] == old_room and ARGV[arg + 4] == meta
      and (old_user == nil or ARGV[arg] == old_user) then
      return i
    end
  end
end

local function leave_place(i, epoch, reason)
  local arg = first_place + 6 * i
  local place, member = place_keys(i)
  member.conn, member.user, member.user_json = conn, ARGV[arg], ARGV[arg + 2]
  leave_room(place, ARGV[arg + 1], member, epoch, false)
  if ARGV[arg] ~= '' then
    publish(place, presence_event(
      'leave', ARGV[arg + 3], ARGV[arg + 2], conn_json, 'null', now, epoch, reason))
  end
end

if owner ~= '' and owner_is_dead() then
  return { LOST }
end
local least = tonumber(ARGV[9])
local epoch = first_epoch(least)
local before = redis.call('HMGET', at.conn, 'room_id', 'user_id', 'epoch', 'node')
local old_room, old_user, old_epoch = before[1], before[2], before[3]
local former = owner_of(old_epoch, before[4])
local lives = old_room and old_user
local previous, ghost

if lives and (old_room ~= room or old_user ~= user) then
  previous = given(old_room, old_user, '')
  if not previous then
    return { ELSEWHERE, old_room, old_user }
  end
end
if not lives or old_room ~= room then
  local meta = redis.call('HGET', at.conn_meta, conn)
  if meta and meta ~= '' then
    ghost = given(room, nil, meta)
    if not ghost then
      return { GHOST, meta }
    end
  end
end

if lives then
  epoch = math.max(epoch, usable_epoch(old_epoch) + 1)
end
local ghost_epoch = ghost and ARGV[first_place + 5 + 6 * ghost]
if ghost then
  epoch = math.max(epoch, usable_epoch(ghost_epoch) + 1)
end
local refused = refuse_epoch(epoch, least)
if refused then
  return refused
end
check_publish_acl(at)
if ghost then
  leave_place(ghost, ghost_epoch, 'timeout')
end
if previous then
  leave_place(previous, old_epoch, 'replaced')
end

-- SET or HSET first: a server that is out of memory refuses it, and thereby the whole join, only if
-- the script has not written anything. A DEL would count as a write even if there is nothing to
-- delete.
-- The fields that heartbeats read come first, because a small hash is searched from its beginning.
local fields = { 'epoch', (owner == '' and '' or '+') .. integer(epoch), 'last_seen_ms', integer(now),
  'conn_id', conn, 'user_id', user, 'room_id', room }
if ARGV[12] == '1' then
  redis.call('SET', at.conn_state, stored, 'PX', ttl)
  -- A hash with a state_rev and without a state: the state is under the separate key.
  fields[11], fields[12] = 'state_rev', '1'
else
  fields[11], fields[12] = 'state', stored
end
if ARGV[11] ~= '' then
  fields[13], fields[14] = 'compressed', ARGV[11]
end
if owner ~= '' then
  fields[#fields + 1], fields[#fields + 2] = 'node', owner
end
redis.call('HSET', at.conn, unpack(fields))
if redis.call('HLEN', at.conn) ~= #fields / 2 then
  -- The hash has other fields from before, so it is replaced.
  redis.call('DEL', at.conn)
  redis.call('HSET', at.conn, unpack(fields))
end
redis.call('PEXPIRE', at.conn, ttl)
if ARGV[12] ~= '1' then
  redis.call('DEL', at.conn_state)
end
local was_empty = redis.call('EXISTS', at.conns) == 0 and '1' or '0'
redis.call('SADD', at.conns, conn)
redis.call('SADD', at.members, user)
redis.call('ZADD', at.last_seen, score, conn)
redis.call('HSET', at.conn_meta, conn, '{"userId":' .. user_json .. ',"epoch":' .. integer(epoch) .. '}')
redis.call('SADD', at.user_conns, conn)
index_join(room, user, conn, epoch, lives and not previous and integer(old_epoch), score)
if owner ~= '' then
  add_to_owner(room)
end
if former ~= '' and former ~= owner then
  dispossess(former, calls, old_epoch, conn)
end
publish(at, presence_event(
  'join', room_json, user_json, conn_json, state, now, epoch))
return { JOINED, integer(epoch), was_empty }
