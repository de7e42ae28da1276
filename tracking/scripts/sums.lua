-- Sums of finished requests: `write` appends their facts to a log, routers sum up and store.
--
-- ARGV[3] 'take'  ARGV[4] most elements. Nothing is removed.
--         Returns {now (µs), position, element, ...}; an element is one or more lines
-- ARGV[3] 'put'   ARGV[4] position, as taken  ARGV[5] how many elements were summed up
--         ARGV[6..] level, place, name, sums (as they shall be)
--         Returns 1, or 0 where the position has moved on: somebody else has counted them
-- ARGV[3] 'read'  ARGV[4..] level, place
--         Returns for each place, in order, its names and sums; as many places as make one answer
--
-- The position counts the elements that were ever summed up. It makes putting exact: whoever puts has
-- read and counted at one position, and a second one finds that it has moved.
local MINUTES_LIVE = 4 * 3600 -- longer windows are read by the hour
local MOST_BYTES = 524288
local log = P .. 'ended'
local now = time_us()
local settings = fleet_settings(now)
local mode = ARGV[3]

local function place(level, name) return P .. level .. ':' .. settings.epoch .. ':' .. name end

if mode == 'take' then
  local position = redis.call('HGET', P .. 'settings', 'summed') or '0'
  return {text(now), position, unpack(redis.call('LRANGE', log, 0, ARGV[4] - 1))}
end

if mode == 'put' then
  if (redis.call('HGET', P .. 'settings', 'summed') or '0') ~= ARGV[4] then return 0 end
  redis.call('LTRIM', log, ARGV[5], -1)
  redis.call('HINCRBY', P .. 'settings', 'summed', ARGV[5])
  redis.call('EXPIRE', P .. 'settings', settings.ttl + SLACK_SECONDS)
  local lives = {hour = settings.ttl + SLACK_SECONDS + 3600}
  lives.minute = math.min(MINUTES_LIVE, lives.hour)
  for i = 6, #ARGV, 4 do
    local k = place(ARGV[i], ARGV[i + 1])
    redis.call('HSET', k, ARGV[i + 2], ARGV[i + 3])
    redis.call('EXPIRE', k, lives[ARGV[i]])
  end
  return 1
end

local found, bytes = {}, 0
for i = 4, #ARGV, 2 do
  if bytes >= MOST_BYTES then break end
  local sums = redis.call('HGETALL', place(ARGV[i], ARGV[i + 1]))
  for j = 2, #sums, 2 do bytes = bytes + #sums[j] end
  found[#found + 1] = sums
end
return found
