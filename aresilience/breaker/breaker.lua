-- One circuit: replace its state if nobody else has meanwhile.
--
-- KEYS[1]  the circuit
-- ARGV[1]  nonce, returned as the first item
-- ARGV[2]  the version that the caller saw; 0: none; -1: only read
-- ARGV[3]  the new value; it begins with its version and a bar
-- ARGV[4]  how long to keep it, in milliseconds
-- ARGV[5]  the channel on which to tell the others, ARGV[6] what to tell them
-- returns  nonce, 1 if replaced, the server's time in microseconds, and the value as it is now ('' for none)

local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
local value = redis.call('GET', KEYS[1])
local version = value and string.match(value, '^(%d+)|') or '0'
if value and version == '0' then
  return redis.error_reply('CORRUPT a circuit breaker key holds something else')
end
if ARGV[2] ~= version then
  return {tonumber(ARGV[1]), 0, now, value or ''}
end
redis.call('SET', KEYS[1], ARGV[3], 'PX', ARGV[4])
redis.call('PUBLISH', ARGV[5], ARGV[6])
return {tonumber(ARGV[1]), 1, now, ARGV[3]}
