-- Read books.
-- ARGV: prefix, tasks. Returns the sessions whose leases hold, then each book's fields and values.

local answer = { redis.call('ZRANGEBYSCORE', key('leases'), '(' .. exact(now), '+inf') }
for n = 2, #ARGV do
  answer[n] = redis.call('HGETALL', key('book', ARGV[n]))
end
return answer
