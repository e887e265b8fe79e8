-- Stands before every other script: the names of keys, and the moment at which the script runs.
-- ARGV[1] is always the prefix of all keys.
--
-- Moments are microseconds since 1970, which a double holds exactly. Lua would write them as
-- 1.7e+15, therefore exact(). Entries and the states of books are JSON that Python made, and strings
-- to every script: cjson would round their numbers, and turn an empty list into an object. What
-- scripts themselves pack with cjson, since that is quicker than many small arguments and answers,
-- is lists of strings.

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
