-- Make each of several changes, wholly or not at all.
-- ARGV: prefix; then for each change: task, version, session or '', state as JSON, number of
-- entries; and for each entry: slot, trigger, outcome, recorded_at, session or '', cancel (0 or 1),
-- JSON. Returns what became of each change, in the words of worker.book.Written.
--
-- A change is judged before its first write. Redis refuses a script's first write (no memory, a
-- replica, a disk that fails) or none of them, and that first one is HSET, which needs memory: so
-- no change is ever made by half.

local ACTIVE = { waiting = true, running = true }
local PER_ENTRY = 7

local function judge(change)
  if (redis.call('HGET', key('book', change.task), 'version') or '0') ~= change.version then
    return 'outdated'
  end
  if change.session ~= '' and not alive(change.session) then
    return 'no_lease'
  end
  for _, entry in ipairs(change.entries) do
    if redis.call('HEXISTS', key('entries', change.task), entry.field) == 1 then
      return 'taken'
    end
  end
  return 'done'
end

local function put(task, entry)
  local member = entry.slot .. ' ' .. task .. ' ' .. entry.trigger
  local present = redis.call('HGET', key('active'), member)
  if present then
    local outcome = present:match('^%S+')
    redis.call('ZREM', key('slots', outcome), member)
    redis.call('ZREM', key('slots', outcome, task), member)
  end
  redis.call('ZADD', key('slots', entry.outcome), entry.slot, member)
  redis.call('ZADD', key('slots', entry.outcome, task), entry.slot, member)
  if ACTIVE[entry.outcome] then
    local pulse = entry.outcome .. ' ' .. entry.session .. ' ' .. entry.cancel
    redis.call('HSET', key('active'), member, pulse)
    redis.call('HSET', key('book', task), entry.field, entry.json)
  else
    redis.call('HSET', key('entries', task), entry.field, entry.json)
    redis.call('ZADD', key('recorded'), entry.recorded_at, entry.outcome .. ' ' .. member)
    if present then
      redis.call('HDEL', key('active'), member)
      redis.call('HDEL', key('book', task), entry.field)
    end
  end
end

local answers = {}
local at = 2
while at <= #ARGV do
  local change = {
    task = ARGV[at],
    version = ARGV[at + 1],
    session = ARGV[at + 2],
    state = ARGV[at + 3],
    entries = {},
  }
  local count = tonumber(ARGV[at + 4])
  at = at + 5
  for n = 1, count do
    change.entries[n] = {
      field = ARGV[at] .. ' ' .. ARGV[at + 1],
      slot = ARGV[at],
      trigger = ARGV[at + 1],
      outcome = ARGV[at + 2],
      recorded_at = ARGV[at + 3],
      session = ARGV[at + 4],
      cancel = ARGV[at + 5],
      json = ARGV[at + 6],
    }
    at = at + PER_ENTRY
  end

  local answer = judge(change)
  if answer == 'done' then
    local version = exact(tonumber(change.version) + 1)
    redis.call('HSET', key('book', change.task), 'version', version, 'state', change.state)
    redis.call('SADD', key('tasks'), change.task)
    for _, entry in ipairs(change.entries) do
      put(change.task, entry)
    end
  end
  answers[#answers + 1] = answer
end
return answers
