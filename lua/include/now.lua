-- now: the server's time in milliseconds, not that of a node. It is the same for the whole script.
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
