#!lua flags=no-writes
-- How many jobs have ended in each queue, dead letters aside.
-- ARGV: prefix, since how long ago, in microseconds. Returns a JSON object: queue, how many.

local answer = {}
local ids = redis.call('ZRANGEBYSCORE', key('finished'), '(' .. exact(now - tonumber(ARGV[2])), '+inf')
for _, id in ipairs(ids) do
  local group = redis.call('HGET', key('job', id), 'group')
  if group then
    local queue = group:match('^%S+')
    answer[queue] = (answer[queue] or 0) + 1
  end
end
return next(answer) and cjson.encode(answer) or '{}'
