-- End a lease now, if it still holds; the session ended in order either way.
-- ARGV: prefix, session.

if redis.call('HEXISTS', key('sessions'), ARGV[2]) == 1 then
  redis.call('SADD', key('closed'), ARGV[2])
end
if alive(ARGV[2]) then
  redis.call('ZADD', key('leases'), 'XX', exact(now), ARGV[2])
end
return 1
