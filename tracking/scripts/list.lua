-- One page of records, newest first.
--
-- ARGV[3] limit  ARGV[4] scan budget (index members looked at)
-- ARGV[5] cursor arrival (µs, or empty)  ARGV[6] cursor key
-- ARGV[7] node  ARGV[8] status  ARGV[9] session (each empty: any)
-- ARGV[10] '1': rows with their detail
-- Returns {why, arrival, key, part, ...}
--   why   'end' nothing follows, 'more' the page is full, 'budget' the scan stopped early;
--         but for 'end' the next page starts after (arrival, key)
--   part  row, or row LF detail
local CHUNK = 200

local floor = text(floor_of(fleet_settings(time_us())))
local limit, budget = tonumber(ARGV[3]), tonumber(ARGV[4])
local after_score, after_key = ARGV[5], ARGV[6]
local want = {node = ARGV[7], status = ARGV[8], session = ARGV[9]}
local detail = ARGV[10] == '1'

-- The narrowest index; what it does not answer is checked record by record.
local source, size, chosen = P .. 'all', math.huge, nil
for field, value in pairs(want) do
  if value ~= '' then
    local k = P .. field .. ':' .. value
    local n = redis.call('ZCOUNT', k, floor, '+inf')
    if n < size then source, size, chosen = k, n, field end
  end
end
local check = {}
for field, value in pairs(want) do
  if value ~= '' and field ~= chosen then check[field] = value end
end

local function matches(key)
  if not next(check) then return true end
  local m = stored_meta(key)
  if not m then return false end
  for field, value in pairs(check) do
    if m[field] ~= value then return false end
  end
  return true
end

local function part(key)
  local record = redis.call('GET', P .. 'r:' .. key)
  if not record then return nil end
  local row = string.find(record, '\n', 1, true) + 1
  if detail then return string.sub(record, row) end
  return string.sub(record, row, string.find(record, '\n', row, true) - 1)
end

local top = after_score ~= '' and after_score or '+inf'
local page, offset, scanned = {}, 0, 0
local last_score, last_key = '', ''
while true do
  local chunk = redis.call('ZREVRANGEBYSCORE', source, top, floor, 'WITHSCORES', 'LIMIT', offset, CHUNK)
  for i = 1, #chunk, 2 do
    local key, score = chunk[i], chunk[i + 1]
    if score ~= after_score or key < after_key then
      if scanned >= budget then return {'budget', last_score, last_key, unpack(page)} end
      scanned = scanned + 1
      if matches(key) then
        local p = part(key)
        if p then
          if #page == limit then return {'more', last_score, last_key, unpack(page)} end
          page[#page + 1] = p
        end
      end
      last_score, last_key = score, key
    end
  end
  if #chunk < 2 * CHUNK then return {'end', '', '', unpack(page)} end
  offset = offset + CHUNK
end
