#!lua flags=allow-oom
-- Have leases hold for longer.
-- ARGV: prefix, for how long from now in microseconds, 1 if the work on the jobs begins with this; then
-- for each lease: id, receipt. Returns a
-- digit for each: 0 it was lost, 1 it holds, 2 it holds and its job was asked to end.
-- With: heads, groups, queues, keys.

local lease_end, begins = exact(now + tonumber(ARGV[2])), ARGV[3] == '1'
local answer = {}
for n = 4, #ARGV, 2 do
  local job = held_by(ARGV[n], ARGV[n + 1])
  if job then
    if tonumber(job.ready_at) <= now then
      end_lease(job)
      remove(key('waiting', job.state .. ' ' .. job.group), job.id)
      if job.key then
        redis.call('SADD', key('holders', job.key), job.id)
      end
      flush()
    end
    add(key('leased'), lease_end, job.id)
    redis.call('HSET', key('job', job.id), 'ready_at', lease_end)
    if begins then
      redis.call('HDEL', key('job', job.id), 'deferred')
    end
    expect(job.queue, tonumber(lease_end))
  end
  answer[#answer + 1] = not job and '0' or (job.cancel and '2' or '1')
end
finish()
return table.concat(answer)
