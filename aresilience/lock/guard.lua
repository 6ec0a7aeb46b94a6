-- A write, or a read, that is refused when its fence is lower than one that came before.
--
-- KEYS[1]  what is guarded: a hash of `fence` and `value`
-- ARGV[1]  nonce, returned as the first item
-- ARGV[2]  the fence, ARGV[3] how long to keep it, in milliseconds, ARGV[4] the value, if it is a write
-- returns  nonce, the highest fence seen, this one included, and the value, if there is one

local seen = redis.call('HGET', KEYS[1], 'fence') or '0'
if not tonumber(seen) then
  return redis.error_reply('CORRUPT a guarded key holds something else')
end
if tonumber(seen) > tonumber(ARGV[2]) then
  return {tonumber(ARGV[1]), tonumber(seen)}
end
redis.call('HSET', KEYS[1], 'fence', ARGV[2])
if ARGV[4] then redis.call('HSET', KEYS[1], 'value', ARGV[4]) end
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return {tonumber(ARGV[1]), tonumber(ARGV[2]), redis.call('HGET', KEYS[1], 'value') or nil}
