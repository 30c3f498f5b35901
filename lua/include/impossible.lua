-- add_impossible: adds members of a sorted set whose score, a time, lies after the latest that it can be,
-- up to so many members in all. Such times are left from before a step back of the server's clock, or come
-- from the clocks of legacy nodes.
local function add_impossible(members, key, latest, most)
  if #members < most then
    local more = redis.call('ZRANGEBYSCORE', key, string.format('(%.0f', latest), '+inf', 'LIMIT', 0,
      most - #members)
    for i = 1, #more do
      members[#members + 1] = more[i]
    end
  end
end
