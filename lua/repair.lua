-- repair: makes a room's indices agree with the hashes of some of its connections: what lives is put
-- into every index, what is dead is taken out with its `leave` (reason "timeout").
--
-- KEYS[1] – prs:{room}:conns       KEYS[2] – prs:{room}:members    KEYS[3] – prs:{room}:last_seen
-- KEYS[4] – prs:{room}:conn_meta   KEYS[5] – prs:{room}:events (channel)
-- KEYS[6] – prs:active_rooms       KEYS[7] – the room's shard of the due index
-- KEYS[8..] – for each connection: prs:conn:<connId>, prs:user:<userId>:conns,
--             prs:user:<userId>:rooms; then for each member: its prs:user:<userId>:conns and rooms
--
-- ARGV[1] – roomId   ARGV[2] – roomId as JSON string   ARGV[3] – ttl (ms)
-- ARGV[4] – how many connections   ARGV[5] – how many members
-- ARGV[6..] – for each connection: connId, connId as JSON string, userId, userId as JSON string (''
--             if nobody knows the user), epoch, '1' if its hash says that it lives here, raw
--             conn_meta as it was read ('' if missing); then for each member: userId, and as JSON
--             string
--
-- Returns {repairs, removed}: how many entries were put right (removed connections among them); how
-- many connections were removed.
--
-- Races: as in reap.lua. What was read as living is only indexed while its hash still says the
-- same; what was read as dead is only removed while its hash is still not there and its conn_meta
-- is still what was read.
-- @include now
-- @include goes_on
-- @include dead
local room, room_json, ttl = ARGV[1], ARGV[2], tonumber(ARGV[3])
local conns, members = tonumber(ARGV[4]), tonumber(ARGV[5])
local repairs, removed = 0, 0
goes_on(KEYS[7])

for i = 0, conns - 1 do
  local conn_key, user_conns, user_rooms = KEYS[8 + 3 * i], KEYS[9 + 3 * i], KEYS[10 + 3 * i]
  local conn, conn_json = ARGV[6 + 7 * i], ARGV[7 + 7 * i]
  local user, user_json = ARGV[8 + 7 * i], ARGV[9 + 7 * i]
  local epoch, lives, meta = ARGV[10 + 7 * i], ARGV[11 + 7 * i] == '1', ARGV[12 + 7 * i]

  local hash = redis.call('HMGET', conn_key, 'room_id', 'user_id', 'last_seen_ms')
  local left
  if hash[1] == room then
    local no_ttl
    left, no_ttl = time_left(conn_key, hash[3], ttl)
    repairs = repairs + (no_ttl and 1 or 0)
  end
  if left then
    if lives and hash[2] == user then
      repairs = repairs + redis.call('SADD', KEYS[1], conn) + redis.call('SADD', KEYS[2], user)
        + redis.call('ZADD', KEYS[3], 'NX', integer(hash[3]), conn)
        + redis.call('HSETNX', KEYS[4], conn, '{"userId":' .. user_json .. ',"epoch":' .. epoch .. '}')
        + redis.call('SADD', user_conns, conn) + redis.call('SADD', KEYS[6], room)
      -- TypeScript nodes do not write this one: no damage if it is missing.
      redis.call('SADD', user_rooms, room)
    end
  elseif (redis.call('HGET', KEYS[4], conn) or '') == meta then
    local at = {
      conns = KEYS[1], members = KEYS[2], last_seen = KEYS[3], conn_meta = KEYS[4], events = KEYS[5],
      user_conns = user_conns, user_rooms = user_rooms, active = KEYS[6], due = KEYS[7],
    }
    if remove_dead(at, room, room_json, user, user_json, conn, conn_json, epoch, hash[1], hash[2]) then
      repairs = repairs + 1
      removed = removed + 1
    end
  end
end

for i = 0, members - 1 do
  local user, user_json = ARGV[6 + 7 * conns + 2 * i], ARGV[7 + 7 * conns + 2 * i]
  local user_conns, user_rooms = KEYS[8 + 3 * conns + 2 * i], KEYS[9 + 3 * conns + 2 * i]
  if not user_is_in(KEYS[1], KEYS[4], user_conns, user_json) then
    repairs = repairs + redis.call('SREM', KEYS[2], user)
    redis.call('SREM', user_rooms, room)
  end
end

if redis.call('EXISTS', KEYS[1]) == 0 then
  forget_room(KEYS[6], KEYS[7], room)
else
  local first = redis.call('ZRANGE', KEYS[3], 0, 0, 'WITHSCORES')[2]
  redis.call('ZADD', KEYS[7], 'LT', first and first + ttl or now + ttl, room)
end
return { repairs, removed }
