-- @include now
-- @include event
-- @include leave_room
-- @include owner
-- The arguments that reap and repair share: a room (ARGV[1..3]) and connections of it, each with six
-- arguments. Include room_v1 or room_slotted before this.
local room, room_json, ttl = ARGV[1], ARGV[2], tonumber(ARGV[3])

-- candidate: the i-th (0-based) connection; `first`: the index of the first argument of the first
-- one.
local function candidate(i, first)
  local arg, c = first + 6 * i, candidate_keys(i)
  c.conn, c.conn_json, c.user, c.user_json = ARGV[arg], ARGV[arg + 1], ARGV[arg + 2], ARGV[arg + 3]
  c.epoch, c.meta = ARGV[arg + 4], ARGV[arg + 5]
  return c
end

-- time_left: the remaining lifetime of a connection's hash in ms; nil if it is dead. The second value
-- says that the hash had no TTL, and would never have expired (it was half-written, or created by
-- hand). It then gets one ttl from its last_seen_ms. The key of the state gets the same TTL.
-- If last_seen_ms is in the future, the server's clock was set back after it was written. The TTL
-- then refers to the former clock, and is shortened by the difference. A TTL that ends before
-- last_seen_ms was not set by the former clock, and is correct: a legacy node wrote last_seen_ms from
-- its own clock, which is ahead.
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

-- look_again: reads a candidate again. Returns its remaining lifetime in this room (ms; nil if it
-- does not live here) and the number of corrected hashes without a TTL (0 or 1). Sets c.hash_room,
-- c.hash_user and c.owner from its hash.
local function look_again(c)
  -- A key of another type is not a connection. An error reply has no fields, so it counts as missing.
  local hash = redis.pcall('HMGET', c.key, 'room_id', 'user_id', 'last_seen_ms', 'epoch', 'node')
  c.hash_room, c.hash_user, c.last_seen = hash[1], hash[2], hash[3]
  c.owner = owner_of(hash[4], hash[5])
  if c.hash_room ~= room then
    return nil, 0
  end
  return time_left(c.key, c.state_key, c.last_seen)
end

-- is_as_read: whether conn_meta is still what was read. If not, the connection was joined again.
local function is_as_read(c)
  return (redis.call('HGET', at.conn_meta, c.conn) or '') == c.meta
end

-- remove_dead: removes a dead connection from the room's indices and publishes its `leave` (reason
-- "timeout"), unless the user is unknown. Returns whether the room's indices had the connection. If
-- not, another client has removed it and published its `leave`.
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
