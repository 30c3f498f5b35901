-- conn_read: reads a connection with the key of its state, in one step (on a cluster, where the two
-- cannot be read by a transaction while their slot is moving).
--
-- KEYS[1] – the connection's hash   KEYS[2] – the key of its state
--
-- ARGV[1..] – the fields of the hash
--
-- Returns {fields, state}: as HMGET and GET answer; nil for a state that is not there.
--
-- Races: nothing is written. A hash that is older or newer than the state could say something else of
-- how the state is compressed.
local fields = redis.call('HMGET', KEYS[1], unpack(ARGV))
local state = redis.pcall('GET', KEYS[2])
return { fields, type(state) == 'string' and state or false }
