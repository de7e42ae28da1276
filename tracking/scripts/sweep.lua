-- Requests whose router died become `lost`. Safe to repeat, by any replica.
--
-- ARGV[3]  most records to look at in this call
-- ARGV[4]  the error object of a lost request, as JSON
-- Returns  {lost, more}: how many became lost, and 1 when some are left
--
-- Only records that are not terminal and whose owner's lease ran out are touched. The revision stays:
-- the owner, should it only have been paused, takes them back.
local room, lost = tonumber(ARGV[3]), 0
local floor = floor_of(fleet_settings(time_us()))
local tip = feed_tip()

local function lose(key, owner)
  local k = P .. 'r:' .. key
  local record = redis.call('GET', k)
  local _, score, its_owner, status = match(record or '', META)
  if its_owner ~= owner or not OPEN[status] then return end
  local row_start = string.find(record, '\n', 1, true) + 1
  local row_end = string.find(record, '\n', row_start, true) - 1
  local meta, row = string.sub(record, 1, row_start - 1), string.sub(record, row_start, row_end)
  -- Quotes inside JSON strings are escaped, so this can only be the field itself.
  local field = '"status":"' .. status .. '"'
  local from, to = string.find(row, field, 1, true)
  row = string.sub(row, 1, from - 1) .. '"status":"lost"' .. string.sub(row, to + 1)
  if not string.find(row, ',"error":{', 1, true) then
    row = string.sub(row, 1, -2) .. ',"error":' .. ARGV[4] .. '}'
  end
  from, to = string.find(meta, '\t' .. status .. '\t', 1, true)
  meta = string.sub(meta, 1, from) .. 'lost' .. string.sub(meta, to)
  redis.call('SET', k, meta .. row .. string.sub(record, row_end + 1), 'KEEPTTL')
  redis.call('ZREM', P .. 'status:' .. status, key)
  redis.call('ZADD', P .. 'status:lost', score, key)
  if tip then tell(tip, row, record) end
  if tonumber(score) >= floor then lost = lost + 1 end
end

for _, owner in ipairs(redis.call('SMEMBERS', P .. 'owners')) do
  if redis.call('EXISTS', P .. 'replica:' .. owner) == 0 then
    local open = P .. 'open:' .. owner
    for _, key in ipairs(redis.call('SRANDMEMBER', open, room)) do
      lose(key, owner)
      redis.call('SREM', open, key)
      room = room - 1
    end
    if room <= 0 then break end
    redis.call('SREM', P .. 'owners', owner)
  end
end
local ttl = redis.call('TTL', KEYS[1])
if lost > 0 and ttl > 0 then redis.call('EXPIRE', P .. 'status:lost', ttl) end
return {lost, room <= 0 and 1 or 0}
