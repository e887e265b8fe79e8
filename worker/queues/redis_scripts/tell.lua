#!lua
-- Record how far a leased job is.
-- ARGV: prefix, id, receipt, progress. Nothing is changed if the lease was lost.
-- With: heads, groups.

local job = held_by(ARGV[2], ARGV[3])
if job then
  redis.call('HSET', key('job', job.id), 'state', 'PROGRESS', 'progress', ARGV[4])
  if job.state == 'STARTED' then
    -- One whose lease has run out may wait again.
    local waits = redis.call('ZSCORE', key('waiting', 'STARTED ' .. job.group), job.id)
    leaves(job)
    enters(job, 'PROGRESS', waits and tonumber(waits))
  end
  flush()
end
return 1
