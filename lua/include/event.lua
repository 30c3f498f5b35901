-- @include integer

-- presence_event: the JSON text of one presence event. Ids are JSON strings and the state is JSON
-- text; nothing is decoded or encoded here.
local function presence_event(kind, room_json, user_json, conn_json, state_json, ts, epoch, reason)
  local tail = '}'
  if reason then
    tail = ',"reason":"' .. reason .. '"}'
  end
  return '{"type":"' .. kind .. '","roomId":' .. room_json .. ',"userId":' .. user_json
    .. ',"connId":' .. conn_json .. ',"state":' .. state_json .. ',"ts":' .. integer(ts)
    .. ',"epoch":' .. integer(epoch) .. tail
end
