#!lua flags=allow-oom
-- Record what came of leased jobs.
-- ARGV: prefix; a JSON list with, for each: id, receipt, "state attempts refusals delay result_ttl
-- dead due" (times in microseconds; due is '-' for a job that waits for its delay), result or '', error
-- or '', history or ''. One text, as the client packs each argument for more than it costs to read
-- them here. Returns a digit for each: 1, or 0 for a lost lease.
--
-- It may be run when the memory is full: only so it empties.
-- With: heads, groups, queues, keys, ends.

local verdicts = {}
local function verdict_of(text)
  local verdict = verdicts[text]
  if not verdict then
    local state, attempts, refusals, delay, ttl, dead, due =
      text:match('^(%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+)$')
    verdict = {
      state = state,
      attempts = attempts,
      refusals = refusals,
      waits = WAITING[state],
      ready_at = now + math.max(0, tonumber(delay)),
      due_at = tonumber(due), -- nil for '-'
      result_until = exact(now + tonumber(ttl)),
      result_ms = exact(math.ceil(tonumber(ttl) / 1000)),
      dead = dead == '1',
    }
    verdicts[text] = verdict
  end
  return verdict
end

local function record(hash, job, verdict, ready_at, error, history)
  local changes = { 'state', verdict.state }
  local function change(field, value)
    changes[#changes + 1] = field
    changes[#changes + 1] = value
  end
  -- A first delivery finds none of these set: they need not be taken back.
  local again = job.deliveries ~= '1'
  if again or verdict.attempts ~= '0' then
    change('attempts', verdict.attempts)
  end
  if again or verdict.refusals ~= '0' then
    change('refusals', verdict.refusals)
  end
  if error ~= '' then
    change('error', error)
  elseif again and verdict.state == 'SUCCESS' then
    redis.call('HDEL', hash, 'error')
  end
  if history ~= '' then
    change('history', history)
  end
  if verdict.dead then
    change('dead', '1')
  end
  if verdict.waits then
    change('ready_at', exact(ready_at))
    if job.state == 'PROGRESS' then
      redis.call('HDEL', hash, 'progress')
    end
  else
    change('finished_at', NOW)
  end
  return changes
end

local function settle(job, verdict, result, error, history)
  local hash = key('job', job.id)
  end_lease(job)
  leaves(job)
  local ready_at = verdict.due_at or (job.cancel and now or verdict.ready_at)
  local changes = record(hash, job, verdict, ready_at, error, history)
  if verdict.waits then
    put(job, verdict.state, ready_at)
  else
    if result ~= '' then
      changes[#changes + 1] = 'result_until'
      changes[#changes + 1] = verdict.result_until
      if tonumber(verdict.result_ms) > 0 then
        redis.call('SET', key('result', job.id), result, 'PX', verdict.result_ms)
      end
    end
    conclude(job, verdict.state, verdict.dead)
  end
  redis.call('HSET', hash, unpack(changes))
  release(job)
end

local answer = {}
local said = cjson.decode(ARGV[2])
for n = 1, #said, 6 do
  local job = held_by(said[n], said[n + 1])
  if job then
    settle(job, verdict_of(said[n + 2]), said[n + 3], said[n + 4], said[n + 5])
  end
  answer[#answer + 1] = job and '1' or '0'
end
finish()
tell_watchers()
return table.concat(answer)
