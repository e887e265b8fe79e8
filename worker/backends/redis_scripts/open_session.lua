-- Begin a session.
-- ARGV: prefix, schema, name as JSON, ttl in microseconds, presence as JSON or ''. Returns its id.
--
-- The id is the last one plus one, or the seconds since 1970 if that is more: so ids keep rising
-- even if Redis has forgotten the last ones (a restart without a file, a failover that lost writes),
-- and a worker from before that does not take the session of a new one for its own.

redis.call('SET', key('schema'), ARGV[2], 'NX')
local last = tonumber(redis.call('GET', key('last_session')) or '0')
local session = exact(math.max(last + 1, tonumber(time[1])))
redis.call('SET', key('last_session'), session)
redis.call('HSET', key('sessions'), session, exact(now) .. ' ' .. ARGV[3])
if ARGV[5] ~= '' then
  redis.call('HSET', key('presence'), session, ARGV[5])
end
redis.call('ZADD', key('seen'), exact(now), session)
redis.call('ZADD', key('leases'), exact(now + tonumber(ARGV[4])), session)
return session
