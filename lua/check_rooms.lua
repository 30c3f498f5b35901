-- check_rooms: rooms whose indices do not have the same size, or that are empty. Members may be fewer
-- than connections, but not none, and not more.
--
-- KEYS[1..] – for each room: prs:{room}:conns, prs:{room}:members, prs:{room}:last_seen,
--             prs:{room}:conn_meta
-- ARGV[1] – how many rooms
--
-- Returns the indices (0-based) of those rooms. Reads sizes only: a room costs the same whatever
-- its size.
--
-- Races: nothing is written; repair.lua looks again.
local differ = {}
for i = 0, tonumber(ARGV[1]) - 1 do
  local conns = redis.call('SCARD', KEYS[4 * i + 1])
  local members = redis.call('SCARD', KEYS[4 * i + 2])
  if conns == 0 or members == 0 or members > conns
    or conns ~= redis.call('ZCARD', KEYS[4 * i + 3])
    or conns ~= redis.call('HLEN', KEYS[4 * i + 4]) then
    differ[#differ + 1] = i
  end
end
return differ
