-- repair: makes a room's indices agree with the hashes of some of its connections: what lives is put
-- into every index, what is dead is taken out with its `leave` (reason "timeout").
--
-- KEYS[1] – prs:{room}:conns       KEYS[2] – prs:{room}:members    KEYS[3] – prs:{room}:last_seen
-- KEYS[4] – prs:{room}:conn_meta   KEYS[5] – prs:{room}:events (channel)
-- KEYS[6] – prs:active_rooms       KEYS[7] – the room's shard of the due index
-- KEYS[8..] – for each connection: prs:conn:<connId>, prs:conn:<connId>:state,
--             prs:user:<userId>:conns, prs:user:<userId>:rooms; then for each member: its
--             prs:user:<userId>:conns, prs:user:<userId>:rooms
--
-- ARGV[1] – roomId   ARGV[2] – roomId as JSON string   ARGV[3] – ttl (ms)
-- ARGV[4] – how many members
-- ARGV[5] – for each connection '1' if its hash says that it lives here, else '0'; one text
-- ARGV[6..] – for each connection: connId, connId as JSON string, userId, userId as JSON string (''
--             if nobody knows the user), epoch, raw conn_meta as it was read ('' if missing); then
--             for each member: userId, and as JSON string
-- ARGV[#ARGV] – the layout: see include/layout.lua
--
-- Returns {repairs, removed}: how many entries were put right (removed connections among them); how
-- many connections were removed.
--
-- Races: as in reap.lua. What was read as living is only indexed while its hash still says the
-- same; what was read as dead is only removed while its hash is still not there and its conn_meta
-- is still what was read.
-- @include candidate
-- @include allow_write_on_oom
local members, lives = tonumber(ARGV[4]), ARGV[5]
local conns = #lives
local repairs, removed = 0, 0
check_publish_acl(KEYS[5], KEYS[7])
allow_write_on_oom(KEYS[7])

-- add: adds a member to a set that is not the room's own; one of another type is left as it is.
local function add(key, member)
  local added = redis.pcall('SADD', key, member)
  return type(added) == 'number' and added or 0
end

for i = 0, conns - 1 do
  local c = candidate(i, 6)
  local left, no_ttl = look_again(c)
  repairs = repairs + no_ttl
  if left then
    if string.sub(lives, i + 1, i + 1) == '1' and c.hash_user == c.user then
      local meta = '{"userId":' .. c.user_json .. ',"epoch":' .. c.epoch .. '}'
      repairs = repairs + redis.call('SADD', KEYS[1], c.conn) + redis.call('SADD', KEYS[2], c.user)
        + redis.call('ZADD', KEYS[3], 'NX', integer(math.min(tonumber(c.last_seen) or 0, now)), c.conn)
        + redis.call('HSETNX', KEYS[4], c.conn, meta)
        + add(c.user_conns, c.conn)
      if layout == 'v1' then
        repairs = repairs + add(KEYS[6], room)
        -- TypeScript nodes do not write this one: no damage if it is missing.
        add(c.user_rooms, room)
      else
        -- The node writes whatever of this is missing in other slots.
        redis.call('HSETNX', KEYS[6], c.epoch .. ':' .. c.conn, '+' .. c.user)
      end
    end
  elseif is_as_read(c) and remove_dead(c) then
    repairs = repairs + 1
    removed = removed + 1
  end
end

for i = 0, members - 1 do
  local user, user_json = ARGV[6 + 6 * conns + 2 * i], ARGV[7 + 6 * conns + 2 * i]
  local user_conns, user_rooms = KEYS[8 + 4 * conns + 2 * i], KEYS[9 + 4 * conns + 2 * i]
  if not user_is_in(KEYS[1], KEYS[4], user_conns, user_json) then
    repairs = repairs + redis.call('SREM', KEYS[2], user)
    if layout == 'v1' then
      redis.pcall('SREM', user_rooms, room)
    end
  end
end

if layout ~= 'v1' then
  return { repairs, removed }
end
if redis.call('EXISTS', KEYS[1]) == 0 then
  forget_room(KEYS[6], KEYS[7], room)
else
  local oldest = redis.call('ZRANGE', KEYS[3], 0, 0, 'WITHSCORES')[2]
  redis.call('ZADD', KEYS[7], 'LT', oldest or integer(now), room)
end
return { repairs, removed }
