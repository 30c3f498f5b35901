-- patch_batch: patches the states of many connections whose epoch and state the node knows; the common
-- case of patches (layout slotted).
--
-- KEYS[1..R]      – prs:{room}:last_seen of each of the R rooms
-- KEYS[R+1..2R]   – prs:{room}:events (channel) of each of the R rooms
-- KEYS[2R+1..3R]  – the channel of the slot of each of the R rooms
-- KEYS[3R+1..]    – prs:{room}:conn:<connId> of each of the N connections, room by room, each once
--
-- ARGV[1] – ttl (ms)   ARGV[2] – R
-- ARGV[3] – where the connId begins in a connection's key: 0 or less, counted from the length of the room's
--           key
-- ARGV[4] – the expected epochs of all connections, one after the other, all of one length
-- ARGV[5] – that length
-- ARGV[6] – the number of connections of each room: two bytes for each, the higher byte first
-- ARGV[7..] – three for each connection: the expected state, exactly as it is stored; the state after the
--           patch, '' when that is the same; the text of the event up to its state
-- The last argument – the command that publishes: PUBLISH or SPUBLISH
--
-- Returns the indices (0-based) of the connections that were not written: the epoch or the state differs,
--         the state is compressed or in a key of its own, or the server refused the event or the
--         room's last_seen. heartbeat.lua finds the reason for each.
--
-- Races: all checks and writes are one step. An epoch names one join of one connection, so an equal epoch also
-- means the room and the user that the node remembers. The whole text of the state is compared, so writes by
-- programs that do not use this script are detected too.
local before_conns = 3 * ARGV[2]
local PUBLISH = ARGV[#ARGV]
-- Whether the Redis user may publish on the second channel, for each room whose events go to two channels. An
-- event must not be sent to one of the channels alone. Servers with sharded channels have acl_check_cmd.
local may_publish = {}
local function try_publish(room, text)
  if PUBLISH == 'SPUBLISH' then
    local slot_events = KEYS[2 * ARGV[2] + room]
    if may_publish[room] == nil then
      may_publish[room] = redis.acl_check_cmd(PUBLISH, slot_events, '')
    end
    if not may_publish[room] or type(redis.pcall(PUBLISH, KEYS[ARGV[2] + room], text)) ~= 'number' then
      return false
    end
    redis.call(PUBLISH, slot_events, text)
    return true
  end
  return type(redis.pcall(PUBLISH, KEYS[ARGV[2] + room], text)) == 'number'
end
-- @include patch_batch
