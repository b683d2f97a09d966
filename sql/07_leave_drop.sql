--
-- leave_group and DROP EXTENSION leave nothing behind: no slot, origin, worker
-- or file.
--

-- what is there of replp2p besides the extension, for this database
CREATE VIEW leftovers AS
	SELECT (SELECT count(*) FROM pg_replication_slots WHERE slot_name ~ '^replp2p') AS slots,
		   (SELECT count(*) FROM pg_replication_origin WHERE roname ~ '^replp2p') AS origins,
		   (SELECT count(*) FROM pg_ls_dir('replp2p', true, false) f
			WHERE f = (SELECT oid::text FROM pg_database WHERE datname = current_database())) AS folders,
		   (SELECT count(*) FROM pg_stat_activity
			WHERE datname = current_database() AND pid <> pg_backend_pid()
			  AND backend_type ~ 'replp2p') AS workers;

-- the launcher acts after the commit: look until a query says true
CREATE PROCEDURE look_until(query text) LANGUAGE plpgsql AS $$
DECLARE
	yes boolean;
BEGIN
	FOR i IN 1 .. 600 LOOP
		EXECUTE query INTO yes;
		COMMIT;
		EXIT WHEN yes;
		PERFORM pg_sleep(0.05);
		COMMIT;
	END LOOP;
	IF yes IS NOT TRUE THEN
		RAISE EXCEPTION 'gave up waiting for: %', query;
	END IF;
END
$$;
-- the same inside a transaction
CREATE PROCEDURE look_until_within(query text) LANGUAGE plpgsql AS $$
DECLARE
	yes boolean;
BEGIN
	FOR i IN 1 .. 600 LOOP
		PERFORM pg_stat_clear_snapshot();
		EXECUTE query INTO yes;
		EXIT WHEN yes;
		PERFORM pg_sleep(0.05);
	END LOOP;
	IF yes IS NOT TRUE THEN
		RAISE EXCEPTION 'gave up waiting for: %', query;
	END IF;
END
$$;
CREATE FUNCTION nothing_left() RETURNS boolean LANGUAGE sql AS $$
	SELECT slots = 0 AND origins = 0 AND folders = 0 AND workers = 0 FROM leftovers
$$;

SELECT slots, folders FROM leftovers;

-- leave: by name of nobody, in a read-only transaction, then in earnest
SELECT replp2p.leave_group(NULL);
BEGIN READ ONLY;
SELECT replp2p.leave_group();
ROLLBACK;
SELECT node_id AS old_id FROM replp2p.stat_members WHERE self \gset
SELECT replp2p.leave_group();
CALL look_until('SELECT nothing_left()');
SELECT * FROM leftovers;
SELECT (SELECT count(*) FROM replp2p.local_node) AS node,
	   (SELECT count(*) FROM replp2p.members) AS members,
	   (SELECT count(*) FROM replp2p.membership) AS membership,
	   (SELECT count(*) FROM replp2p.invites) AS invites,
	   (SELECT count(*) FROM replp2p.stat_members) AS stat_members;
SELECT replp2p.leave_group();

-- the data stays, and belongs to nobody: it may be rewritten
SELECT id, v FROM first ORDER BY id;
ALTER TABLE first ALTER COLUMN id TYPE bigint;

-- a new group, another identity
SELECT replp2p.create_group('one', own_dsn(), 'second') <> :'old_id' AS another_id;
SELECT replp2p.wait_for_ready('1 minute');
INSERT INTO first VALUES (2, 'again');
SELECT replp2p.current_token() ~ '^t1:' AS is_token;
SELECT slots, folders FROM leftovers;

-- dropped and not, if the transaction aborts
BEGIN;
DROP EXTENSION replp2p;
ROLLBACK;
INSERT INTO first VALUES (3, 'still a node');
SELECT replp2p.current_token() ~ '^t1:' AS is_token;

-- or a part of it; until then the workers are out of the way
BEGIN;
SAVEPOINT before;
DROP EXTENSION replp2p;
SELECT workers FROM leftovers;
SAVEPOINT anew;
CREATE EXTENSION replp2p;
DROP EXTENSION replp2p;
ROLLBACK TO anew;
CALL look_until_within('SELECT workers = 0 FROM leftovers');
ROLLBACK TO before;
CALL look_until_within('SELECT workers >= 3 FROM leftovers');
COMMIT;
DO $$
BEGIN
	DROP EXTENSION replp2p;
	RAISE EXCEPTION 'no';
EXCEPTION WHEN raise_exception THEN
	RAISE NOTICE 'undone';
END
$$;
INSERT INTO first VALUES (4, 'still');
SELECT replp2p.current_token() ~ '^t1:' AS is_token;

-- a command that drops nothing lets them go on, too
CREATE VIEW on_ours AS SELECT node_name FROM replp2p.stat_members;
DROP EXTENSION replp2p;
DROP SCHEMA replp2p CASCADE;
DROP VIEW on_ours;
INSERT INTO first VALUES (5, 'still');
SELECT replp2p.current_token() ~ '^t1:' AS is_token;

-- workers may wait for locks of the transaction that drops
BEGIN;
LOCK TABLE replp2p.members;
SELECT pg_terminate_backend((SELECT pid FROM pg_stat_activity
	WHERE datname = current_database() AND backend_type = 'replp2p gossip'));
CALL look_until_within($$SELECT count(*) > 0 FROM pg_locks JOIN pg_stat_activity USING (pid)
	WHERE NOT granted AND backend_type ~ 'replp2p'$$);
DROP EXTENSION replp2p;
ROLLBACK;
INSERT INTO first VALUES (6, 'still');
SELECT replp2p.current_token() ~ '^t1:' AS is_token;

-- dropped for good
DROP EXTENSION replp2p;
CALL look_until('SELECT nothing_left()');
SELECT * FROM leftovers;
SELECT count(*) AS event_triggers FROM pg_event_trigger WHERE evtname ~ 'replp2p';
SELECT id, v FROM first ORDER BY id;

-- and it can come back
CREATE EXTENSION replp2p;
SELECT count(*) FROM replp2p.stat_members;
DROP EXTENSION replp2p;

-- with whoever owns it
CREATE ROLE regress_owner SUPERUSER;
SET ROLE regress_owner;
CREATE EXTENSION replp2p;
RESET ROLE;
SELECT replp2p.create_group('one', own_dsn()) IS NOT NULL AS id;
SELECT replp2p.wait_for_ready('1 minute');
BEGIN;
DROP OWNED BY regress_owner;
SELECT workers FROM leftovers;
COMMIT;
DROP ROLE regress_owner;
CALL look_until('SELECT nothing_left()');

-- at any moment of a node's start
CREATE PROCEDURE come_and_go() LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN 0 .. 11 LOOP
		CREATE EXTENSION replp2p;
		COMMIT;
		PERFORM replp2p.create_group('one', own_dsn());
		COMMIT;
		CALL look_until(format('SELECT workers >= %s FROM leftovers', i % 4));
		DROP EXTENSION replp2p;
		COMMIT;
		CALL look_until('SELECT nothing_left()');
	END LOOP;
END
$$;
CALL come_and_go();

DROP PROCEDURE come_and_go();
DROP PROCEDURE look_until(text);
DROP PROCEDURE look_until_within(text);
DROP FUNCTION nothing_left();
DROP VIEW leftovers;
DROP FUNCTION own_dsn();
DROP TABLE first;
SELECT count(*) AS schemas FROM pg_namespace WHERE nspname = 'replp2p';
