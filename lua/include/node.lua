-- The record of a node, prs:{node:<id>}: `ends`, when its lease ends (ms); `lease`, the length of the
-- lease (ms); `dead`, if it was declared dead. docs/internals/liveness.md has the rules.

-- lives: whether a node has a record and was not declared dead.
local function lives(record)
  local found = redis.call('HMGET', record, 'ends', 'dead')
  return found[1] and not found[2]
end
