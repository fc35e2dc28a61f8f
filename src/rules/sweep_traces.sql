-- Takes away what the rules have read past. Where they stand still for a day, there is worse to
-- look for than what they were about to judge.
-- $1: the rules' consumer
delete from trace t
where t.position_to <= (select c.position from checkpoint c where c.consumer = $1 and c.shard = t.shard)
   or t.made_at < statement_timestamp() - interval '1 day'
