#!lua flags=allow-oom
-- Lease jobs that another engine carries, each if it is ready.
-- ARGV: prefix, for how long in microseconds, the worker's name, whose work begins later (see
-- parts/leases.lua), ids.
-- Returns a JSON list: the moment of these leases; then for each id a list of its lease, or of
-- false and the job as it stands, or null for one that nobody recorded.
-- With: heads, groups, queues, keys, leases, story.

local lease_end, worker, deferral = now + tonumber(ARGV[2]), ARGV[3], ARGV[4]

local function is_ready(job)
  return job
    and job.queue:find('/', 1, true)
    and (WAITING[job.state] or RUNNING[job.state])
    and tonumber(job.ready_at) <= now
end

local answer = { NOW }
for n = 5, #ARGV do
  local id = ARGV[n]
  local job = head_of(id)
  if is_ready(job) then
    local due = job.ready_at
    if RUNNING[job.state] then
      end_lease(job)
    else
      take_out(job)
    end
    local found = redis.call('HMGET', key('job', id), unpack(LEASED))
    answer[#answer + 1] = '[' .. begin(job, found, due, lease_end, worker, deferral) .. ']'
  elseif job then
    answer[#answer + 1] = '[false,' .. story_of(id, true) .. ']'
  else
    answer[#answer + 1] = 'null'
  end
end
finish()
return '[' .. table.concat(answer, ',') .. ']'
