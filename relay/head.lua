-- Moves the head by compare-and-set, never to an older timeline of the same cluster.
-- KEYS[1]  the head: system:timeline:position of the newest fully published tick
-- ARGV     the value expected, system, timeline, position
-- returns  {'ok', new} | {'changed', what is there} | {'newer', what is there} another primary has taken over
local current = redis.call('GET', KEYS[1]) or ''
local system, timeline = string.match(current, '^(%-?%d+):(%d+):%d+$')
if system == ARGV[2] and tonumber(timeline) > tonumber(ARGV[3]) then
  return { 'newer', current }
end
if current ~= ARGV[1] then
  return { 'changed', current }
end
local new = ARGV[2] .. ':' .. ARGV[3] .. ':' .. ARGV[4]
redis.call('SET', KEYS[1], new)
return { 'ok', new }
