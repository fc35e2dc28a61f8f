-- Devices and assignments (decision 0037). What is said of a device is an event of its tenant
-- whose source is the device, and is looked up with readings that name no patient. The index
-- locks the table of what is no reading while it is built, which is as long as reading it.
create index non_reading_device on non_reading (shard, tenant, source_id, position)
    where type in ('device_registered', 'device_alias', 'device_assigned', 'device_unassigned',
                   'reassignment_begun', 'assignment_corrected', 'device_reassigned',
                   'reassignment_undoing', 'reassignment_undone');
-- Somebody wants a job to end that has to undo what it did first.
alter table job add column cancel_asked_at timestamptz;
