-- Leases: many of them in one call. The twin of machine.py.
--
-- KEYS     for each entry, for each of its names, in order, as many as the entry says:
--            1 or more  the one who holds it (a string), also the channel of its changes
--            2 or more  the fence of the name's tag (a number)
--            6          those who share it (a sorted set: token, end), what is known of them (a hash), the queue
--                       (a sorted set: token, order), its places (a sorted set: token, when it is given up)
-- ARGV[1]  nonce, returned as the first item
-- ARGV     then for each entry three: nine doubles in one string, a token, a text
--            doubles: verb, names, keys of a name, kind, ttl, delay, place, permits, flags (1 waits, 2 loud);
--            times in microseconds
--            verbs: 0 acquire, 1 renew, 2 release, 3 take, 4 tell, 5 look
--            kinds: 1 lock, 2 permit, 3 read, 4 write
-- returns  nonce, then for each entry
--            acquire, take   {1, fence}, or {0, microseconds until asking again makes sense, owner}
--            renew, tell     1 or 0
--            release         0: it was not held any more, 1: it was, 2: and somebody who waited was told
--            look            a list of {owner, fence, since, left} in microseconds
--          an error in place of an entry that cannot be done
--
-- A holder is flag and token, then "fence since ttl delay owner"; it lives for ttl and delay, and can be renewed while
-- more than the delay is left. flag: somebody waits who is not in the queue. Ends are the key's own, so that
-- renewing and releasing work when Redis is out of memory.

local ACQUIRE, RENEW, RELEASE, TAKE, TELL, LOOK = 0, 1, 2, 3, 4, 5
local LOCK, PERMIT, READ, WRITE = 1, 2, 3, 4
local WEEK = 604800000
local PLACE = 3000000   -- the longest that a place is kept without being asked for
local call = redis.call

local t = call('TIME')
local now = t[1] * 1000000 + t[2]

local format = string.format
local function int(x) return format('%.0f', x) end
local function ms(us) return int(math.max(1, math.ceil(us / 1000))) end

local function mint(key)
  local last = call('SET', key, int(now), 'PX', WEEK, 'GET')   -- nearly always lower
  if not last or (tonumber(last) or 0) < now then return now end
  local fence = tonumber(last) + 1
  call('SET', key, int(fence), 'PX', WEEK)
  return fence
end

-- One plain lock: what nearly every entry is, without what the others need. nil: not so plain, ask `general`.
local function usual(verb, ttl, token, text, one, fence, waits)
  local value = call('GET', one)
  if verb == ACQUIRE then
    if value then
      local flag, other, own, delay, owner = string.match(value, '^(.)(%x+) %d+ %d+ (%d+) (%d+) (.*)$')
      local left = call('PTTL', one) * 1000
      if not flag or other == token or left < 0 or left > own + delay then return nil end
      if waits and flag == '0' then call('SETRANGE', one, 0, '1') end
      return {0, left, owner}
    end
    local number = mint(fence)
    call('SET', one, format('0%s %.0f %.0f %.0f 0 ', token, number, now, ttl) .. text, 'PX', ms(ttl))
    return {1, number}
  end
  if not value or string.sub(value, 2, 33) ~= token then return nil end
  if verb == RENEW then return call('PEXPIRE', one, ms(ttl)) end
  call('DEL', one)
  if string.sub(value, 1, 1) == '0' then return 1 end
  call('PUBLISH', one, '')
  return 2
end

