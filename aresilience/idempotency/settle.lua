-- End the work on a record: `settle` of record.py, at once.
--
-- KEYS[1]  the record    KEYS[2]  what is open
-- ARGV[1]  nonce, returned as the first item
-- ARGV[2]  for tests: the time in microseconds; 0: the server's
-- ARGV[3]  the owner's token; empty: remove the record, whosever it is
-- ARGV[4]  the ending (see `Ending`)    ARGV[5]  the value    ARGV[6]  microseconds for which it is kept
-- ARGV[7]  the fingerprint, ARGV[8] fence and ARGV[9] attempt, to write the record anew if it is gone
-- ARGV[10] the record's id    ARGV[11]  the channel on which to wake who waits
-- returns  nonce, 1 if it counts, 0 if the record is somebody else's (or, to remove, if there was none)
--
-- Repeated, it changes nothing and gives the same answer.

local function int(n) return string.format('%.0f', n) end

local nonce, token, ending = tonumber(ARGV[1]), ARGV[3], ARGV[4]
local now = tonumber(ARGV[2])
if now == 0 then
  local t = redis.call('TIME')
  now = t[1] * 1000000 + t[2]
end

local r = redis.call('HMGET', KEYS[1], 's', 't', 'a', 'x', 'w', 'b', 'u')
local state, attempt, expires = r[1], tonumber(r[3]), tonumber(r[4])
if state and not (attempt and expires) then
  return redis.error_reply('CORRUPT an idempotency key holds something else')
end
local gone = not state or now >= expires
local kept = ending == 'D' or ending == 'F' or ending == 'L'

local function wake()
  if not gone and r[5] then
    redis.call('PUBLISH', ARGV[11], '')
  end
end

local function remove()
  redis.call('DEL', KEYS[1])
  redis.call('ZREM', KEYS[2], ARGV[10])
  wake()
end

if token == '' then
  remove()
  return {nonce, gone and 0 or 1}
end
if gone then
  if not kept then
    remove()
    return {nonce, 1}
  end
elseif r[2] ~= token then
  return {nonce, 0}
elseif state ~= 'R' then
  return {nonce, 1}
end

if kept then
  local ttl = tonumber(ARGV[6])
  local began = gone and int(now) or r[6]
  redis.call('DEL', KEYS[1])
  redis.call('HSET', KEYS[1], 's', ending, 'f', ARGV[7], 't', token, 'n', ARGV[8], 'a', ARGV[9], 'b', began,
    'l', '0', 'u', '0', 'x', int(now + ttl), 'v', ARGV[5])
  redis.call('PEXPIRE', KEYS[1], int(math.ceil(ttl / 1000)))
  redis.call('ZREM', KEYS[2], ARGV[10])
  wake()
elseif ending == '0' or (ending == 'U' and attempt == 1) then
  remove()
elseif r[7] ~= '0' then
  redis.call('HSET', KEYS[1], 'u', '0', 'a', int(attempt - (ending == 'U' and 1 or 0)))
  redis.call('HDEL', KEYS[1], 'w')
  wake()
end
return {nonce, 1}
