-- What every script shares; the loader puts it in front of each.
--
-- KEYS[1]  {fleet}:all, the index of all records. Every other key is derived from its prefix, so
--          all keys of a fleet lie in one slot.
-- ARGV[1]  own cap (records), ARGV[2] own retention (seconds): used while the fleet has no settings.
--
-- A record is one string of three lines: meta, row, detail. Scripts read the meta line only:
--   revision, arrival (µs), owner, status, node, session, request id, engine id  (tab separated)
-- request id is empty where it equals the record's key; session and engine id where there is none.
-- Fields that follow are from a newer version: not understood, and kept.
--
-- Held = arrival >= floor. The floor only rises: what was trimmed below it cannot be counted again.
local P = string.sub(KEYS[1], 1, -4)
local call, match, find, sub = redis.call, string.match, string.find, string.sub
local SLACK_SECONDS = 120
local AHEAD_US = 5000000
local META = '^(%d+)\t(%d+)\t([^\t]*)\t(%a+)\t([^\t]*)\t([^\t]*)\t([^\t]*)\t([^\t\n]*)'
local OPEN = {queued = true, routed = true, processing = true}
local STATUSES = {'queued', 'routed', 'processing', 'completed', 'failed', 'cancelled', 'rejected', 'lost'}

-- Numbers as strings: Lua's own formatting loses microseconds.
-- One that several commands are given is made text once: they would format it at each call.
local function text(number) return string.format('%.0f', number) end

local function time_us()
  local t = redis.call('TIME')
  return tonumber(t[1]) * 1000000 + tonumber(t[2])
end

-- The beginning of a record, with its meta line; empty where there is none. Lua hashes every byte it is
-- given, so it is given what is mostly enough.
local function head(k)
  local start = call('GETRANGE', k, '0', '255')
  if start == '' or find(start, '\n', 1, true) then return start end
  return call('GETRANGE', k, '0', '2047')
end

-- Append to the list of that name.
local function gather(lists, name, one, other)
  local list = lists[name]
  if not list then list = {}; lists[name] = list end
  local n = #list
  list[n + 1] = one
  list[n + 2] = other
end

local function fleet_settings(now)
  local s = redis.call('HMGET', P .. 'settings', 'cap', 'ttl', 'floor', 'old_ttl', 'raised_at', 'epoch', 'renewed')
  local settings = {cap = tonumber(s[1] or ARGV[1]), ttl = tonumber(s[2] or ARGV[2]),
    epoch = s[6] or '0', renewed = tonumber(s[7] or '0')}
  local floor = now - settings.ttl * 1000000
  -- A stored floor far ahead was left by a clock that has since been set back.
  if s[3] and tonumber(s[3]) <= now + AHEAD_US then floor = math.max(floor, tonumber(s[3])) end
  -- Records written before the retention was raised still expire by the old one.
  if s[4] then
    floor = math.max(floor, math.min(tonumber(s[5]), now - tonumber(s[4]) * 1000000))
  end
  settings.base_floor = floor
  return settings
end

local function floor_of(settings)
  settings.last = settings.last or text(settings.cap - 1)
  local nth = call('ZREVRANGE', P .. 'all', settings.last, settings.last, 'WITHSCORES')
  return math.max(settings.base_floor, tonumber(nth[2] or '0'))
end

-- Take records (keys, at most some hundred) out of everything that names them. Returns how many of them
-- were held.
local function remove(keys, floor)
  if #keys == 0 then return 0 end
  local held, nodes, statuses, sessions, owners, strings = 0, {}, {}, {}, {}, {}
  for _, key in ipairs(keys) do
    local k = P .. 'r:' .. key
    local _, score, owner, status, node, session, request_id, engine_id = match(head(k), META)
    if score then
      if tonumber(score) >= floor then held = held + 1 end
      strings[#strings + 1] = k
      gather(nodes, node, key)
      gather(statuses, status, key)
      if session ~= '' then gather(sessions, session, key) end
      if request_id ~= '' then call('ZREM', P .. 'id:' .. request_id, key) end
      if engine_id ~= '' then call('ZREM', P .. 'engine:' .. engine_id, key) end
      if OPEN[status] then gather(owners, owner, key) end
    end
  end
  call('ZREM', P .. 'all', unpack(keys))
  for prefix, indexes in pairs({['node:'] = nodes, ['status:'] = statuses, ['session:'] = sessions}) do
    for name, members in pairs(indexes) do call('ZREM', P .. prefix .. name, unpack(members)) end
  end
  for owner, members in pairs(owners) do call('SREM', P .. 'open:' .. owner, unpack(members)) end
  if #strings > 0 then call('DEL', unpack(strings)) end
  return held
end

-- vLLM makes its ids of those we send, so they need no index. Keys of records whose engine id is `id`, and
-- those records, the newest first; at most 9.
local function made_of_ours(id)
  local keys, records = {}, {}
  local ours = match(id, '^chatcmpl%-(.+)$') or match(id, '^cmpl%-(.+)$')
  if not ours then return keys, records end
  local candidates = call('ZREVRANGE', P .. 'id:' .. ours, 0, 7)
  candidates[#candidates + 1] = ours
  for _, key in ipairs(candidates) do
    local record = call('GET', P .. 'r:' .. key)
    if record and find(record, '"engine_request_id":"' .. id .. '"', 1, true) then
      keys[#keys + 1] = key
      records[#records + 1] = record
    end
  end
  return keys, records
end

-- Remove at most `limit` records below the floor; returns how many it saw.
local function collect(floor, limit)
  local stale = redis.call('ZRANGEBYSCORE', P .. 'all', '-inf', '(' .. text(floor), 'LIMIT', '0', limit)
  remove(stale, floor)
  return #stale
end

-- The feed of what happens, for whoever tails. feed.lua makes it, and it is gone some minutes after the
-- last tail, so that nothing is written while nobody looks. Its ids are one epoch and a number that
-- counts on by one: a reader can tell how many events it missed.
local FEED_EVENTS = 10000

local function feed_tip()
  local last = redis.call('XREVRANGE', P .. 'feed', '+', '-', 'COUNT', '1')[1]
  if not last then return nil end
  local epoch, number = string.match(last[1], '^(%d+)-(%d+)$')
  return {epoch = epoch, number = tonumber(number)}
end

-- Of the detail only the reason goes along: it is what filters can ask for.
local function tell(tip, row, record)
  local decision = string.find(record, '"decision":{"policy":"', 1, true)
  local reason = decision and string.match(record, '^"decision":{"policy":"[^"]*","reason":"([^"]*)"', decision)
  tip.number = tip.number + 1
  redis.call('XADD', P .. 'feed', 'MAXLEN', '~', FEED_EVENTS, tip.epoch .. '-' .. text(tip.number),
    'row', row, 'reason', reason or '')
end

-- What was deleted may not be read there either. The entry left keeps the count.
local function empty_feed()
  local tip = feed_tip()
  if tip then
    tell(tip, '', '')
    redis.call('XTRIM', P .. 'feed', 'MAXLEN', 1)
  end
end

local function row_of(record)
  local start = string.find(record, '\n', 1, true) + 1
  return string.sub(record, start, string.find(record, '\n', start, true) - 1)
end

-- The lists of workers have changed. A time, so that it is never one of before the data was lost.
local function workers_changed(now)
  local before = tonumber(redis.call('GET', P .. 'workers-version') or '0')
  redis.call('SET', P .. 'workers-version', text(math.max(now, before + 1)))
end
