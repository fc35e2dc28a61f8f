-- What was said of the devices $3 of tenant $2 by $4, in the log's order: an event's source is
-- its device.
select source_id, type, occurred_at, recorded_at, data::text as data
from non_reading
where shard = $1 and tenant = $2 and source_id = any ($3)
  and type in ('device_registered', 'device_alias', 'device_assigned', 'device_unassigned',
               'reassignment_begun', 'assignment_corrected', 'device_reassigned',
               'reassignment_undoing', 'reassignment_undone')
  and ($4::timestamptz is null or recorded_at <= $4)
order by position
