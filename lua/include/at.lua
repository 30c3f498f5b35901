-- What prs:at:<connId> holds: field `s:<roomId>` (settled: it has joined there) or `c:<roomId>`
-- (claimed: it is about to) → `<epoch>:<userId>`.

-- @include epoch
-- epoch_of: the epoch of a value; 0 for one that joins ignore.
local function epoch_of(value)
  return usable_epoch(string.match(value, '^%d+'))
end

-- expire_claims: a key of claims only expires: nobody may come to settle them.
local function expire_claims(key, hold)
  for _, field in ipairs(redis.call('HKEYS', key)) do
    if string.sub(field, 1, 2) == 's:' then
      redis.call('PERSIST', key)
      return
    end
  end
  redis.call('PEXPIRE', key, hold)
end
