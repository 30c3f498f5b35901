-- node_page: some of the connections of a node that was declared dead. Each call continues where the
-- last one ended, whichever node made it.
--
-- KEYS[1] – prs:{node:<id>}   KEYS[2] – prs:{node:<id>}:conns
-- ARGV[1] – approximate number   ARGV[2] – how long the record is kept after the death (ms)
--
-- Returns {PAGE, age, connId, entry, …}
--         age: time in ms since the node was declared dead
--      or {EMPTY, wait}: it has no connections any more; the record is kept for this many more ms
--      or {ENDED}: there is no record, or it was removed now
--
-- Races: two nodes that call at the same time get different pages. If a node dies with a page, the
-- entries are still there, and come in the next round.
-- @include now
-- @include integer
local PAGE = 0
local EMPTY = 1
local ENDED = 2

local found = redis.call('HMGET', KEYS[1], 'dead', 'cursor')
if not found[1] then
  return { ENDED }
end
local age = now - (tonumber(found[1]) or 0)
if redis.call('EXISTS', KEYS[2]) == 0 then
  local left = tonumber(ARGV[2]) - age
  if left > 0 then
    return { EMPTY, integer(math.min(left, tonumber(ARGV[2]))) }
  end
  redis.call('DEL', KEYS[1])
  return { ENDED }
end
local page = redis.call('HSCAN', KEYS[2], found[2] or '0', 'COUNT', ARGV[1])
redis.call('HSET', KEYS[1], 'cursor', page[1])
local answer = { PAGE, integer(age) }
for i = 1, #page[2] do
  answer[i + 2] = page[2][i]
end
return answer
