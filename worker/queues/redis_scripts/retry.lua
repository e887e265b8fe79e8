#!lua
-- Put jobs that ended without success back into their queues, to begin anew.
-- ARGV: prefix, ids. Returns what became of each, in the words of worker.job.Requeued.
-- With: heads, groups, queues.

local RETRIED = { FAILURE = true, REVOKED = true, EXPIRED = true }

local function retry(job)
  local hash = key('job', job.id)
  local dead, data = unpack(redis.call('HMGET', hash, 'dead', 'data'))
  leaves(job)
  remove(key('finished'), job.id)
  if dead then
    remove(key('dead'), job.id)
    count('dead_counts', job.state .. ' ' .. job.group, -1)
  end
  data = data:match('^(.*,)') .. 'null' -- its last word is when it expires
  redis.call('HSET', hash, 'state', 'PENDING', 'ready_at', NOW, 'data', data)
  redis.call('HDEL', hash, 'attempts', 'losses', 'refusals', 'error', 'finished_at', 'progress')
  redis.call('HDEL', hash, 'result_until', 'dead', 'cancel')
  redis.call('DEL', key('result', job.id))
  put(job, 'PENDING', now)
end

local answer = {}
for n = 2, #ARGV do
  local job = head_of(ARGV[n])
  local told = 'not_now'
  if not job then
    told = 'unknown'
  elseif RETRIED[job.state] then
    retry(job)
    told = 'done'
  end
  answer[n - 1] = told
end
finish()
return table.concat(answer, ' ')
