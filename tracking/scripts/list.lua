-- A stretch of the narrowest index, in order. What the index does not answer, the caller checks.
--
-- ARGV[3]  'desc' newest first, or 'asc'
-- ARGV[4]  earliest arrival (µs, or empty)  ARGV[5] arrival it ends before (µs, or empty)
-- ARGV[6]  cursor arrival (µs, or empty)  ARGV[7] cursor key: begin behind this place
-- ARGV[8]  most index members to look at
-- ARGV[9]  '1': records with their detail
-- ARGV[10..]  kind and value of each index that holds all that is asked for; none: all records
-- Returns {ended, looked at, arrival, key, records}
--   ended    1 when nothing follows; else the next stretch begins behind (arrival, key)
--   records  each as stored; without detail it may be cut off anywhere behind its row
local CHUNK = 200
local MOST_BYTES = 1048576 -- of answer, so that large records cannot hold up the server
local USUAL_BYTES = 1279   -- meta and row; what is not copied into Lua is not paid for

local down = ARGV[3] == 'desc'
local low, high = floor_of(fleet_settings(time_us())), math.huge
if ARGV[4] ~= '' then low = math.max(low, tonumber(ARGV[4])) end
if ARGV[5] ~= '' then high = tonumber(ARGV[5]) end
local after_score, after_key = ARGV[6], ARGV[7]
local budget, detail = tonumber(ARGV[8]), ARGV[9] == '1'

-- Bounds as Redis takes them; the cursor's own arrival is looked at again, for others that share it.
local from, to = text(low), high == math.huge and '+inf' or '(' .. text(high)
if after_score ~= '' then
  local after = tonumber(after_score)
  if down then
    if after < high then to = after_score end
  elseif after > low then
    from = after_score
  end
end
local function past(score, key)
  if score ~= after_score then return true end
  if down then return key < after_key end
  return key > after_key
end

local source, size = P .. 'all', math.huge
for i = 10, #ARGV, 2 do
  local k = P .. ARGV[i] .. ':' .. ARGV[i + 1]
  local n = redis.call('ZCOUNT', k, from, to)
  if n < size then source, size = k, n end
end

local function next_chunk(offset)
  if down then
    return redis.call('ZREVRANGEBYSCORE', source, to, from, 'WITHSCORES', 'LIMIT', offset, CHUNK)
  end
  return redis.call('ZRANGEBYSCORE', source, from, to, 'WITHSCORES', 'LIMIT', offset, CHUNK)
end

local function read(key)
  local k = P .. 'r:' .. key
  if detail then return redis.call('GET', k) or nil end
  local record = redis.call('GETRANGE', k, 0, USUAL_BYTES)
  if record == '' then return nil end
  local row = string.find(record, '\n', 1, true)
  if row and string.find(record, '\n', row + 1, true) then return record end
  return redis.call('GET', k) or nil
end

local records, offset, looked, bytes = {}, 0, 0, 0
local last_score, last_key = after_score, after_key
while true do
  local chunk = next_chunk(offset)
  for i = 1, #chunk, 2 do
    local key, score = chunk[i], chunk[i + 1]
    if past(score, key) then
      if looked >= budget or bytes >= MOST_BYTES then
        return {0, looked, last_score, last_key, records}
      end
      looked = looked + 1
      local record = read(key)
      if record then
        records[#records + 1] = record
        bytes = bytes + #record
      end
      last_score, last_key = score, key
    end
  end
  if #chunk < 2 * CHUNK then
    return {1, looked, last_score, last_key, records}
  end
  offset = offset + CHUNK
end
