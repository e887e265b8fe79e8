#!lua flags=allow-oom
-- Forget jobs that ended long ago, those that did so first.
-- ARGV: prefix, age in microseconds, how many at most. Returns how many were forgotten.
-- With: heads, groups, queues, keys, forget.

local before = '(' .. exact(now - tonumber(ARGV[2]))
local old = redis.call('ZRANGEBYSCORE', key('finished'), '-inf', before, 'LIMIT', 0, ARGV[3])
for _, id in ipairs(old) do
  local job = head_of(id)
  if job then
    forget(job)
  else
    remove(key('finished'), id)
  end
end
finish()
return #old
