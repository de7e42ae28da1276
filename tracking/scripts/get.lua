-- Whole records by id. An id is a request id (the newest record under it answers), the record's key,
-- or the engine's id, in this order.
--
-- ARGV[3..]  ids, at most 1000
-- Returns    for each id the record, or nil
local floor = floor_of(fleet_settings(time_us()))

local function newest(pointer)
  local keys = redis.call('ZREVRANGEBYSCORE', P .. pointer, '+inf', text(floor), 'LIMIT', 0, 8)
  for _, key in ipairs(keys) do
    local record = redis.call('GET', P .. 'r:' .. key)
    if record then return record end
  end
  return false
end

local function by_key(key)
  local record = redis.call('GET', P .. 'r:' .. key)
  local _, arrived = match(record or '', META)
  return arrived and tonumber(arrived) >= floor and record
end

local function by_engine(id)
  local _, records = made_of_ours(id)
  for _, record in ipairs(records) do
    local _, arrived = match(record, META)
    if tonumber(arrived) >= floor then return record end
  end
  return false
end

local found = {}
for i = 3, #ARGV do
  local id = ARGV[i]
  found[i - 2] = newest('id:' .. id) or by_key(id) or newest('engine:' .. id) or by_engine(id)
end
return found
