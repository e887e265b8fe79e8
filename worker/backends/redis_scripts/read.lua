-- Read books.
-- ARGV: prefix, tasks. Returns a JSON list: the sessions whose leases hold, then each book's fields
-- and values. (What is empty comes as an object.)

local answer = { redis.call('ZRANGEBYSCORE', key('leases'), '(' .. exact(now), '+inf') }
for n = 2, #ARGV do
  answer[n] = redis.call('HGETALL', key('book', ARGV[n]))
end
return cjson.encode(answer)
