-- Makes an endpoint, unless its tenant ($1) has as many as it may ($15). What was recorded
-- before `created_at` is not delivered to it, so that is the clock of `recorded_at`.
insert into endpoint (tenant, id, url, events, secret, signature, public_key, description, headers,
                      header_names, client_certificate, client_key, payload, heartbeat_seconds,
                      heartbeat_due_at, state, created_at, fallback, ordered)
select $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, clock_timestamp(), 'active',
       clock_timestamp(), $16, $17
where (select count(*) from endpoint where tenant = $1) < $15
returning *
