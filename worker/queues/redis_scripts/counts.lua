#!lua flags=no-writes
-- How many jobs there are that have not succeeded.
-- ARGV: prefix. Returns a JSON list of lists: "state queue task", how many, how many of them dead,
-- and since when the one that waits longest could have been leased, or null.
-- With: heads.

local oldest = {}
-- Leases that ran out and that nobody has looked at since; of each group, the first is the oldest.
local lost = redis.call('ZRANGEBYSCORE', key('leased'), '-inf', NOW, 'WITHSCORES', 'LIMIT', 0, PORTION)
for n = 1, #lost, 2 do
  local job = head_of(lost[n])
  if job then
    local field = job.state .. ' ' .. job.group
    oldest[field] = math.min(oldest[field] or now, tonumber(lost[n + 1]))
  end
end

local answer = {}
local counts = redis.call('HGETALL', key('counts'))
for n = 1, #counts, 2 do
  local field = counts[n]
  if field:sub(1, 8) ~= 'SUCCESS ' then
    local first = redis.call('ZRANGE', key('waiting', field), 0, 0, 'WITHSCORES')
    local moment = math.min(tonumber(first[2]) or now + 1, oldest[field] or now + 1)
    answer[#answer + 1] = '['
      .. table.concat({
        cjson.encode(field),
        counts[n + 1],
        redis.call('HGET', key('dead_counts'), field) or '0',
        moment <= now and exact(moment) or 'null',
      }, ',')
      .. ']'
  end
end
return '[' .. table.concat(answer, ',') .. ']'
