-- The last change of a record decides how long it lives: `ttl` milliseconds, or for good ('').
local function record_ttl(key, ttl)
  if ttl == '' then
    redis.call('PERSIST', key)
  else
    redis.call('PEXPIRE', key, ttl)
  end
end
