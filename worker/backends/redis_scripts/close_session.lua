-- End a lease now, if it still holds.
-- ARGV: prefix, session.

if alive(ARGV[2]) then
  redis.call('ZADD', key('leases'), 'XX', exact(now), ARGV[2])
end
return 1
