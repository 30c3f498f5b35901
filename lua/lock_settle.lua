-- lock_settle: tells of the end of a lock that has ended with nobody there to say so.
--
-- KEYS[1..7] – the lock's keys (include/lock.lua)
-- ARGV[1] – name      ARGV[2] – name as JSON string
--
-- Returns {left}: in how many ms the lease of the lock ends; -1 if none of ours holds it.
--
-- Races: many may look at one lock; the record goes with the first that finds it ended, in the step
-- that tells. A lock that was extended meanwhile keeps its entry in the index, with the new time.
-- @include lock
local record, held_by = look(ARGV[1], ARGV[2])
if record then
  indexed(ARGV[1], record[ENDS])
else
  forgotten(ARGV[1])
end
if not held_by then
  wake_next()
end
return { record and math.max(record[ENDS] - now, 0) or -1 }
