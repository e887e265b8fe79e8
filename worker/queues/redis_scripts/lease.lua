#!lua flags=allow-oom
-- Lease the first ready jobs of a queue; leases that ran out, and jobs whose time has come, are
-- made ready before.
-- ARGV: prefix, queue, how many at most, for how long in microseconds, the worker's name, who waits
-- ("channel room number", or '' for nobody), 1 if it goes on to wait when there is none, and whose work
-- begins later (see parts/leases.lua).
-- Returns a JSON list: whether to ask again at once, microseconds until the next job is due (-1 for
-- not soon, or for another to look), the moment of these leases, and each of them.
--
-- It may be run when the memory is full: only so it empties.
-- With: heads, groups, queues, keys, leases.

local queue, limit, ttl = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local worker, waiter, stays, deferral = ARGV[5], ARGV[6], ARGV[7] == '1', ARGV[8] or ''
local ready = key('ready', queue)
local lease_end = now + ttl

-- Leases that have run out: their jobs are ready again. All queues', since a lease that nobody
-- looks after may hold a key that others wait for.
local function recover()
  local ids = redis.call('ZRANGEBYSCORE', key('leased'), '-inf', NOW, 'LIMIT', 0, PORTION)
  for _, id in ipairs(ids) do
    local job = head_of(id)
    remove(key('leased'), id)
    if job then
      add(key('waiting', job.state .. ' ' .. job.group), job.ready_at, id)
      make_ready(job, job.ready_at)
      release(job)
    end
  end
  return #ids == PORTION
end

-- Jobs whose time has come.
local function promote()
  local later = key('later', queue)
  local ids = redis.call('ZRANGEBYSCORE', later, '-inf', NOW, 'LIMIT', 0, PORTION)
  for _, id in ipairs(ids) do
    local job = head_of(id)
    remove(later, id)
    if job then
      make_ready(job, job.ready_at)
    end
  end
  return #ids == PORTION
end

local more = recover()
more = promote() or more
flush()

local answer, looked = {}, 0
while #answer < limit and looked < limit + PORTION do
  local first = redis.call('ZPOPMIN', ready, limit - #answer)
  if #first == 0 then
    break
  end
  for n = 1, #first, 2 do
    local member, score = first[n], first[n + 1]
    local due, id = member:match('^0*(%d+) %d+ (.*)$')
    local found = redis.call('HMGET', key('job', id), unpack(LEASED))
    looked = looked + 1
    if found[1] then
      local job = {
        id = id,
        state = found[1],
        group = found[2],
        key = found[3],
        limit = found[4],
        queue = queue,
      }
      if not job.key then
        answer[#answer + 1] = begin(job, found, due, lease_end, worker, deferral)
      elseif has_room(job) then
        redis.call('SADD', key('holders', job.key), id)
        answer[#answer + 1] = begin(job, found, due, lease_end, worker, deferral)
      else
        park(job, score, member)
      end
    end
  end
end
more = #answer < limit and (more or looked >= limit + PORTION)

-- Those it did not take itself are for others.
fresh[queue] = fresh[queue] and math.min(fresh[queue], redis.call('ZCARD', ready))
if #answer > 0 then
  expect(queue, lease_end)
end

-- When to look again: until the first job that is due soon, if no other does.
local function next_look()
  local moment = now + POLL
  for _, set in ipairs({ key('later', queue), key('leased') }) do
    local first = try('ZRANGE', set, 0, 0, 'WITHSCORES') or {}
    moment = math.min(moment, tonumber(first[2]) or moment)
  end
  local alarm, holder = alarm_of(queue)
  if moment >= now + POLL or (holder ~= waiter and is_awaited(queue, moment)) then
    return '-1'
  end
  try('HSET', key('alarms'), queue, exact(moment) .. ' ' .. waiter)
  return exact(math.max(0, moment - now))
end

local wait = '-1'
if waiter ~= '' then
  local waiters = key('waiters', queue)
  if #answer == 0 and stays and not more then
    try('ZADD', waiters, NOW, waiter)
    try('PEXPIRE', waiters, STALE / 1000)
    wait = next_look()
  else
    try('ZREM', waiters, waiter)
    local alarm, holder = alarm_of(queue)
    if holder == waiter then
      try('HDEL', key('alarms'), queue)
      expect(queue, alarm)
    end
  end
end
finish()
table.insert(answer, 1, table.concat({ more and '1' or '0', wait, NOW }, ','))
return '[' .. table.concat(answer, ',') .. ']'
