-- @include integer

-- event_tail: the text of a presence event after its state. `ts` and `epoch` are digits.
local function event_tail(ts, epoch, reason)
  return ',"ts":' .. ts .. ',"epoch":' .. epoch .. (reason and ',"reason":"' .. reason .. '"}' or '}')
end

-- presence_event: the JSON text of one presence event. Ids are JSON strings and the state is JSON
-- text; nothing is decoded or encoded here.
local function presence_event(kind, room_json, user_json, conn_json, state_json, ts, epoch, reason)
  return '{"type":"' .. kind .. '","roomId":' .. room_json .. ',"userId":' .. user_json
    .. ',"connId":' .. conn_json .. ',"state":' .. state_json
    .. event_tail(integer(ts), integer(epoch), reason)
end
