-- The barrier of a participant, around its own script, which is put in place of the line in `body`.
--
-- KEYS[1]  the row of the action, KEYS[2] the row of the compensation; then the body's own keys
-- ARGV[1]  nonce, returned as the first item
-- ARGV[2]  'do' or 'undo'
-- ARGV[3]  how long rows are kept, in milliseconds; then the body's own arguments
-- returns  nonce, and 1 and what the body returned; or 0 and 'null' or 'repeated'

local nonce, way, ttl = tonumber(ARGV[1]), ARGV[2], ARGV[3]
local function insert(key) return redis.call('SET', key, way, 'NX', 'PX', ttl) end
local function rest(list, from)
  local found = {}
  for i = from, #list do found[#found + 1] = list[i] end
  return found
end

local row = KEYS[1]
if way == 'undo' then
  row = KEYS[2]
  if insert(KEYS[1]) then      -- the action has not been here, and never will
    insert(KEYS[2])
    return {nonce, 0, 'null'}
  end
end
if not insert(row) then return {nonce, 0, 'repeated'} end

local function body(KEYS, ARGV)
--<the body>--
end
local ok, said = pcall(body, rest(KEYS, 3), rest(ARGV, 4))
if not ok or (type(said) == 'table' and said.err) then  -- raised, or returned: as of redis.pcall
  redis.call('DEL', row)
  return redis.error_reply(type(said) == 'table' and said.err or 'ERR ' .. tostring(said))
end
if said == nil then said = false end
return {nonce, 1, said}
