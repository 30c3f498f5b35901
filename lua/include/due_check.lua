-- CHECK_MEMBER: on the layout slotted, a member of every shard of the due index that has rooms: when
-- the shard is to be checked. No room has the empty id.
local CHECK_MEMBER = ''
