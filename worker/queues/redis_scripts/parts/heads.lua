local RUNNING = { STARTED = true, PROGRESS = true }
local WAITING = { PENDING = true, RETRY = true }

-- What the functions below know a job by. `group` is its queue and its task.
local HEAD = {
  'state',
  'group',
  'rank',
  'ready_at',
  'deliveries',
  'started_at',
  'key',
  'limit',
  'cancel',
}

local function head_of(id)
  local found = redis.call('HMGET', key('job', id), unpack(HEAD))
  if not found[1] then
    return nil
  end
  return {
    id = id,
    state = found[1],
    group = found[2],
    rank = found[3],
    ready_at = found[4],
    deliveries = found[5] or '0',
    started_at = found[6],
    key = found[7],
    limit = found[8],
    cancel = found[9],
    queue = found[2]:match('^%S+'),
  }
end

-- The job, if this receipt is of its last lease, and that is not settled. Even of an id that was
-- dropped and enqueued anew no two leases have the same one.
local function held_by(id, receipt)
  local job = head_of(id)
  if job and RUNNING[job.state] and job.deliveries .. '-' .. (job.started_at or '') == receipt then
    return job
  end
end
