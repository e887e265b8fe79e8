-- List every session, or those that are named.
-- ARGV: prefix, sessions. Returns for each: id, "since name", when it was last seen, until when its lease
-- holds, whether it still does, presence or '', whether it was closed.

local answer = {}
local sessions = {}
if #ARGV == 1 then
  sessions = redis.call('HGETALL', key('sessions'))
end
for n = 2, #ARGV do
  local value = redis.call('HGET', key('sessions'), ARGV[n])
  if value then
    sessions[#sessions + 1] = ARGV[n]
    sessions[#sessions + 1] = value
  end
end
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
