#!lua
-- Record what tasks declare, unless a newer version of it is recorded.
-- ARGV: prefix; then for each task its name, its version and its declaration, JSON.

for n = 2, #ARGV, 3 do
  local known = redis.call('HGET', key('tasks'), ARGV[n])
  local version = known and tonumber(known:match('^(%d+) ')) or 0
  if version <= tonumber(ARGV[n + 1]) then
    redis.call('HSET', key('tasks'), ARGV[n], ARGV[n + 1] .. ' ' .. ARGV[n + 2])
  end
end
