-- Claim a record, or see how it stands: `claim` and `view` of record.py, at once.
--
-- KEYS[1]  the record    KEYS[2]  what is open: ids by the time at which their record expires
-- ARGV[1]  nonce, returned as the first item
-- ARGV[2]  for tests: the time in microseconds; 0: the server's
-- ARGV[3]  the token of who asks; empty: only look
-- ARGV[4]  the fingerprint of the work
-- ARGV[5]  microseconds of the lease    ARGV[6]  microseconds that the record outlives it
-- ARGV[7]  1: take over what was abandoned
-- ARGV[8]  the record's id
-- returns  nonce, answer (see `Answer`), fence, attempt, age, left, value
--
-- Fields of a record: s state, f fingerprint, t token, n fence, a attempt, b began, l lease, u until, x expires,
-- v value, w somebody waits. Repeated with the same token it gives the same answer.

local function int(n) return string.format('%.0f', n) end

local nonce, token, fingerprint = tonumber(ARGV[1]), ARGV[3], ARGV[4]
local now = tonumber(ARGV[2])
if now == 0 then
  local t = redis.call('TIME')
  now = t[1] * 1000000 + t[2]
end

local function take(fence, attempt)
  local lease, keep = tonumber(ARGV[5]), tonumber(ARGV[6])
  local expires = now + lease + keep
  redis.call('HSET', KEYS[1], 's', 'R', 'f', fingerprint, 't', token, 'n', int(fence), 'a', int(attempt),
    'b', int(now), 'l', int(lease), 'u', int(now + lease), 'x', int(expires))
  redis.call('PEXPIRE', KEYS[1], int(math.ceil((lease + keep) / 1000)))
  redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', int(now))
  redis.call('ZADD', KEYS[2], int(expires), ARGV[8])
  local left = math.ceil((lease + keep) / 1000)
  if redis.call('PTTL', KEYS[2]) < left then
    redis.call('PEXPIRE', KEYS[2], int(left))
  end
  return {nonce, 1, fence, attempt, 0, lease, ''}
end

local r = redis.call('HMGET', KEYS[1], 's', 'f', 't', 'n', 'a', 'b', 'l', 'u', 'x')
local state = r[1]
if not state then
  if redis.call('EXISTS', KEYS[1]) == 1 then
    return redis.error_reply('CORRUPT an idempotency key holds something else')
  end
end
local fence, attempt, began = tonumber(r[4]), tonumber(r[5]), tonumber(r[6])
local lease, till, expires = tonumber(r[7]), tonumber(r[8]), tonumber(r[9])
local done = ({D = 3, F = 4, L = 5})[state]
if state and not ((done or state == 'R') and r[2] and r[3] and fence and attempt and began and lease and till
    and expires) then
  return redis.error_reply('CORRUPT an idempotency key holds something else')
end

if not state or now >= expires then
  if token == '' then
    return {nonce, 0, 0, 0, 0, 0, ''}
  end
  if state then
    redis.call('DEL', KEYS[1])
  end
  return take(math.max(1, now), 1)
end

local age = math.max(0, now - began)
if token ~= '' and r[2] ~= fingerprint then
  local one, other = string.match(r[2], '^[^:]*'), string.match(fingerprint, '^[^:]*')
  if r[2] == '' or fingerprint == '' or one == other then
    return {nonce, 7, 0, 0, 0, 0, ''}
  end
end
if done then
  return {nonce, done, fence, attempt, age, expires - now, redis.call('HGET', KEYS[1], 'v') or ''}
end
if token == '' then
  return {nonce, till > now and 2 or 6, fence, attempt, age, math.max(0, till - now), ''}
end
if r[3] == token then
  local again = take(fence, attempt)
  redis.call('HSET', KEYS[1], 'f', r[2], 'b', r[6])
  again[5] = age
  return again
end
if till > now then
  -- After a step of the clock no lease is longer than it was made.
  local capped = math.min(till, now + lease)
  redis.call('HSET', KEYS[1], 'w', '1', 'u', int(capped))
  return {nonce, 2, fence, attempt, age, capped - now, ''}
end
if ARGV[7] ~= '1' then
  return {nonce, 6, fence, attempt, age, 0, ''}
end
return take(math.max(fence + 1, now), attempt + 1)
