-- Counts over the records held; cost does not grow with their number.
--
-- Returns {total, active, oldest, newest, cap, ttl, nodes, statuses, tallies}
--   oldest, newest  arrival in µs as string, or nil
--   nodes, statuses flat name, count; each sums to active
--   tallies         flat field, count over the minutes held; fields r:<route> p:<policy> m:<model>
local now = time_us()
local settings = fleet_settings(now)
local floor = floor_of(settings)
local low = text(floor)

local function held(k) return redis.call('ZCOUNT', P .. k, low, '+inf') end

local nodes, statuses = {}, {}
for _, node in ipairs(redis.call('ZRANGEBYSCORE', P .. 'nodes-seen', low, '+inf')) do
  local n = held('node:' .. node)
  if n > 0 then
    nodes[#nodes + 1] = node
    nodes[#nodes + 1] = n
  end
end
for _, status in ipairs(STATUSES) do
  local n = held('status:' .. status)
  if n > 0 then
    statuses[#statuses + 1] = status
    statuses[#statuses + 1] = n
  end
end

local oldest = redis.call('ZRANGEBYSCORE', P .. 'all', low, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)[2]
local newest = redis.call('ZREVRANGEBYSCORE', P .. 'all', '+inf', low, 'WITHSCORES', 'LIMIT', 0, 1)[2]

-- Whole hours where one begins, minutes before the first of them.
local sums = {}
local minute, last = math.floor(floor / 60000000), math.floor((now + AHEAD_US) / 60000000)
while minute <= last do
  local bucket = 'minute:' .. settings.epoch .. ':' .. text(minute)
  local step = 1
  if minute % 60 == 0 then
    bucket, step = 'hour:' .. settings.epoch .. ':' .. text(minute / 60), 60
  end
  local fields = redis.call('HGETALL', P .. bucket)
  for i = 1, #fields, 2 do
    sums[fields[i]] = (sums[fields[i]] or 0) + tonumber(fields[i + 1])
  end
  minute = minute + step
end
local tallies = {}
for field, n in pairs(sums) do
  if string.sub(field, 1, 1) ~= '#' then
    tallies[#tallies + 1] = field
    tallies[#tallies + 1] = n
  end
end

return {tonumber(redis.call('GET', P .. 'total') or '0'), held('all'), oldest or false, newest or false,
  settings.cap, settings.ttl, nodes, statuses, tallies}
