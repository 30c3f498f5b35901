-- conn_read: reads a connection and the key of its state in one atomic step. Used on a cluster, where
-- a transaction cannot read the two while their slot is migrating.
--
-- KEYS[1] – the connection's hash   KEYS[2] – the key of its state
--
-- ARGV[1..] – the fields of the hash
--
-- Returns {fields, state}: the answers of HMGET and GET; nil for a missing state.
--
-- Races: nothing is written. A hash that is older or newer than the state could name another
-- compression of the state, so both are read in one step.
local fields = redis.call('HMGET', KEYS[1], unpack(ARGV))
local state = redis.pcall('GET', KEYS[2])
return { fields, type(state) == 'string' and state or false }
