--
-- A group of one node: create_group, the views, invites.
--
CREATE TABLE first (id integer PRIMARY KEY, v text);

-- how this database is reached, whatever the instance
CREATE FUNCTION own_dsn() RETURNS text LANGUAGE sql AS $$
	SELECT format('host=%s port=%s dbname=%s user=%s',
		split_part(current_setting('unix_socket_directories'), ',', 1),
		current_setting('port'), current_database(), current_user)
$$;

-- a peer could connect by it
SELECT status FROM replp2p.preflight(own_dsn()) WHERE check_name = 'dsn';

-- only the wish is recorded: an abort leaves nothing
BEGIN;
SELECT replp2p.create_group('one', own_dsn()) ~ '^[0-9a-f]{32}$' AS is_id;
SELECT replp2p.wait_for_ready('1 s');
ROLLBACK;
SELECT count(*) FROM replp2p.local_node;

SELECT replp2p.create_group('one', own_dsn()) ~ '^[0-9a-f]{32}$' AS is_id;
SELECT replp2p.create_group('again', own_dsn());
SELECT replp2p.wait_for_ready('1 minute');
SELECT replp2p.wait_for_ready('0 s');

-- what the members look like from here
SELECT node_name, node_id ~ '^[0-9a-f]{32}$' AS is_id, state, self, epoch, dsn = own_dsn() AS dsn,
	   phase, last_seen IS NOT NULL AS seen, rtt, clock_offset, admitted_at IS NOT NULL AS admitted, left_seq
FROM replp2p.stat_members;

-- a change goes into the log: the token stands for it
INSERT INTO first VALUES (1, 'one');
SELECT replp2p.current_token() ~ '^t1:' AS is_token;
SELECT pid IS NOT NULL AS runs, slot_name = 'replp2p_' || d.oid AS slot_name, ready,
	   captured_lsn > '0/0' AS captured, confirmed_lsn IS NOT NULL AS confirmed, seq > 0 AS seq,
	   last_stamp > '2020-01-01' AS stamped, captured_transactions > 0 AS transactions,
	   captured_changes > 0 AS changes, captured_batches > 0 AS batches, captured_bytes > 0 AS bytes,
	   skipped_changes, log_syncs > 0 AS syncs, last_error, stats_reset IS NOT NULL AS reset
FROM replp2p.stat_capture, pg_database d WHERE d.datname = current_database();
SELECT origin, source, applied_seq = known_seq AS all_known, lag_transactions, lag_bytes, lag, state,
	   last_error, transactions_applied
FROM replp2p.stat_lag;
SELECT state IN ('idle', 'stopped') AS idle, transactions_applied, changes_applied, conflicts, errors
FROM replp2p.stat_apply;
SELECT count(*) AS links FROM replp2p.stat_links;
SELECT requests_served, bytes_sent, refused_strangers, refused_messages, refused_batches
FROM replp2p.stat_server;
SELECT origin, oldest_seq > 0 AS oldest, stored_seq > 0 AS stored, log_bytes > 0 AS bytes,
	   held_by, held_transactions
FROM replp2p.stat_log;
SELECT count(*) AS joins FROM replp2p.stat_join;
SELECT slot_type, plugin, database = current_database() AS here
FROM pg_replication_slots WHERE slot_name ~ '^replp2p';

-- one more change, one more seq
SELECT seq AS before FROM replp2p.stat_capture \gset
UPDATE first SET v = 'two' WHERE id = 1;
SELECT replp2p.current_token() IS NOT NULL AS captured;
SELECT seq - :before AS more FROM replp2p.stat_capture;

-- an update without a replica identity is counted
CREATE TABLE no_key (id integer);
INSERT INTO no_key VALUES (1);
UPDATE no_key SET id = 2;
SELECT replp2p.current_token() IS NOT NULL AS captured;
SELECT skipped_changes FROM replp2p.stat_capture;
SELECT check_name, status, detail FROM replp2p.health() WHERE check_name = 'tables';
DROP TABLE no_key;

-- counters can be reset
SELECT replp2p.stat_reset();
SELECT skipped_changes, captured_changes FROM replp2p.stat_capture;

-- nothing to worry about
SELECT check_name, status, detail FROM replp2p.health()
WHERE status <> 'OK' AND check_name NOT IN ('workers', 'worker_errors');
SELECT array_agg(DISTINCT check_name ORDER BY check_name) AS checks FROM replp2p.health();

-- invites: the token is a secret and stands nowhere
SELECT replp2p.create_invite() AS invite \gset
SELECT :'invite' ~ '^replp2p1:[A-Za-z0-9_-]+$' AS is_invite;
SELECT count(*) AS invites, bool_and(expires_at > now()) AS valid, count(used_at) AS used,
	   bool_or(strpos(i::text, :'invite') > 0) AS shown
FROM replp2p.invites i;
SELECT replp2p.create_invite() <> :'invite' AS another;
SELECT replp2p.create_invite('0 s');
SELECT replp2p.create_invite('1 year');
BEGIN READ ONLY;
SELECT replp2p.create_invite();
ROLLBACK;
SELECT replp2p.join_group('two', own_dsn(), :'invite');

-- functions that name a member
SELECT replp2p.set_node_dsn('two', own_dsn());
SELECT replp2p.set_node_dsn('one', own_dsn());
SELECT replp2p.evict_node('two');
SELECT replp2p.evict_node('one');
SELECT replp2p.evict_node(NULL);
BEGIN READ ONLY;
SELECT replp2p.evict_node('two');
ROLLBACK;
SELECT replp2p.pause_apply('two');
SELECT replp2p.pause_apply('one');
SELECT replp2p.pause_apply();
SELECT replp2p.resume_apply();
SELECT replp2p.accept_stamps('two');
SELECT replp2p.accept_stamps(NULL);
