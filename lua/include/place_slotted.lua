-- at: the keys of a place on the layout slotted, as join and leave take them: KEYS[1..10].
local at = {
  conn = KEYS[1], conns = KEYS[2], members = KEYS[3], last_seen = KEYS[4], conn_meta = KEYS[5],
  events = KEYS[6], user_conns = KEYS[7], conn_state = KEYS[8],
  outbox = KEYS[9], slot_events = KEYS[10],
}
