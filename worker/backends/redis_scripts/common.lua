-- Stands before every other script: the names of keys, and the moment at which the script runs.
-- ARGV[1] is always the prefix of all keys.
--
-- Moments are microseconds since 1970, which a double holds exactly. Lua would write them as
-- 1.7e+15, therefore exact(). Entries and books are JSON that Python made; no script looks inside,
-- since cjson would round numbers and turn an empty list into an object.

local prefix = ARGV[1]
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])

local function key(...)
  return prefix .. ':' .. table.concat({...}, ':')
end

local function exact(number)
  return string.format('%.0f', number)
end

-- Whether the lease of a session holds; '' is no session.
local function alive(session)
  local lease = session ~= '' and redis.call('ZSCORE', key('leases'), session)
  return lease and tonumber(lease) > now
end
