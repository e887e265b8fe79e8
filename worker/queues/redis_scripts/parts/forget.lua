-- Forget a job, wherever it stands. Who waits for its end is not told here.
local function forget(job)
  local hash = key('job', job.id)
  local dead, unique = unpack(redis.call('HMGET', hash, 'dead', 'unique'))
  leaves(job)
  if dead then
    count('dead_counts', job.state .. ' ' .. job.group, -1)
    remove(key('dead'), job.id)
  end
  if RUNNING[job.state] then
    end_lease(job)
    release(job)
  elseif WAITING[job.state] then
    take_out(job)
    release(job)
  end
  remove(key('finished'), job.id)
  remove(key('created'), job.id)
  if unique then
    local holder = redis.call('GET', key('unique', unique))
    if holder and holder:match('^%S+ (.*)$') == job.id then
      redis.call('DEL', key('unique', unique))
    end
  end
  redis.call('DEL', hash, key('result', job.id))
end