-- All verbs for all kinds, made when the first entry needs them.
local function general()
  local HOLDER = '^([01])(%x+) (%d+) (%d+) (%d+) (%d+) (.*)$'

  local function holder(key)
    local value = call('GET', key)
    if not value then return nil end
    local flag, token, fence, since, ttl, delay, owner = string.match(value, HOLDER)
    if not token then error({err = 'CORRUPT a key of a lock holds something else'}) end
    local h = {token = token, fence = tonumber(fence), since = tonumber(since), ttl = tonumber(ttl),
               delay = tonumber(delay), flag = flag, owner = owner}
    local left = call('PTTL', key) * 1000
    if left < 0 or left > h.ttl + h.delay + 1000 then   -- without an end, or the clock went back
      left = h.ttl + h.delay
      call('PEXPIRE', key, ms(left))
    end
    h.left = left
    return h
  end

  local function keep(key, h, px)
    local value = table.concat({h.flag .. h.token, int(h.fence), int(h.since), int(h.ttl), int(h.delay), h.owner}, ' ')
    if px then call('SET', key, value, 'PX', ms(px)) else call('SET', key, value, 'KEEPTTL') end
  end

  local function at_least(key, px)
    if call('PTTL', key) < px then call('PEXPIRE', key, int(px)) end
  end

  -- Those who share it.

  local function sharers(k, ttl)
    for _, token in ipairs(call('ZRANGEBYSCORE', k.many, '-inf', int(now))) do
      call('ZREM', k.many, token)
      call('HDEL', k.facts, token)
    end
    -- No end is further than its own ttl, unless the clock went back: nobody is kept for longer than his ttl, or
    -- that of whoever asks. Where all have the same none is found.
    for _, token in ipairs(call('ZRANGEBYSCORE', k.many, '(' .. int(now + ttl), '+inf')) do
      local own = tonumber(string.match(call('HGET', k.facts, token) or '', '^%d+ %d+ (%d+) ') or '0')
      if tonumber(call('ZSCORE', k.many, token)) > now + own then call('ZADD', k.many, int(now + own), token) end
    end
    return call('ZCARD', k.many)
  end

  local function until_one_leaves(k)
    local first = call('ZRANGE', k.many, 0, 0, 'WITHSCORES')
    local owner = first[1] and string.match(call('HGET', k.facts, first[1]) or '', '^%d+ %d+ %d+ (.*)$')
    return {0, first[2] and math.max(1, tonumber(first[2]) - now) or 1, owner or ''}
  end

  -- Those who wait.

  local function queue(k)
    for _, token in ipairs(call('ZRANGEBYSCORE', k.places, '-inf', int(now))) do
      call('ZREM', k.queue, token)
      call('ZREM', k.places, token)
    end
    for _, token in ipairs(call('ZRANGEBYSCORE', k.places, '(' .. int(now + PLACE), '+inf')) do
      call('ZADD', k.places, int(now + PLACE), token)   -- the clock went back
    end
    return call('ZCARD', k.queue)
  end

  local function until_a_place_is_given_up(k)
    local first = call('ZRANGE', k.places, 0, 0, 'WITHSCORES')
    return {0, first[2] and math.max(1, tonumber(first[2]) - now) or 1, ''}
  end

  local function stand(e, k)
    if e.place == 0 then return end
    if not call('ZSCORE', k.queue, e.token) then
      local last = call('ZREVRANGE', k.queue, 0, 0, 'WITHSCORES')
      call('ZADD', k.queue, int(math.max(tonumber(last[2] or '0') + 1, now)), e.token)
    end
    call('ZADD', k.places, int(now + e.place), e.token)
    at_least(k.queue, math.ceil(e.place / 1000) + 60000)
    at_least(k.places, math.ceil(e.place / 1000) + 60000)
  end

  local function leave(e, k)
    if not k.queue then return false end
    call('ZREM', k.places, e.token)
    return call('ZREM', k.queue, e.token) == 1
  end

  local function tell(e, k, flagged)
    local first = k.queue and call('ZRANGE', k.queue, 0, 0)[1]
    if e.loud or flagged then
      call('PUBLISH', k.one, '')
    elseif first then
      call('PUBLISH', k.one, first)
    end
    return flagged or first
  end

  -- Asking.

  local function shares(e) return e.kind == PERMIT or e.kind == READ end

  local function mine(e, k)
    if shares(e) then
      local ends = call('ZSCORE', k.many, e.token)
      if not ends or tonumber(ends) <= now then return nil end
      return tonumber(string.match(call('HGET', k.facts, e.token) or '', '^(%d+) ') or '0')
    end
    local h = holder(k.one)
    return h and h.token == e.token and h.left > h.delay and h.fence or nil
  end

  local function prolong(e, k)
    if shares(e) then
      at_least(k.many, math.ceil(e.ttl / 1000))      -- a write that is allowed out of memory, and allows the next
      at_least(k.facts, math.ceil(e.ttl / 1000))
      call('PEXPIRE', k.many, int(call('PTTL', k.many)))
      call('ZADD', k.many, 'XX', int(now + e.ttl), e.token)
    else
      call('PEXPIRE', k.one, ms(e.ttl + e.delay))
    end
  end

  local function blocked(e, k)
    if e.kind ~= PERMIT then
      local h = holder(k.one)
      if h then
        if e.waits and h.flag == '0' then
          h.flag = '1'
          keep(k.one, h)
        end
        return {0, h.left, h.owner}
      end
    end
    if not k.queue then return nil end
    local waiting, sharing = queue(k), sharers(k, e.ttl)
    if e.kind == READ then return waiting > 0 and until_a_place_is_given_up(k) or nil end
    if e.kind == WRITE and sharing > 0 then return until_one_leaves(k) end
    if e.kind ~= PERMIT and e.place == 0 then return nil end
    local free = e.kind == PERMIT and e.permits - sharing or 1
    local before = call('ZRANK', k.queue, e.token) or waiting
    if before < free then return nil end
    return free <= 0 and until_one_leaves(k) or until_a_place_is_given_up(k)
  end

  local function grant(e)
    local fence, before = 0, {}
    if not shares(e) then   -- all is read before the first is written: all or none, also where a key is corrupt
      for n, k in ipairs(e.names) do before[n] = holder(k.one) or false end
    end
    for _, k in ipairs(e.names) do fence = math.max(fence, mint(k.fence)) end
    for n, k in ipairs(e.names) do
      call('SET', k.fence, int(fence), 'PX', WEEK)
      leave(e, k)
      if shares(e) then
        call('HSET', k.facts, e.token, table.concat({int(fence), int(now), int(e.ttl), e.text}, ' '))
        call('ZADD', k.many, int(now + e.ttl), e.token)
        at_least(k.many, math.ceil(e.ttl / 1000))
        at_least(k.facts, math.ceil(e.ttl / 1000))
        if e.kind == PERMIT and call('ZCARD', k.many) < e.permits then tell(e, k) end   -- another is free
      else
        keep(k.one, {token = e.token, fence = fence, since = now, ttl = e.ttl, delay = e.delay,
                     flag = before[n] and before[n].flag or '0', owner = e.text}, e.ttl + e.delay)
        if e.loud then tell(e, k) end
      end
    end
    return {1, fence}
  end

  local verbs = {}

  verbs[ACQUIRE] = function(e)
    local held, fence = 0, 0
    for _, k in ipairs(e.names) do
      local number = mine(e, k)
      if number then held, fence = held + 1, math.max(fence, number) end
    end
    if held == #e.names then
      for _, k in ipairs(e.names) do prolong(e, k) end
      return {1, fence}
    end
    for _, k in ipairs(e.names) do
      local no = not mine(e, k) and blocked(e, k)
      if no then
        if e.waits and k.queue then stand(e, k) end
        return no
      end
    end
    return grant(e)
  end

  verbs[TAKE] = grant

  verbs[RENEW] = function(e)
    for _, k in ipairs(e.names) do
      if not mine(e, k) then return 0 end
    end
    for _, k in ipairs(e.names) do prolong(e, k) end
    return 1
  end

  verbs[RELEASE] = function(e)
    local said = 1
    for _, k in ipairs(e.names) do
      local ours, flagged = false, false
      if shares(e) then
        local ends = call('ZSCORE', k.many, e.token)
        ours = ends and tonumber(ends) > now
        if ends then
          call('ZREM', k.many, e.token)
          call('HDEL', k.facts, e.token)
        end
      else
        local h = holder(k.one)
        if h and h.token == e.token then
          ours, flagged = h.left > h.delay, h.flag == '1'
          call('DEL', k.one)
        end
      end
      local left = leave(e, k)
      if k.queue then queue(k) end
      if not ours and said > 0 then said = 0 end
      if (ours or left or flagged) and tell(e, k, flagged) and said == 1 then said = 2 end
    end
    return said
  end

  verbs[TELL] = function(e)
    for _, k in ipairs(e.names) do
      local h = holder(k.one)
      if not h or h.token ~= e.token or h.left <= h.delay then return 0 end
      h.owner = e.text
      keep(k.one, h)
      call('PUBLISH', k.one, '')
    end
    return 1
  end

  verbs[LOOK] = function(e)
    local found = {}
    local k = e.names[1]
    local h = not shares(e) and holder(k.one)
    if h and h.left > h.delay then found[1] = {h.owner, h.fence, now - h.since, h.left - h.delay} end
    if k.many then
      sharers(k, e.ttl)
      for _, token in ipairs(call('ZRANGE', k.many, 0, -1)) do
        local fence, since, _, owner = string.match(call('HGET', k.facts, token) or '', '^(%d+) (%d+) (%d+) (.*)$')
        if fence then
          found[#found + 1] = {owner, tonumber(fence), now - tonumber(since),
                               tonumber(call('ZSCORE', k.many, token)) - now}
        end
      end
    end
    return found
  end

  return verbs
