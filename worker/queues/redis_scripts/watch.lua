#!lua flags=allow-oom
-- Have the end of jobs published.
-- ARGV: prefix, the channel to tell, ids. Returns a JSON list of those that have ended already, or
-- that nobody recorded.

local FINAL = { SUCCESS = true, FAILURE = true, REVOKED = true, EXPIRED = true }
local answer = {}
for n = 3, #ARGV do
  local id = ARGV[n]
  local state = redis.call('HGET', key('job', id), 'state')
  if not state or FINAL[state] then
    answer[#answer + 1] = cjson.encode(id)
  else
    local channels = redis.call('HGET', key('watched'), id) or ''
    if not (' ' .. channels .. ' '):find(' ' .. ARGV[2] .. ' ', 1, true) then
      redis.call('HSET', key('watched'), id, channels .. ' ' .. ARGV[2])
    end
  end
end
return '[' .. table.concat(answer, ',') .. ']'
