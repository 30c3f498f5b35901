-- allow_write_on_oom: allows the script to write although the server is out of memory. Such a server
-- refuses ZADD, SADD and HSET, but only until the script has written something. PERSIST of a key that
-- never has a TTL changes nothing and counts as a write. For scripts whose effect leads to memory
-- being freed.
local function allow_write_on_oom(key)
  redis.call('PERSIST', key)
end
