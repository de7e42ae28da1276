-- Write a batch of records (at most 100), atomically.
--
-- ARGV[3..]  for each record: key, record (meta, row, detail), tally, fresh
--            tally: route TAB policy TAB model LF facts of a finished request, else empty; the facts
--            are left in the log of finished requests, which `sums` counts
--            fresh: '1' where the caller has not sent this key before; it only saves time
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
local accepted, added, rejections = 0, 0, false
local seen, tallies, finished, expiries = {}, {}, {}, {}
local tip = feed_tip()

-- Gathered, so that each index is changed in one call: score, key, score, key, ... of what comes, the keys
-- of what leaves. A key is gathered once, so the order of those calls does not matter.
local gathered, all, nodes, statuses, left_nodes, left_statuses, opened, closed

local function gather_anew()
  gathered, all, nodes, statuses, left_nodes, left_statuses, opened, closed = {}, {}, {}, {}, {}, {}, {}, {}
end

local function trim(k)
  local stale = call('ZRANGEBYSCORE', k, '-inf', '(' .. text(floor), 'LIMIT', 0, TRIM)
  if #stale > 0 then call('ZREM', k, unpack(stale)) end
end

local function enter(k, members)
  local count = call('ZADD', k, unpack(members))
  call('EXPIRE', k, lives)
  return count
end

local function change_indexes()
  if #all > 0 then added = added + enter(P .. 'all', all) end
  for prefix, indexes in pairs({['node:'] = nodes, ['status:'] = statuses}) do
    for name, members in pairs(indexes) do
      enter(P .. prefix .. name, members)
      if tidy then trim(P .. prefix .. name) end
    end
  end
  for prefix, indexes in pairs({['node:'] = left_nodes, ['status:'] = left_statuses}) do
    for name, keys in pairs(indexes) do call('ZREM', P .. prefix .. name, unpack(keys)) end
  end
  for owner, keys in pairs(closed) do call('SREM', P .. 'open:' .. owner, unpack(keys)) end
  for owner, keys in pairs(opened) do
    call('SADD', P .. 'open:' .. owner, unpack(keys))
    call('EXPIRE', P .. 'open:' .. owner, lives)
    call('SADD', P .. 'owners', owner)
    call('EXPIRE', P .. 'owners', lives)
  end
end

-- An index of a few keys, mostly this one alone.
local function point(k, key, score)
  call('ZADD', k, score, key)
  call('EXPIRE', k, lives)
  if tidy then trim(k) end
end

local function expiry(arrived)
  local second = math.floor(arrived / 1000000)
  local at = expiries[second]
  if not at then at = text(second + lifetime); expiries[second] = at end
  return at
end

local function tally(arrived, names)
  local minute = math.floor(arrived / 60000000)
  local cut = find(names, '\n', 1, true)
  finished[#finished + 1] = sub(names, cut + 1)
  local counts = tallies[minute]
  if not counts then counts = {}; tallies[minute] = counts end
  names = sub(names, 1, cut - 1)
  counts[names] = (counts[names] or 0) + 1
end

gather_anew()
for i = 3, #ARGV, 4 do
  local key, record, names, fresh = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3] == '1'
  if gathered[key] then
    change_indexes()
    gather_anew()
  end
  gathered[key] = true
  local k = P .. 'r:' .. key
  local revision, score, owner, status, node, session, request_id, engine_id = match(record, META)
  local arrived, open = tonumber(score), OPEN[status]
  local had, had_owner, had_status, had_node, had_session, had_engine
  local newer = false
  if arrived < floor then
    -- Not held any more, so neither running: its stored version may be gone already.
    if not open then gather(closed, owner, key) end
  elseif fresh and call('SET', k, record, 'NX', 'EXAT', expiry(arrived)) then
    newer = true
  else
    had, had_owner, had_status, had_node, had_session, had_engine = match(head(k), STORED)
    newer = not had or (had_owner == owner and (tonumber(revision) > tonumber(had) or
      (had_status == 'lost' and tonumber(revision) == tonumber(had))))
    if newer then call('SET', k, record, 'EXAT', expiry(arrived)) end
  end
  if newer then
    accepted = accepted + 1
    local was_open = OPEN[had_status]
    if tip and not (had_status == status and had_node == node) then
      tell(tip, row_of(record), record)
    end
    if not had then
      all[#all + 1] = score
      all[#all + 1] = key
      if request_id ~= '' then point(P .. 'id:' .. request_id, key, score) end
    end
    if had_node ~= node then
      if had then gather(left_nodes, had_node, key) end
      gather(nodes, node, score, key)
    end
    if had_status ~= status then
      if had then gather(left_statuses, had_status, key) end
      gather(statuses, status, score, key)
      rejections = rejections or status == 'rejected'
    end
    if had_session ~= session then
      if had and had_session ~= '' then call('ZREM', P .. 'session:' .. had_session, key) end
      if session ~= '' then point(P .. 'session:' .. session, key, score) end
    end
    if engine_id ~= '' and had_engine ~= engine_id then
      if had and had_engine ~= '' then call('ZREM', P .. 'engine:' .. had_engine, key) end
      point(P .. 'engine:' .. engine_id, key, score)
    end
    if arrived > (seen[node] or 0) then seen[node] = arrived end
    if open then
      if not was_open then gather(opened, owner, key) end
    else
      if was_open then gather(closed, owner, key) end
      if names ~= '' and (not had or was_open or had_status == 'lost') then tally(arrived, names) end
    end
  end
end
change_indexes()
if added > 0 then call('INCRBY', P .. 'total', added) end

local latest = {}
for node, arrived in pairs(seen) do gather(latest, 1, text(arrived), node) end
if latest[1] then
  call('ZADD', P .. 'nodes-seen', 'GT', unpack(latest[1]))
  call('EXPIRE', P .. 'nodes-seen', lives)
  if tidy then trim(P .. 'nodes-seen') end
end

if #finished > 0 then
  call('RPUSH', P .. 'finished', table.concat(finished, '\n'))
  call('EXPIRE', P .. 'finished', lives)
end
local function count(bucket, kind, name, n)
  if name == '' then return end
  local k, field = P .. bucket, kind .. ':' .. name
  if call('HINCRBY', k, field, n) == n then -- a new one
    if call('HINCRBY', k, '#' .. kind, 1) > MAX_NAMES then
      call('HDEL', k, field)
      call('HINCRBY', k, kind .. ':other', n)
    end
    call('EXPIRE', k, lifetime + 3600)
  elseif tidy then
    call('EXPIRE', k, lifetime + 3600)
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
  local excess = call('ZCOUNT', rejected, text(floor), '+inf') - room
  if excess > 0 then
    local oldest = call('ZRANGEBYSCORE', rejected, text(floor), '+inf', 'LIMIT', 0, math.min(excess, TRIM))
    remove(oldest, floor)
    call('ZREM', rejected, unpack(oldest))
  end
end

-- Collecting rubbish. No answer waits for it, since all go by the floor.
floor = floor_of(settings)
call('HSET', P .. 'settings', 'floor', text(floor), 'tidied', text(tidy and now or settings.tidied))
if tidy then call('EXPIRE', P .. 'settings', lives) end
collect(floor, TRIM)
return {accepted, added}
