-- Write a batch of records (at most 100), atomically.
--
-- ARGV[3..]  for each record: key, record (meta, row, detail), tally
--            tally: route TAB policy TAB model LF facts of a finished request, else empty; the facts
--            are left in the log of finished requests, which `sums` counts
-- Returns    {accepted, added}
--
-- A record is taken when nothing is stored under its key, when it is newer and of the same owner, or
-- when the stored one was declared lost and this comes from its owner. Anything else is a repeat, or
-- late, and changes nothing. Index moves go by what is stored, never by what the caller believes.
local MAX_NAMES = 64   -- distinct routes, policies, models in one bucket; models are the clients' words
local TRIM = 120       -- of each kind of rubbish, per call: a call stays below 5 ms
local TIDY_US = 100000 -- between calls that look for rubbish everywhere

local now = time_us()
local settings = fleet_settings(now)
local floor = floor_of(settings)
local lifetime = settings.ttl + SLACK_SECONDS
local lives = text(lifetime)
local tidy = math.abs(now - settings.tidied) >= TIDY_US
local accepted, rejections = 0, false
local moves, opened, closed, seen, tallies, finished, expiries = {}, {}, {}, {}, {}, {}, {}
local tip = feed_tip()

-- Gathered, so that each index is changed in one call: the score of a key, or false where it leaves.
local function move(index, key, score)
  local keys = moves[index]
  if not keys then keys = {}; moves[index] = keys end
  keys[key] = score
end

local function expiry(arrived)
  local second = math.floor(arrived / 1000000)
  local at = expiries[second]
  if not at then at = text(second + lifetime); expiries[second] = at end
  return at
end

local function trim(k)
  local stale = redis.call('ZRANGEBYSCORE', k, '-inf', '(' .. text(floor), 'LIMIT', 0, TRIM)
  if #stale > 0 then redis.call('ZREM', k, unpack(stale)) end
end

-- An index of a few keys, mostly this one alone.
local function point(index, key, score)
  local k = P .. index
  redis.call('ZADD', k, score, key)
  redis.call('EXPIRE', k, lives)
  if tidy then trim(k) end
end

