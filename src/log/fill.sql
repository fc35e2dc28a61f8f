-- Readings of shard $1 that come back from an archive, as they were.
with back as (
    select * from unnest($2::bigint[], $3::timestamptz[], $4::integer[], $5::float8[], $6::real[],
                         $7::boolean[], $8::timestamptz[], $9::text[])
        as r (position, recorded_at, series, value, quality, suspect, occurred_at, context)
), contexts as (
    insert into {contexts} (shard, position, context)
    select $1, position, context::json from back where context is not null
)
insert into {full} (position, occurred_at, recorded_at, value, series, quality, shard, suspect)
select position, occurred_at, recorded_at, value, series, quality, $1, suspect from back
