-- The keys that reap and repair take on the layout slotted. at: the keys of the room, KEYS[1..7];
-- candidate_keys: those of the i-th (0-based) connection.
local at = {
  conns = KEYS[1], members = KEYS[2], last_seen = KEYS[3], conn_meta = KEYS[4], events = KEYS[5],
  outbox = KEYS[6], slot_events = KEYS[7],
}

local function candidate_keys(i)
  local key = 8 + 3 * i
  return { key = KEYS[key], state_key = KEYS[key + 1], user_conns = KEYS[key + 2] }
end
