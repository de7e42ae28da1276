-- Delete records.
--
-- ARGV[3]  'one' every record under an id (ARGV[4]); 'all' everything held, at once, by lifting the
--          floor; 'collect' remove what lies below the floor, at most 250, called until it says 0
-- Returns  how many records were deleted; for 'collect' how many it saw
local now = time_us()
local settings = fleet_settings(now)
local floor = floor_of(settings)
local mode, id = ARGV[3], ARGV[4]

if mode == 'collect' then return collect(floor, 250) end

if mode == 'all' then
  local held = redis.call('ZCOUNT', P .. 'all', text(floor), '+inf')
  local newest = tonumber(redis.call('ZREVRANGE', P .. 'all', 0, 0, 'WITHSCORES')[2] or '0')
  local cut = now
  if newest < now + AHEAD_US then cut = math.max(now, newest) end
  redis.call('HSET', P .. 'settings', 'floor', text(cut + 1))
  redis.call('HINCRBY', P .. 'settings', 'epoch', 1) -- the tallies of before are left to expire
  redis.call('DEL', P .. 'finished')
  redis.call('HINCRBY', P .. 'settings', 'summed', 1) -- what is being summed up is of before, too
  redis.call('EXPIRE', P .. 'settings', settings.ttl + SLACK_SECONDS)
  redis.call('SET', P .. 'total', '0')
  empty_feed()
  return held
end

local function under(pointer)
  return redis.call('ZREVRANGE', P .. pointer, 0, 999)
end

local deleted = 0
local function delete(key)
  local m = remove(key)
  if m and m.arrived >= floor then deleted = deleted + 1 end
end
for _, key in ipairs(under('id:' .. id)) do delete(key) end
delete(id)
if deleted == 0 then
  for _, key in ipairs(under('engine:' .. id)) do delete(key) end
end
if deleted > 0 then empty_feed() end
return deleted
