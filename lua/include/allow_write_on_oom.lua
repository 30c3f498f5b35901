-- allow_write_on_oom: lets the script write although the server is out of memory. A server refuses ZADD, SADD
-- and HSET then, but only as long as the script has written nothing; PERSIST of a key that never has
-- a TTL changes nothing and counts. For scripts that lead to memory being freed.
local function allow_write_on_oom(key)
  redis.call('PERSIST', key)
end
