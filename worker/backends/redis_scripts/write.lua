-- Make each of several changes, wholly or not at all.
-- ARGV: prefix; then for each change a JSON list of strings: task, version, session or '', state,
-- and a list of entries; each entry is one of slot, trigger, outcome, recorded_at, session or '',
-- cancel (0 or 1), and the entry itself. Returns what became of each change, in the words of
-- worker.ledger.book.Written.
--
-- A change is judged before its first write. Redis refuses a script's first write (no memory, a
-- replica, a disk that fails) or none of them, and that first one is HSET, which needs memory: so
-- no change is ever made by half.

local ACTIVE = { waiting = true, running = true }

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

local function entry_from(words)
  return {
    field = words[1] .. ' ' .. words[2],
    slot = words[1],
    trigger = words[2],
    outcome = words[3],
    recorded_at = words[4],
    session = words[5],
    cancel = words[6],
    json = words[7],
  }
end

local answers = {}
for n = 2, #ARGV do
  local words = cjson.decode(ARGV[n])
  local change = { task = words[1], version = words[2], session = words[3], entries = {} }
  for m, entry in ipairs(words[5]) do
    change.entries[m] = entry_from(entry)
  end

  local answer = judge(change)
  if answer == 'done' then
    local version = exact(tonumber(change.version) + 1)
    redis.call('HSET', key('book', change.task), 'version', version, 'state', words[4])
    redis.call('SADD', key('tasks'), change.task)
    for _, entry in ipairs(change.entries) do
      put(change.task, entry)
    end
  end
  answers[n - 1] = answer
end
return answers