end

local verbs
local function entry(place, key)
  local verb, names, per, kind, ttl, delay, stay, permits, flags = struct.unpack('<ddddddddd', ARGV[place])
  local token, text = ARGV[place + 1], ARGV[place + 2]
  if kind == LOCK and names == 1 and per < 6 and delay == 0 and flags < 2 and verb <= RELEASE then
    local item = usual(verb, ttl, token, text, KEYS[key], KEYS[key + 1], flags == 1)
    if item then return item, per end
  end
  local e = {verb = verb, kind = kind, ttl = ttl, delay = delay, place = stay, permits = permits,
             waits = flags % 2 == 1, loud = flags >= 2, token = token, text = text, names = {}}
  for n = 1, names do
    local k = {one = KEYS[key]}
    if per > 1 then k.fence = KEYS[key + 1] end
    if per == 6 then
      k.many, k.facts, k.queue, k.places = KEYS[key + 2], KEYS[key + 3], KEYS[key + 4], KEYS[key + 5]
    end
    e.names[n] = k
    key = key + per
  end
  if not verbs then verbs = general() end
  return verbs[verb](e), names * per
end

local out = {tonumber(ARGV[1])}
local key = 1
for i = 2, #ARGV, 3 do
  local done, item, keys = pcall(entry, i, key)
  if not done then
    item = redis.error_reply(type(item) == 'table' and item.err or tostring(item))
    local _, names, per = struct.unpack('<ddd', ARGV[i])
    keys = names * per
  end
  out[#out + 1] = item
  key = key + keys
end
return out
