-- check_rooms: finds rooms whose indices differ in size, that are empty, or that are not among the
-- active rooms. A room may have fewer members than connections, but not zero and not more.
--
-- KEYS[1]  – prs:active_rooms
-- KEYS[2..] – for each room: prs:{room}:conns, prs:{room}:members, prs:{room}:last_seen,
--             prs:{room}:conn_meta
-- ARGV[1..] – roomIds
--
-- Returns the indices (0-based) of those rooms. It only reads sizes, so the cost does not depend on
-- the size of a room.
--
-- Races: nothing is written. repair.lua reads the rooms again.
-- @include size
local differ = {}
for i = 0, #ARGV - 1 do
  -- -1: the key has another type. No other key has this size.
  local conns = size('SCARD', KEYS[4 * i + 2], -1)
  local members = size('SCARD', KEYS[4 * i + 3], -1)
  if conns < 1 or members < 1 or members > conns
    or conns ~= size('ZCARD', KEYS[4 * i + 4], -1)
    or conns ~= size('HLEN', KEYS[4 * i + 5], -1)
    or redis.pcall('SISMEMBER', KEYS[1], ARGV[i + 1]) == 0 then
    differ[#differ + 1] = i
  end
end
return differ
