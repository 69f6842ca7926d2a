-- Appends entries to the log of one program, and refuses to write over a hole.
-- KEYS[1]  the log, a sorted set: score = position, member = the entry's bytes
-- ARGV     predecessor's position (0: none in the window), window in µs, most entries, seconds to live, PUBLISH or SPUBLISH, then position, member, …
-- returns  {'ok', entries added} | {'behind', newest} the end of the log was lost | {'late', position} somebody else writes here too
local key = KEYS[1]
local before, window, most = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local top = redis.call('ZREVRANGE', key, 0, 0, 'WITHSCORES')
local newest = tonumber(top[2] or '0')
local add = {}
local after = 0 -- the predecessor of the first entry added; 0: not known

for i = 6, #ARGV, 2 do
  local position = tonumber(ARGV[i])
  if position > newest then
    if #add == 0 and before ~= newest and before >= position - window then
      return { newest < before and 'behind' or 'late', top[2] or '0' }
    end
    if #add == 0 then
      after = before
    end
    add[#add + 1] = ARGV[i]
    add[#add + 1] = ARGV[i + 1]
  elseif #redis.call('ZRANGEBYSCORE', key, position, position, 'LIMIT', 0, 1) == 0 then
    -- It must be there already, unless it was trimmed by age or by count.
    local first = redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')
    local full = redis.call('ZCARD', key) >= most
    if position >= newest - window and not (full and position < tonumber(first[2])) then
      return { 'late', ARGV[i] }
    end
  end
  before = position
end

if #add == 0 then
  return { 'ok', '0' }
end
for i = 1, #add, 1000 do -- unpack is bounded by Lua's stack
  redis.call('ZADD', key, unpack(add, i, math.min(i + 999, #add)))
end
redis.call('ZREMRANGEBYSCORE', key, '-inf', '(' .. string.format('%.0f', before - window))
redis.call('ZREMRANGEBYRANK', key, 0, -most - 1)
redis.call('EXPIRE', key, ARGV[4])

-- The message holds the entries themselves if they are few: whoever has everything up to their predecessor needn't read the log.
local message, size = add[#add - 1], 0
for i = 2, #add, 2 do
  size = size + #add[i]
end
if after > 0 and size <= 16384 and #add <= 128 then
  local head, bodies = { string.format('%.0f', after) }, {}
  for i = 1, #add, 2 do
    head[#head + 1] = add[i]
    head[#head + 1] = #add[i + 1]
    bodies[#bodies + 1] = add[i + 1]
  end
  message = table.concat(head, ' ') .. '\n' .. table.concat(bodies)
end
redis.call(ARGV[5], key, message)
return { 'ok', tostring(#add / 2) }
