-- at: the keys of a place on the layout v1, as join and leave take them: KEYS[1..11].
local at = {
  conn = KEYS[1], conns = KEYS[2], members = KEYS[3], last_seen = KEYS[4], conn_meta = KEYS[5],
  events = KEYS[6], user_conns = KEYS[7], conn_state = KEYS[8], user_rooms = KEYS[9],
  active = KEYS[10], due = KEYS[11],
}
