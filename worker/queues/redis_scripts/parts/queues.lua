-- A queue's ready jobs: greater priorities first, then those ready longer, then as they came.
local function place_of(rank, moment, id)
  local priority, order = rank:match('^(%S+) (%S+)$')
  return 0 - tonumber(priority), string.format('%016.0f %s %s', tonumber(moment), order, id)
end

local fresh, soon = {}, {} -- by queue: how many became ready; when the first of the others will

local function make_ready(job, moment)
  local score, member = place_of(job.rank, moment, job.id)
  add(key('ready', job.queue), score, member)
  fresh[job.queue] = (fresh[job.queue] or 0) + 1
end

local function expect(queue, moment)
  soon[queue] = math.min(soon[queue] or moment, moment)
end

-- Have it wait for its time, which may have come.
local function put(job, state, moment)
  enters(job, state, moment)
  if moment <= now then
    make_ready(job, moment)
  else
    add(key('later', job.queue), exact(moment), job.id)
    expect(job.queue, moment)
  end
end

-- Workers that wait. Each stands in `waiters` of its queue as "channel room number", by when it
-- last looked. One that is woken stands there no more: so a job that becomes ready wakes one
-- worker, and not all. PUBLISH tells whether it still listens. None of this is needed: whoever is
-- not woken looks once a second.

local function wake(queue, jobs)
  while jobs > 0 do
    local first = try('ZPOPMIN', key('waiters', queue))
    if not first or #first == 0 then
      return
    end
    if tonumber(first[2]) > now - STALE then
      local channel, room, number = first[1]:match('^(%S+) (%S+) (%S+)$')
      local heard = try('PUBLISH', key('wake', channel), 'lease ' .. number)
      if not heard then
        return
      elseif heard > 0 then
        jobs = jobs - tonumber(room)
      end
    end
  end
end

-- One of a queue's waiting workers looks again when the next job is due: `alarms` names the moment
-- and the worker.

local function alarm_of(queue)
  local moment, waiter = (try('HGET', key('alarms'), queue) or ''):match('^(%S+) (.*)$')
  return tonumber(moment), waiter
end

local function is_awaited(queue, moment)
  local alarm, waiter = alarm_of(queue)
  return alarm
    and alarm > now
    and alarm <= moment
    and try('ZSCORE', key('waiters', queue), waiter)
end

-- Stands at the end of each script that changes a queue. Only flush() is needed.
local function finish()
  flush()
  for queue, jobs in pairs(fresh) do
    wake(queue, jobs)
  end
  for queue, moment in pairs(soon) do
    if moment < now + POLL and not is_awaited(queue, moment) then
      wake(queue, 1)
    end
  end
end
