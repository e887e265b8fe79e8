-- Find entries, the newest slots first.
-- ARGV: prefix, task or '' for all, lowest and highest slot as ZREVRANGEBYSCORE has them, limit,
-- outcomes. Returns for each outcome at most limit members ("slot task trigger").

local answer = {}
for n = 6, #ARGV do
  local slots = ARGV[2] == '' and key('slots', ARGV[n]) or key('slots', ARGV[n], ARGV[2])
  answer[n - 5] = redis.call('ZREVRANGEBYSCORE', slots, ARGV[4], ARGV[3], 'LIMIT', 0, ARGV[5])
end
return answer
