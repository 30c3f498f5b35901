-- @include now
-- @include owner
-- add_impossible: adds members of a sorted set whose score, a time, is later than the latest possible
-- time, up to `most` members in all. Such times were written before the server's clock was set back,
-- or come from the clocks of legacy nodes. Members with owners whose TTL has ended are in the same
-- range.
local function add_impossible(members, key, latest, most)
  if #members < most then
    local more = redis.call('ZRANGEBYSCORE', key, '(' .. integer(latest), owned_score(now), 'LIMIT', 0,
      most - #members)
    for i = 1, #more do
      members[#members + 1] = more[i]
    end
  end
end
