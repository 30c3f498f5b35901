-- @include now
-- @include event
-- @include leave_room
-- What reap and repair are given alike: a room (ARGV[1..3]) and connections of it, each with six arguments.
-- Include room_v1 or room_slotted before this.
local room, room_json, ttl = ARGV[1], ARGV[2], tonumber(ARGV[3])

-- candidate: the i-th (0-based) connection; `first`: the index of the first one's first argument.
local function candidate(i, first)
  local arg, c = first + 6 * i, candidate_keys(i)
  c.conn, c.conn_json, c.user, c.user_json = ARGV[arg], ARGV[arg + 1], ARGV[arg + 2], ARGV[arg + 3]
  c.epoch, c.meta = ARGV[arg + 4], ARGV[arg + 5]
  return c
end

-- time_left: how long a connection's hash still lives, in ms; nil if it is dead. The second value
-- says that it had no TTL, and so would never have died (half-written, or made by hand): then it has
-- as long as it was last heard of, by its own word. The key of its state goes with it.
-- A hash that was last heard of in the future is older than a step back of the server's clock: its TTL ends
-- at a time of the clock before, and is shortened by as much. A TTL that ends before that time was not set
-- by that clock (a legacy node wrote last_seen_ms by its own, which is ahead), and is right.
local function time_left(conn_key, state_key, last_seen)
  local left = redis.call('PTTL', conn_key)
  local ahead = (tonumber(last_seen) or 0) - now
  if left > ttl and ahead > 0 and left > ahead then
    left = left - ahead
    redis.call('PEXPIRE', conn_key, integer(left))
    redis.call('PEXPIRE', state_key, integer(left))
    return left, 0
  end
  if left ~= -1 then
    return left, 0
  end
  left = math.min((tonumber(last_seen) or 0) + ttl - now, ttl)
  if left > 0 then
    redis.call('PEXPIRE', conn_key, integer(left))
    redis.call('PEXPIRE', state_key, integer(left))
    return left, 1
  end
  redis.call('DEL', conn_key, state_key)
  return nil, 1
end

-- look_again: what has become of a candidate: for how long it still lives in this room (ms; nil if it
-- does not); how many hashes without a TTL were put right (0 or 1); where its hash says that it is.
local function look_again(c)
  -- A key of another type is no connection: an error reply has no fields, so it counts as missing.
  local hash = redis.pcall('HMGET', c.key, 'room_id', 'user_id', 'last_seen_ms')
  c.hash_room, c.hash_user, c.last_seen = hash[1], hash[2], hash[3]
  if c.hash_room ~= room then
    return nil, 0
  end
  return time_left(c.key, c.state_key, c.last_seen)
end

-- is_as_read: whether its conn_meta is still what was read; if not, it has been joined anew.
local function is_as_read(c)
  return (redis.call('HGET', at.conn_meta, c.conn) or '') == c.meta
end

-- remove_dead: takes a dead connection out of the room's indices and publishes its `leave` (reason
-- "timeout"; not if nobody knows the user). Says whether the room knew it: if not, somebody else has
-- removed and announced it.
local function remove_dead(c)
  if not c.hash_room then
    redis.call('DEL', c.state_key)
  end
  local lives_elsewhere = c.hash_room and c.hash_room ~= room and c.hash_user == c.user
  local known = leave_room(at, room, c, c.epoch, lives_elsewhere)
  if known == 0 then
    return false
  end
  if c.user_json ~= '' then
    publish(at, presence_event(
      'leave', room_json, c.user_json, c.conn_json, 'null', now, c.epoch, 'timeout'))
  end
  return true
end
