-- What was revoked in shard $1 after position $2, oldest first; and the shard's head, by the
-- same snapshot.
select h.position as head, n.tenant, n.occurred_at, n.data ->> 'sub' as subject, n.data ->> 'jti' as token
from shard_head h
left join non_reading n on n.shard = $1 and n.position > $2 and n.type = 'token_revoked'
where h.shard = $1
order by n.position
