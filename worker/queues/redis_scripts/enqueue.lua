#!lua
-- Take in jobs, in their order.
-- ARGV: prefix; then for each job: its id, its group ("queue task"), "priority delay expires" with
-- times in microseconds ('-' for never), what it was made with (a JSON list's inside), and '' or a
-- JSON list of strings: unique key, states it is held in, for how long, concurrency key, limit.
-- Returns a JSON list of those not taken in: the number of each, from 0, the id of the job that is
-- there instead, and its record if it has the same id, else null; at its end, -1, a reason and null
-- if workers that wait could not be woken.
-- With: groups, queues, story, unique.

local JOB = 5

-- A key of another type would fail the script between two writes: look before the first one.
local function look_at(set)
  local kind = redis.call('TYPE', set).ok
  if kind ~= 'zset' and kind ~= 'none' then
    error(set .. ' is a ' .. kind .. ', expected a zset: another program uses this key', 0)
  end
end

local seen = {}
for n = 3, #ARGV, JOB do
  local group = ARGV[n]
  if not seen[group] then
    seen[group] = true
    look_at(key('ready', group:match('^%S+')))
    look_at(key('later', group:match('^%S+')))
    look_at(key('waiting', 'PENDING ' .. group))
  end
end

local order = redis.call('INCRBY', key('order'), (#ARGV - 1) / JOB)
order = order - (#ARGV - 1) / JOB

local plans = {}
local function plan_of(text)
  local plan = plans[text]
  if not plan then
    local priority, delay, expires = text:match('^(%S+) (%S+) (%S+)$')
    plan = {
      priority = priority,
      ready_at = now + math.max(0, tonumber(delay)),
      expires_at = expires == '-' and 'null' or exact(now + tonumber(expires)),
    }
    plans[text] = plan
  end
  return plan
end

local function take_in(id, group, plan, data, extra)
  order = order + 1
  local job = { id = id, group = group, queue = group:match('^%S+') }
  job.rank = string.format('%s %013.0f', plan.priority, order)
  local ready_at = exact(plan.ready_at)
  local whole = data .. ',' .. NOW .. ',' .. plan.expires_at
  redis.call(
    'HSET',
    key('job', id),
    'data', whole,
    'state', 'PENDING',
    'group', group,
    'rank', job.rank,
    'ready_at', ready_at,
    unpack(extra)
  )
  add(key('created'), '-' .. NOW, id)
  put(job, 'PENDING', plan.ready_at)
end

local answer = {}
for n = 2, #ARGV, JOB do
  local id, extra = ARGV[n], {}
  local holder = redis.call('EXISTS', key('job', id)) == 1 and id
  if not holder and ARGV[n + 4] ~= '' then
    local unique, states, ttl, name, limit = unpack(cjson.decode(ARGV[n + 4]))
    if unique ~= '' then
      holder = holder_of(unique)
      extra = { 'unique', unique }
    end
    if name ~= '' then
      extra = { 'key', name, 'limit', limit, unpack(extra) }
    end
    if unique ~= '' and not holder then
      hold(unique, states, id, ttl)
    end
  end
  if holder then
    local record = holder == id and story_of(id, true) or 'null'
    local words = { (n - 2) / JOB, cjson.encode(holder), record }
    answer[#answer + 1] = '[' .. table.concat(words, ',') .. ']'
  else
    take_in(id, ARGV[n + 1], plan_of(ARGV[n + 2]), ARGV[n + 3], extra)
  end
end
finish()
if refused then
  answer[#answer + 1] = '[-1,' .. cjson.encode(refused) .. ',null]'
end
return '[' .. table.concat(answer, ',') .. ']'
