-- Unique keys. A key names the states in which it is held, and the job.

local function holder_of(name)
  local states, id = (redis.call('GET', key('unique', name)) or ''):match('^(%S+) (.*)$')
  local state = id and redis.call('HGET', key('job', id), 'state')
  if state == 'PROGRESS' then
    state = 'STARTED'
  end
  return state and (',' .. states .. ','):find(',' .. state .. ',', 1, true) and id
end

local function hold(name, states, id, ttl)
  if ttl == '' then
    redis.call('SET', key('unique', name), states .. ' ' .. id)
  else
    local millis = math.max(1, math.ceil(tonumber(ttl) / 1000))
    redis.call('SET', key('unique', name), states .. ' ' .. id, 'PX', exact(millis))
  end
end
