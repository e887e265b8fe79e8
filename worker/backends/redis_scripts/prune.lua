-- Forget last words that were recorded long ago, at most so many at once.
-- ARGV: prefix, age in microseconds, how many at most. Returns how many were forgotten.
--
-- It only deletes, which Redis allows when its memory is full.

local before = '(' .. exact(now - tonumber(ARGV[2]))
local old = redis.call('ZRANGEBYSCORE', key('recorded'), '-inf', before, 'LIMIT', 0, ARGV[3])
for _, recorded in ipairs(old) do
  local outcome, member, slot, task, trigger = recorded:match('^(%S+) ((%S+) (.*) (%S+))$')
  redis.call('ZREM', key('slots', outcome), member)
  redis.call('ZREM', key('slots', outcome, task), member)
  redis.call('HDEL', key('entries', task), slot .. ' ' .. trigger)
  redis.call('ZREM', key('recorded'), recorded)
end
return #old
