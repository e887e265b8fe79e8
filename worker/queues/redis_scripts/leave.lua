#!lua flags=allow-oom
-- A worker that waited for jobs went away. If it was woken meanwhile, another one is.
-- ARGV: prefix, queue, who waited.
-- With: groups, queues.

if try('ZREM', key('waiters', ARGV[2]), ARGV[3]) == 0 then
  fresh[ARGV[2]] = 1
end
local alarm, holder = alarm_of(ARGV[2])
if holder == ARGV[3] then
  try('HDEL', key('alarms'), ARGV[2])
  expect(ARGV[2], alarm)
end
finish()
return 1
