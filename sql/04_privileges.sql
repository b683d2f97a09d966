--
-- Who may do what. PUBLIC: almost nothing. pg_monitor: look. The role of a
-- peer: EXECUTE on exchange, and nothing else.
--

-- what PUBLIC may call, and select from
SELECT p.oid::regprocedure AS public_may_call
FROM pg_proc p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
WHERE p.pronamespace = 'replp2p'::regnamespace AND a.grantee = 0
ORDER BY p.proname COLLATE "C";
SELECT c.oid::regclass AS relation, a.privilege_type
FROM pg_class c, aclexplode(c.relacl) a
WHERE c.relnamespace = 'replp2p'::regnamespace AND a.grantee = 0
ORDER BY c.relname COLLATE "C";

-- what pg_monitor may do beside
SELECT p.oid::regprocedure AS monitor_may_call
FROM pg_proc p, aclexplode(p.proacl) a
WHERE p.pronamespace = 'replp2p'::regnamespace AND a.grantee = 'pg_monitor'::regrole
ORDER BY p.proname COLLATE "C";
SELECT c.oid::regclass AS relation, a.privilege_type
FROM pg_class c, aclexplode(c.relacl) a
WHERE c.relnamespace = 'replp2p'::regnamespace AND a.grantee = 'pg_monitor'::regrole
ORDER BY c.relname COLLATE "C";

-- nobody else may do anything
SELECT c.oid::regclass AS relation, a.grantee::regrole
FROM pg_class c, aclexplode(c.relacl) a
WHERE c.relnamespace = 'replp2p'::regnamespace
  AND a.grantee NOT IN (0, c.relowner, 'pg_monitor'::regrole);

CREATE ROLE regress_replp2p_user;
CREATE ROLE regress_replp2p_monitor IN ROLE pg_monitor;
CREATE ROLE regress_replp2p_peer;
GRANT EXECUTE ON PROCEDURE replp2p.exchange(bytea) TO regress_replp2p_peer;

-- conflicts to look at: of a table, one with row security, one that is gone
CREATE TABLE guarded (id integer PRIMARY KEY);
ALTER TABLE guarded ENABLE ROW LEVEL SECURITY;
INSERT INTO replp2p.conflict_history (relation, conflict_type, resolution, key, remote_row, remote_slot,
	remote_seq, remote_stamp, relationship)
SELECT r, 'insert_exists', 'remote', '{"id": 1}', '{"id": 1}', 0, 1, 800000000000001, 'concurrent'
FROM unnest(ARRAY['first'::regclass::oid, 'guarded'::regclass::oid, 1::oid]) r;
SELECT relation, conflict_type, key, remote_origin,
	   remote_stamp = timestamptz '2025-05-08 06:13:20.000001+00' AS stamp
FROM replp2p.conflicts ORDER BY id;

-- an ordinary user: sees conflicts of what he may select from, no more
SET ROLE regress_replp2p_user;
SELECT count(*) FROM replp2p.conflicts;
RESET ROLE;
GRANT SELECT ON first, guarded TO regress_replp2p_user;
SET ROLE regress_replp2p_user;
SELECT relation, remote_row FROM replp2p.conflicts;
SELECT relation, replicated FROM replp2p.tables ORDER BY relation::text;
SELECT * FROM replp2p.conflict_history;
SELECT * FROM replp2p.local_node;
SELECT * FROM replp2p.invites;
SELECT * FROM replp2p.stat_lag;
SELECT * FROM replp2p.get_stat_members();
SELECT * FROM replp2p.health();
SELECT replp2p.create_group('x', 'dbname=x');
SELECT replp2p.create_invite();
SELECT replp2p.pause_apply();
SELECT replp2p.exclude_table('first');
CALL replp2p.exchange('\x00');
SELECT replp2p.current_token() ~ '^t1:' AS is_token;
RESET ROLE;

-- a monitor: sees the views, not the rows of tables, and changes nothing
SET ROLE regress_replp2p_monitor;
SELECT count(*) AS members FROM replp2p.stat_members;
SELECT count(*) AS lag FROM replp2p.stat_lag;
SELECT count(*) AS log FROM replp2p.stat_log;
SELECT count(*) > 0 AS health FROM replp2p.health();
SELECT count(*) > 0 AS preflight FROM replp2p.preflight();
SELECT count(*) AS counters FROM replp2p.stat_conflicts;
SELECT count(*) AS conflicts FROM replp2p.conflicts;
SELECT replp2p.preflight('dbname=x');
SELECT replp2p.stat_reset();
SELECT * FROM replp2p.members;
RESET ROLE;

-- a peer's role: exchange() only
SELECT has_function_privilege('regress_replp2p_peer', 'replp2p.exchange(bytea)', 'EXECUTE') AS exchange,
	   has_table_privilege('regress_replp2p_peer', 'replp2p.membership', 'SELECT') AS membership,
	   has_function_privilege('regress_replp2p_peer', 'replp2p.create_invite(interval)', 'EXECUTE') AS invite;

-- EXECUTE alone does not make somebody a founder
GRANT EXECUTE ON FUNCTION replp2p.create_group(name, text, name) TO regress_replp2p_user;
SET ROLE regress_replp2p_user;
SELECT replp2p.create_group('x', 'dbname=x');
RESET ROLE;
REVOKE EXECUTE ON FUNCTION replp2p.create_group(name, text, name) FROM regress_replp2p_user;

DELETE FROM replp2p.conflict_history;
DROP TABLE guarded;
REVOKE ALL ON first FROM regress_replp2p_user;
REVOKE ALL ON PROCEDURE replp2p.exchange(bytea) FROM regress_replp2p_peer;
DROP ROLE regress_replp2p_user, regress_replp2p_monitor, regress_replp2p_peer;
