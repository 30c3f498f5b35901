-- now: the server's own time in milliseconds (never a node's clock), the same for the whole script.
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
