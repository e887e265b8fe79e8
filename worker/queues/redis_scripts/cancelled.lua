#!lua flags=no-writes
-- ARGV: prefix, ids. Returns a digit for each: 1 if that job was asked to end.

local answer = {}
for n = 2, #ARGV do
  answer[n - 1] = redis.call('HGET', key('job', ARGV[n]), 'cancel') or '0'
end
return table.concat(answer)
