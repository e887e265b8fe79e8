-- Extend a lease, and tell what there is to do.
-- ARGV: prefix, session, ttl in microseconds.
-- Returns nothing if the lease does not hold, else: tasks with orphans, tasks with entries that
-- wait, members ("slot task trigger") of this session's entries that were asked to end.
--
-- It looks at the active entries of all tasks, and at nothing else.

local session = ARGV[2]
if not alive(session) then
  return false
end
redis.call('ZADD', key('leases'), exact(now + tonumber(ARGV[3])), session)
redis.call('ZADD', key('seen'), exact(now), session)

local orphaned, waiting, cancelled = {}, {}, {}
local judged = {}
local active = redis.call('HGETALL', key('active'))
for n = 1, #active, 2 do
  local member = active[n]
  local outcome, owner, cancel = active[n + 1]:match('^(%S+) (%S*) (%S+)$')
  local task = member:match('^%S+ (.*) %S+$')
  if outcome == 'waiting' then
    waiting[#waiting + 1] = task
  else
    if judged[owner] == nil then
      judged[owner] = alive(owner) and true or false
    end
    if not judged[owner] then
      orphaned[#orphaned + 1] = task
    elseif owner == session and cancel == '1' then
      cancelled[#cancelled + 1] = member
    end
  end
end
return { orphaned, waiting, cancelled }
