-- What becomes of a job that is leased.
local LEASED = {
  'state',
  'group',
  'key',
  'limit',
  'deliveries',
  'losses',
  'attempts',
  'refusals',
  'cancel',
  'data',
  'history',
  'deferred',
}

-- Whether the work on a job begins later than its lease. `deferral` names the losses from which on it
-- does, or '-', and the tasks whose jobs always do.
local deferrals = {}
local function is_deferred(job, losses, deferral)
  if deferral == '' then
    return false
  end
  local known = deferrals[deferral]
  if not known then
    known = { tasks = {} }
    for word in deferral:gmatch('%S+') do
      if known.losses == nil then
        known.losses = tonumber(word) or false
      else
        known.tasks[word] = true
      end
    end
    deferrals[deferral] = known
  end
  return known.tasks[job.group:match('^%S+ (.*)$')]
    or (known.losses and tonumber(losses) >= known.losses)
end

-- What is known of an attempt whose lease ran out without a word from its worker, as
-- worker.jobs.history has it, at the end of a JSON list.
local function with_loss(hash, history, attempts, due)
  local started_at, worker = unpack(redis.call('HMGET', hash, 'started_at', 'worker'))
  return (history and history:sub(1, -2) .. ',' or '[')
    .. '{"attempt":' .. exact(tonumber(attempts) + 1) .. ',"outcome":"lost","started_at":'
    .. started_at .. ',"finished_at":' .. due .. ',"worker":' .. cjson.encode(worker) .. '}]'
end

-- Lease a job that stands nowhere any more, and that was due at a moment. `found` is what LEASED
-- asks for. Returns a JSON list. A lease that ran out before the work had begun is no loss.
local function begin(job, found, due, lease_end, worker, deferral)
  local deliveries = exact((tonumber(found[5]) or 0) + 1)
  local losses, history = found[6] or '0', found[11]
  local hash = key('job', job.id)
  if RUNNING[job.state] and not found[12] then
    if tonumber(losses) < 20 then
      history = with_loss(hash, history, found[7] or '0', due)
      redis.call('HSET', hash, 'history', history)
    end
    losses = exact(tonumber(losses) + 1)
    redis.call('HSET', hash, 'losses', losses)
  end
  if job.state == 'PROGRESS' then
    redis.call('HDEL', hash, 'progress')
  end
  leaves(job)
  enters(job, 'STARTED')
  add(key('leased'), exact(lease_end), job.id)
  redis.call(
    'HSET',
    hash,
    'state', 'STARTED',
    'deliveries', deliveries,
    'ready_at', exact(lease_end),
    'started_at', NOW,
    'worker', worker
  )
  if is_deferred(job, losses, deferral) then
    redis.call('HSET', hash, 'deferred', '1')
  elseif found[12] then
    redis.call('HDEL', hash, 'deferred')
  end
  local spent = { losses, found[7] or '0', found[8] or '0', found[9] or '0' }
  return '[' .. found[10] .. ',' .. deliveries .. ',' .. table.concat(spent, ',') .. ',' .. due .. ','
    .. (history and cjson.encode(history) or 'null') .. ']'
end
