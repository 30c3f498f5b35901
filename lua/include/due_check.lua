-- CHECK_MEMBER: on the layout slotted, a member of every shard of the due index that has rooms. Its
-- score is the time of the shard's next check. No room has the empty id.
local CHECK_MEMBER = ''
