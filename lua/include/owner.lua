-- @include integer
-- @include owned_score
-- Connections with an owner: a node that answers for them (docs/internals/liveness.md). The field
-- `node` of such a connection names the owner, and its field `epoch` begins with '+', which parsers
-- of numbers accept. Software that does not know owners writes the epoch without '+'. That ends the
-- ownership.

-- A room in which all connections have owners is looked at once in this time (ms), because legacy
-- nodes may have joined it without writing the due index.
local MAX_PAUSE_MS = 60000

-- owned_due: the entry in the due index of a room whose lowest score is `score`, a score of a connection
-- with an owner.
local function owned_due(score, now)
  return integer(math.min(tonumber(score), OWNED + now + MAX_PAUSE_MS))
end

-- owner_of: the owner of a connection, from its fields `epoch` and `node`; '' if it has none.
local function owner_of(epoch, node)
  return epoch and node and string.sub(epoch, 1, 1) == '+' and node or ''
end

-- dispossess: notifies a node that it does not own a connection any more. `calls`: what the names of
-- the channels of nodes begin with. A user without permission for that channel must not abort a
-- script that has already written; the node finds out later.
local function dispossess(owner, calls, epoch, conn)
  redis.pcall('PUBLISH', calls .. owner, 'gone ' .. integer(epoch) .. ' ' .. conn)
end
