-- The hash prs:at:<connId>, the connection location: field `s:<roomId>` (settled: the connection has
-- joined there) or `c:<roomId>` (claimed: it is about to join) → `<epoch>:<userId>`.

-- @include epoch
-- epoch_of: the epoch of a value; 0 for an epoch that joins ignore.
local function epoch_of(value)
  return usable_epoch(string.match(value, '^%d+'))
end

-- expire_claims: sets a TTL on a key that only has claims, because they may never be confirmed.
local function expire_claims(key, hold)
  for _, field in ipairs(redis.call('HKEYS', key)) do
    if string.sub(field, 1, 2) == 's:' then
      redis.call('PERSIST', key)
      return
    end
  end
  redis.call('PEXPIRE', key, hold)
end
