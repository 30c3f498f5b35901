-- may_publish: fails with NOPERM if the user has no permission to publish on that channel. Writes of
-- a script are not undone when it fails, so this must come before the first write. Otherwise a change
-- could be written without its event. Redis 6 has no command for this check.
local function may_publish(channel, command)
  command = command or 'PUBLISH'
  if redis.acl_check_cmd and not redis.acl_check_cmd(command, channel, '') then
    error({ err = 'NOPERM this user may not ' .. command .. ' on our channels' })
  end
end
