-- add_impossible: adds members of a sorted set whose score, a time, is later than the latest possible
-- time, up to `most` members in all. Such times were written before the server's clock was set back,
-- or come from the clocks of legacy nodes.
local function add_impossible(members, key, latest, most)
  if #members < most then
    local more = redis.call('ZRANGEBYSCORE', key, string.format('(%.0f', latest), '+inf', 'LIMIT', 0,
      most - #members)
    for i = 1, #more do
      members[#members + 1] = more[i]
    end
  end
end
