-- may_publish: fails with NOPERM unless the user may publish on that channel. What a script has
-- written stays written when it fails half way, so this comes before the first write: no change
-- without its event. Redis 6 has no way to ask.
local function may_publish(channel)
  if redis.acl_check_cmd and not redis.acl_check_cmd('PUBLISH', channel, '') then
    error({ err = 'NOPERM this user may not PUBLISH on our channels' })
  end
end
