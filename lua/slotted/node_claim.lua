-- node_claim: adds a connection to those of a node, before its step in the room (layout slotted).
--
-- KEYS[1] – prs:{node:<id>}   KEYS[2] – prs:{node:<id>}:conns
-- ARGV[1] – connId   ARGV[2] – its entry: <number>:<roomId>
--
-- Returns {CLAIMED} or {LOST}: the node was declared dead
--
-- Races: a node is declared dead on the same key. If that comes first, the join does not begin. If it
-- comes later, the entry stays for a while after it, so that a reaper finds the connection also when
-- the step in the room is late.
-- @include node
local CLAIMED = 0
local LOST = 1

if not lives(KEYS[1]) then
  return { LOST }
end
-- Of several joins at the same time, the entry has the highest number.
local number = tonumber(string.match(redis.call('HGET', KEYS[2], ARGV[1]) or '', '^%d+'))
if not number or number < tonumber(string.match(ARGV[2], '^%d+')) then
  redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
end
return { CLAIMED }
