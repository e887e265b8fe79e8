#!lua flags=allow-oom
-- Revoke jobs that wait, ask those that run to end.
-- ARGV: prefix, ids. Returns what became of each, in the words of worker.job.Requeued.
-- With: heads, groups, queues, keys, ends.

local answer = {}
for n = 2, #ARGV do
  local job = head_of(ARGV[n])
  local told = 'not_now'
  if not job then
    told = 'unknown'
  elseif RUNNING[job.state] then
    redis.call('HSET', key('job', job.id), 'cancel', '1')
    told = 'asked'
  elseif WAITING[job.state] then
    local hash = key('job', job.id)
    redis.call('HSET', hash, 'state', 'REVOKED', 'cancel', '1', 'finished_at', NOW)
    take_out(job)
    leaves(job)
    conclude(job, 'REVOKED')
    if job.key then
      free(job.key)
    end
    told = 'done'
  end
  answer[n - 1] = told
end
finish()
tell_watchers()
return table.concat(answer, ' ')
