-- may_publish: fails with NOPERM unless the user may publish on that channel. What a script has
-- written stays written when it fails half way, so this comes before the first write: no change
-- without its event. Redis 6 has no way to ask.
local function may_publish(channel, command)
  command = command or 'PUBLISH'
  if redis.acl_check_cmd and not redis.acl_check_cmd(command, channel, '') then
    error({ err = 'NOPERM this user may not ' .. command .. ' on our channels' })
  end
end
