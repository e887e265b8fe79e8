-- Stands before every other script: the names of keys, and the moment at which the script runs. What
-- several scripts need beyond that stands in parts/: each names them in a line such as
-- "With: heads, groups.", in an order in which they know each other. Every part costs a call some
-- microseconds, whether it is used or not.
-- ARGV[1] is always the prefix of all keys.
--
-- Moments are microseconds since 1970, which a double holds exactly. Lua would write them as
-- 1.7e+15, therefore exact(). Every text that a client gives is kept as it is; what a script
-- answers is a JSON text, since one long answer costs a client less than many short ones.

local prefix = ARGV[1] .. ':jobs:'
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])

local PORTION = 500 -- how many jobs that are due one call of a script looks at
local POLL = 1000000 -- how often a waiting worker looks by itself
local STALE = 3 * POLL -- one that did not look for so long is dead

local function exact(number)
  return string.format('%.0f', number)
end

local NOW = exact(now)

-- An optional step, such as waking those that wait. It comes after the effect of a script, so it
-- must not fail the script: Redis keeps the writes of one that fails. Returns nil if it fails.
local refused -- the first reason for which one did
local function try(...)
  local answer = redis.pcall(...)
  if type(answer) == 'table' and answer.err then
    refused = refused or answer.err
    return nil
  end
  return answer
end

local function key(name, rest)
  return rest and prefix .. name .. ':' .. rest or prefix .. name
end