local function tally(arrived, names)
  local minute = math.floor(arrived / 60000000)
  local cut = string.find(names, '\n', 1, true)
  finished[#finished + 1] = string.sub(names, cut + 1)
  local counts = tallies[minute]
  if not counts then counts = {}; tallies[minute] = counts end
  names = string.sub(names, 1, cut - 1)
  counts[names] = (counts[names] or 0) + 1
end

-- Locals instead of `parse`: it is a tenth of this script's time.
for i = 3, #ARGV, 3 do
  local key, record, names = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local revision, score, owner, status, node, session, request_id, engine_id = string.match(record, META)
  local had, _, had_owner, had_status, had_node, had_session, _, had_engine = string.match(head(key), META)
  local newer = not had or (had_owner == owner and (tonumber(revision) > tonumber(had) or
    (had_status == 'lost' and tonumber(revision) == tonumber(had))))
  local arrived, open, was_open = tonumber(score), OPEN[status], had and OPEN[had_status]
  if arrived < floor then
    -- Not held any more, so neither running: its stored version may be gone already.
    if not open then closed[key] = owner; opened[key] = nil end
  elseif newer then
    accepted = accepted + 1
    redis.call('SET', P .. 'r:' .. key, record, 'EXAT', expiry(arrived))
    if tip and not (had_status == status and had_node == node) then
      tell(tip, row_of(record), record)
    end
    if not had then
      move('all', key, score)
      if request_id ~= '' then point('id:' .. request_id, key, score) end
    end
    if had_node ~= node then
      if had then move('node:' .. had_node, key, false) end
      move('node:' .. node, key, score)
    end
    if had_status ~= status then
      if had then move('status:' .. had_status, key, false) end
      move('status:' .. status, key, score)
      rejections = rejections or status == 'rejected'
    end
    if had_session ~= session then
      if had and had_session ~= '' then redis.call('ZREM', P .. 'session:' .. had_session, key) end
      if session ~= '' then point('session:' .. session, key, score) end
    end
    if engine_id ~= '' and had_engine ~= engine_id then
      if had and had_engine ~= '' then redis.call('ZREM', P .. 'engine:' .. had_engine, key) end
      point('engine:' .. engine_id, key, score)
    end
    if not seen[node] or arrived > tonumber(seen[node]) then seen[node] = score end
    if open then
      if not was_open then opened[key] = owner; closed[key] = nil end
    else
      if was_open then closed[key] = owner; opened[key] = nil end
      if names ~= '' and (not had or was_open or had_status == 'lost') then tally(arrived, names) end
    end
  end
end

local added = 0
for index, keys in pairs(moves) do
  local k, come, go = P .. index, {}, {}
  for key, score in pairs(keys) do
    if score then
      come[#come + 1] = score
      come[#come + 1] = key
    else
      go[#go + 1] = key
    end
  end
  if #go > 0 then redis.call('ZREM', k, unpack(go)) end
  if #come > 0 then
    local count = redis.call('ZADD', k, unpack(come))
    if index == 'all' then added = count end
    redis.call('EXPIRE', k, lives)
  end
  -- Members of `all` are removed with their records, below.
  if tidy and index ~= 'all' then trim(k) end
end
if added > 0 then redis.call('INCRBY', P .. 'total', added) end

local function by_owner(keys)
  local owners = {}
  for key, owner in pairs(keys) do
    local own = owners[owner]
    if not own then own = {}; owners[owner] = own end
    own[#own + 1] = key
  end
  return pairs(owners)
end
for owner, keys in by_owner(closed) do redis.call('SREM', P .. 'open:' .. owner, unpack(keys)) end
for owner, keys in by_owner(opened) do
  redis.call('SADD', P .. 'open:' .. owner, unpack(keys))
  redis.call('EXPIRE', P .. 'open:' .. owner, lives)
  redis.call('SADD', P .. 'owners', owner)
  redis.call('EXPIRE', P .. 'owners', lives)
end

local nodes = {}
for node, score in pairs(seen) do
  nodes[#nodes + 1] = score
  nodes[#nodes + 1] = node
end
if #nodes > 0 then
  redis.call('ZADD', P .. 'nodes-seen', 'GT', unpack(nodes))
  redis.call('EXPIRE', P .. 'nodes-seen', lives)
  if tidy then trim(P .. 'nodes-seen') end
end

if #finished > 0 then
  redis.call('RPUSH', P .. 'finished', table.concat(finished, '\n'))
  redis.call('EXPIRE', P .. 'finished', lives)
end
local function count(bucket, kind, name, n)
  if name == '' then return end
  local k, field = P .. bucket, kind .. ':' .. name
  if redis.call('HINCRBY', k, field, n) == n then -- a new one
    if redis.call('HINCRBY', k, '#' .. kind, 1) > MAX_NAMES then
      redis.call('HDEL', k, field)
      redis.call('HINCRBY', k, kind .. ':other', n)
    end
    redis.call('EXPIRE', k, lifetime + 3600)
  elseif tidy then
    redis.call('EXPIRE', k, lifetime + 3600)
  end
end
for minute, counts in pairs(tallies) do
  for names, n in pairs(counts) do
    local route, policy, model = string.match(names, '^([^\t]*)\t([^\t]*)\t([^\t]*)$')
    for _, bucket in ipairs({'minute:' .. settings.epoch .. ':' .. text(minute),
        'hour:' .. settings.epoch .. ':' .. text(math.floor(minute / 60))}) do
      count(bucket, 'r', route, n)
      count(bucket, 'p', policy, n)
      count(bucket, 'm', model, n)
    end
  end
end

-- A flood of rejections may not wash the view away: they have a tenth of the room.
if rejections or tidy then
  local room = math.max(1, math.floor(settings.cap / 10))
  local rejected = P .. 'status:rejected'
  local excess = redis.call('ZCOUNT', rejected, text(floor), '+inf') - room
  if excess > 0 then
    local oldest = redis.call('ZRANGEBYSCORE', rejected, text(floor), '+inf', 'LIMIT', 0, math.min(excess, TRIM))
    remove(oldest)
    redis.call('ZREM', rejected, unpack(oldest))
  end
end

-- Collecting rubbish. No answer waits for it, since all go by the floor.
floor = floor_of(settings)
redis.call('HSET', P .. 'settings', 'floor', text(floor), 'tidied', text(tidy and now or settings.tidied))
if tidy then redis.call('EXPIRE', P .. 'settings', lives) end
collect(floor, TRIM)
return {accepted, added}
