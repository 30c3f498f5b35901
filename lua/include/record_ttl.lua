-- record_ttl: sets the TTL of a record to that of the last change: `ttl` milliseconds, or none ('').
local function record_ttl(key, ttl)
  if ttl == '' then
    redis.call('PERSIST', key)
  else
    redis.call('PEXPIRE', key, ttl)
  end
end
