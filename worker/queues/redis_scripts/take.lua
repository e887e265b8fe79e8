#!lua flags=allow-oom
-- The generic cell rate algorithm: one moment a key, the theoretical arrival time.
-- ARGV: prefix, key, microseconds from one start to the next, how many may start at once, how many
-- are wanted. Returns how many are granted, and microseconds until the next one is.

local spacing, burst, wanted = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local name = key('rate', ARGV[2])
local arrival = math.max(tonumber(redis.call('GET', name)) or now, now)
local granted = math.max(0, math.min(wanted, math.floor((now + spacing * burst - arrival) / spacing)))
arrival = arrival + spacing * granted
if granted > 0 then
  redis.call('SET', name, exact(arrival), 'PX', exact(math.ceil((arrival - now) / 1000)))
end
return { granted, math.max(0, arrival + spacing - spacing * burst - now) }
