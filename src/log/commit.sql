-- Appends a batch to one shard, second half: record the commit and move the head.
with recorded as (
    insert into log_commit (shard, position_from, position_to, events,
                            occurred_min, occurred_max, recorded_at, hash)
    values ($1, $2, $3, $4, $5, $6, $7, $8)
)
update shard_head set position = $3, recorded_at = $7, hash = $8 where shard = $1
