-- One way only to a delivery of which shard, position and endpoint are known: its key. The
-- indexes that begin with the endpoint served as well, in the planner's eyes, as long as
-- the table was empty, and a plan made then read all of an endpoint for each outcome.
-- Lists are a tenant's; only what has a number must have one of its own.
-- Locks: delivery is locked against writing while the indexes are built; fan-out waits.

drop index delivery_of_endpoint;
create index delivery_of_endpoint on delivery (tenant, endpoint_id, created_at);

drop index delivery_sequence;
create unique index delivery_sequence on delivery (endpoint_id, sequence) where sequence is not null;
