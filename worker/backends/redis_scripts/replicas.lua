-- List every session.
-- ARGV: prefix. Returns for each: id, "since name", when it was last seen, until when its lease
-- holds, whether it still does, presence or '', whether it was closed.

local answer = {}
local sessions = redis.call('HGETALL', key('sessions'))
for n = 1, #sessions, 2 do
  local seen = redis.call('ZSCORE', key('seen'), sessions[n])
  local lease = redis.call('ZSCORE', key('leases'), sessions[n])
  answer[#answer + 1] = {
    sessions[n],
    sessions[n + 1],
    exact(tonumber(seen)),
    exact(tonumber(lease)),
    tonumber(lease) > now and 1 or 0,
    redis.call('HGET', key('presence'), sessions[n]) or '',
    redis.call('SISMEMBER', key('closed'), sessions[n]),
  }
end
return answer
