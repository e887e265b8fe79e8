-- Forget sessions that ended long ago and that no active entry names.
-- ARGV: prefix, age in microseconds, how many to pass over, how many to look at.
-- Returns how many were looked at, and how many of them stay.

local needed = {}
for _, pulse in ipairs(redis.call('HVALS', key('active'))) do
  needed[pulse:match('^%S+ (%S*) %S+$')] = true
end
local before = '(' .. exact(now - tonumber(ARGV[2]))
local old = redis.call('ZRANGEBYSCORE', key('leases'), '-inf', before, 'LIMIT', ARGV[3], ARGV[4])
local stay = 0
for _, session in ipairs(old) do
  if needed[session] then
    stay = stay + 1
  else
    redis.call('HDEL', key('sessions'), session)
    redis.call('HDEL', key('presence'), session)
    redis.call('SREM', key('closed'), session)
    redis.call('ZREM', key('seen'), session)
    redis.call('ZREM', key('leases'), session)
  end
end
return { #old, stay }
