#!lua
-- Give a leased job what its producer left to its task. The client hands the job back afterwards.
-- ARGV: prefix, id, receipt, what it is made of from now on (a JSON list's inside), priority, for how
-- long it can begin from its creation in microseconds ('' leaves that as it is), '' or a JSON list
-- of strings as in enqueue.lua: unique key, states, for how long, concurrency key, limit.
-- Returns the id of the job that holds the unique key, if another does; '' if the lease was lost;
-- else the job's own id.
-- With: heads, groups, queues, unique.

local id, data, priority, expires = ARGV[2], ARGV[4], ARGV[5], ARGV[6]
local job = held_by(id, ARGV[3])
if not job then
  return ''
end
local hash = key('job', id)
local created, expires_at = redis.call('HGET', hash, 'data'):match(',(%d+),(%w+)$')
if expires ~= '' then
  expires_at = exact(tonumber(created) + tonumber(expires))
end
local changes = { 'rank', priority .. ' ' .. job.rank:match('^%S+ (%S+)$') }
if ARGV[7] ~= '' then
  local unique, states, ttl, name, limit = unpack(cjson.decode(ARGV[7]))
  if unique ~= '' then
    local holder = holder_of(unique)
    if holder and holder ~= id then
      return holder
    end
    if ttl ~= '' then
      ttl = exact(tonumber(created) + tonumber(ttl) - now)
    end
    if ttl == '' or tonumber(ttl) > 0 then
      hold(unique, states, id, ttl)
    end
    changes = { 'unique', unique, unpack(changes) }
  end
  if name ~= '' then
    changes = { 'key', name, 'limit', limit, unpack(changes) }
  end
end
redis.call('HSET', hash, 'data', data .. ',' .. created .. ',' .. expires_at, unpack(changes))
return id
