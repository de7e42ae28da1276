-- Give workers their names: bound to the URL, the same at every replica.
--
-- ARGV[3]   owner
-- ARGV[4..] for each URL the replica lists: URL, proposed name, '1' when a person chose the name
-- Returns   the name of each URL
-- Error     NODE_TAKEN name TAB url: a person gave this name to another worker, which is in use
--
-- A chosen name wins, also over the name a URL had before (records keep what they say). Else a URL
-- keeps its name; else it gets its proposal, or the next free worker-N. A binding is freed when no
-- live replica lists the URL and no held record names it.
local nodes = P .. 'nodes'
local low = text(floor_of(fleet_settings(time_us())))
local owner = ARGV[3]

local listed, mine = {}, {}
for i = 4, #ARGV, 3 do
  listed[ARGV[i]] = true
  mine[#mine + 1] = ARGV[i]
end
local me = P .. 'replica:' .. owner
if redis.call('EXISTS', me) == 1 then redis.call('HSET', me, 'urls', table.concat(mine, '\n')) end
for _, other in ipairs(redis.call('ZRANGE', P .. 'replicas', 0, -1)) do
  local urls = other ~= owner and redis.call('HGET', P .. 'replica:' .. other, 'urls')
  for url in string.gmatch(urls or '', '[^\n]+') do listed[url] = true end
end

-- Ranks of a worker (name@rank) hold its name too.
local named = {}
for _, node in ipairs(redis.call('ZRANGEBYSCORE', P .. 'nodes-seen', low, '+inf')) do
  if redis.call('ZCOUNT', P .. 'node:' .. node, low, '+inf') > 0 then
    named[string.match(node, '^[^@]*')] = true
  end
end

local name_of, chosen, url_of = {}, {}, {}
local bindings = redis.call('HGETALL', nodes)
for i = 1, #bindings, 2 do
  local url, name = bindings[i], string.sub(bindings[i + 1], 3)
  if listed[url] or named[name] then
    name_of[url], url_of[name] = name, url
    chosen[url] = string.sub(bindings[i + 1], 1, 1) == 'c'
  else
    redis.call('HDEL', nodes, url)
  end
end

local function bind(url, name, by_person)
  if name_of[url] then url_of[name_of[url]] = nil end
  name_of[url], url_of[name], chosen[url] = name, url, by_person
  redis.call('HSET', nodes, url, (by_person and 'c ' or 'a ') .. name)
end

local homeless = {}
for i = 4, #ARGV, 3 do
  local url, name = ARGV[i], ARGV[i + 1]
  if ARGV[i + 2] == '1' then
    local other = url_of[name]
    if other and other ~= url and chosen[other] and listed[other] then
      return redis.error_reply('NODE_TAKEN ' .. name .. '\t' .. other)
    end
    if other and other ~= url then
      name_of[other] = nil
      redis.call('HDEL', nodes, other)
      if listed[other] then homeless[#homeless + 1] = other end
    end
    bind(url, name, true)
  end
end

local function next_free(from)
  while url_of['worker-' .. text(from)] do from = from + 1 end
  return 'worker-' .. text(from)
end

for i = 4, #ARGV, 3 do
  local url, name = ARGV[i], ARGV[i + 1]
  if not name_of[url] then
    if url_of[name] then name = next_free((i - 4) / 3) end
    bind(url, name, false)
  end
end
for _, url in ipairs(homeless) do
  if not name_of[url] then bind(url, next_free(0), false) end
end

local names = {}
for i, url in ipairs(mine) do names[i] = name_of[url] end
return names
