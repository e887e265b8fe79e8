-- Concurrency keys. A job that was ready when its key was taken is parked with those of the same
-- key, queue and limit, which are a lot. As long as a lot is not empty, at least as many of its
-- jobs stand ready as the key has room for; so none is forgotten, and the others cost nothing.
-- A lot of its own for each queue, since one that nobody works on must not hold up the others.

local function lot_of(job)
  return job.limit .. ' ' .. job.queue .. ' ' .. job.key
end

local function park(job, score, member)
  redis.call('ZADD', key('parked', lot_of(job)), score, member)
  redis.call('SADD', key('lots', job.key), lot_of(job))
end

local function has_room(job)
  return redis.call('SCARD', key('holders', job.key)) < tonumber(job.limit)
end

-- The key has room for one more, or one of its ready jobs has gone: free one of each lot.
local function free(name)
  local holders = redis.call('SCARD', key('holders', name))
  for _, lot in ipairs(redis.call('SMEMBERS', key('lots', name))) do
    local limit, queue = lot:match('^(%S+) (%S+) ')
    if holders < tonumber(limit) then
      local first = redis.call('ZPOPMIN', key('parked', lot))
      if #first == 0 then
        redis.call('SREM', key('lots', name), lot)
      else
        -- At once: it may be one that the same script takes out.
        redis.call('ZADD', key('ready', queue), first[2], first[1])
        fresh[queue] = (fresh[queue] or 0) + 1
      end
    end
  end
end

local function release(job)
  if job.key then
    redis.call('SREM', key('holders', job.key), job.id)
    free(job.key)
  end
end

-- Take a job out that stands in `later`, in `ready` or in a lot, if it does.
local function take_out(job)
  if redis.call('ZREM', key('later', job.queue), job.id) == 0 then
    local _, member = place_of(job.rank, job.ready_at, job.id)
    local found = redis.call('ZREM', key('ready', job.queue), member)
    if found == 0 and job.key then
      redis.call('ZREM', key('parked', lot_of(job)), member)
    end
  end
end

-- A lease that a worker still has ends. One that had run out may stand in its queue again.
local function end_lease(job)
  if tonumber(job.ready_at) > now then
    remove(key('leased'), job.id)
  elseif redis.call('ZREM', key('leased'), job.id) == 0 then
    take_out(job)
  end
end
