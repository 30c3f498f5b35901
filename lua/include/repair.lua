-- @include candidate
-- @include allow_write_on_oom
-- @include add_member
-- Corrects a room from the hashes of some of its connections, for all layouts. The including script
-- has defined `reindex(c)`, which writes the indices that differ between the layouts and returns how
-- many entries it added, and `member_keys(i)`: the keys of the i-th (0-based) member: user_conns,
-- user_rooms.
local members, lives = tonumber(ARGV[4]), ARGV[5]
local conns = #lives
local repairs, removed = 0, 0
check_publish_acl(at)
allow_write_on_oom(at.events)

for i = 0, conns - 1 do
  local c = candidate(i, 6)
  local left, no_ttl = look_again(c)
  repairs = repairs + no_ttl
  if left then
    if string.sub(lives, i + 1, i + 1) == '1' and c.hash_user == c.user then
      local meta = '{"userId":' .. c.user_json .. ',"epoch":' .. c.epoch .. '}'
      local score = c.owner == '' and integer(math.min(tonumber(c.last_seen) or 0, now))
        or owned_score(now + left)
      repairs = repairs + redis.call('SADD', at.conns, c.conn) + redis.call('SADD', at.members, c.user)
        + redis.call('ZADD', at.last_seen, 'NX', score, c.conn)
        + redis.call('HSETNX', at.conn_meta, c.conn, meta)
        + add_member(c.user_conns, c.conn)
        + reindex(c)
    end
  elseif is_as_read(c) and remove_dead(c) then
    repairs = repairs + 1
    removed = removed + 1
  end
end

for i = 0, members - 1 do
  local user, user_json = ARGV[6 + 6 * conns + 2 * i], ARGV[7 + 6 * conns + 2 * i]
  local member = member_keys(i)
  if not user_is_in(at.conns, at.conn_meta, member.user_conns, user_json) then
    repairs = repairs + redis.call('SREM', at.members, user)
    user_left(member, room)
  end
end
