-- List every session.
-- ARGV: prefix. Returns for each: id, "since name", when it was last seen, whether its lease holds.

local answer = {}
local sessions = redis.call('HGETALL', key('sessions'))
for n = 1, #sessions, 2 do
  local seen = redis.call('ZSCORE', key('seen'), sessions[n])
  local state = alive(sessions[n]) and 1 or 0
  answer[#answer + 1] = { sessions[n], sessions[n + 1], exact(tonumber(seen)), state }
end
return answer
