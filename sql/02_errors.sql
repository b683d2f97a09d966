--
-- Bad input, and calls in the wrong state: a clear error, and nothing changes.
--

-- not a node yet
SELECT replp2p.create_invite();
SELECT replp2p.leave_group();
SELECT replp2p.evict_node('two');
SELECT replp2p.set_node_dsn('one', 'dbname=x');
SELECT replp2p.wait_for_ready('1 s');
SELECT replp2p.pause_apply();
SELECT replp2p.resume_apply('one');
SELECT replp2p.accept_stamps('one');
SELECT replp2p.current_token();
SELECT replp2p.wait_for_token('t1:AQEBAQEBAQEBAQEBAQEBAQDHpLp9');
SELECT replp2p.wait_for_replication();
SELECT replp2p.stat_reset();
SELECT * FROM replp2p.health();

-- create_group: names
SELECT replp2p.create_group(NULL, 'dbname=x');
SELECT replp2p.create_group('', 'dbname=x');
SELECT replp2p.create_group('a,b', 'dbname=x');
SELECT replp2p.create_group(E'a\nb', 'dbname=x');
SELECT replp2p.create_group('one', 'dbname=x', group_name => '');

-- create_group: a dsn that is none, holds a secret, leads nowhere, or elsewhere
SELECT replp2p.create_group('one', NULL);
SELECT replp2p.create_group('one', '');
SELECT replp2p.create_group('one', 'nonsense');
SELECT replp2p.create_group('one', repeat('x', 2000));
SELECT replp2p.create_group('one', 'dbname=x password=secret');
SELECT replp2p.create_group('one', 'postgresql://me:secret@localhost/x');
\set VERBOSITY terse
SELECT replp2p.create_group('one', 'host=/nonexistent port=1 dbname=x');
SELECT replp2p.create_group('one', format('host=%s port=%s dbname=template1 user=%s',
	split_part(current_setting('unix_socket_directories'), ',', 1), current_setting('port'), current_user));
\set VERBOSITY default

-- join_group: invites that are none
SELECT replp2p.join_group('two', 'dbname=x', NULL);
\set VERBOSITY terse
SELECT replp2p.join_group('two', 'dbname=x', 'x');
SELECT replp2p.join_group('two', 'dbname=x', 'replp2p1:AAAA');
\set VERBOSITY default

-- a read-only transaction
BEGIN READ ONLY;
SELECT replp2p.create_group('one', 'dbname=x');
ROLLBACK;
BEGIN READ ONLY;
SELECT replp2p.join_group('one', 'dbname=x', 'x');
ROLLBACK;
BEGIN READ ONLY;
SELECT replp2p.exclude_table('pg_class');
ROLLBACK;

-- tables
SELECT replp2p.exclude_table(NULL);
SELECT replp2p.exclude_table('nonexistent');
SELECT replp2p.exclude_table('pg_class');
SELECT replp2p.exclude_table('replp2p.members');
SELECT replp2p.exclude_table('replp2p.conflicts');

-- what only peers may do, and what only the server calls
DO $$
BEGIN
	PERFORM replp2p.export_snapshot();
	RAISE NOTICE 'exported';
EXCEPTION WHEN OTHERS THEN
	RAISE NOTICE 'export_snapshot: refused';
END
$$;
DO $$
BEGIN
	PERFORM replp2p.get_changed_keys(NULL::replp2p.members, '', '');
	RAISE NOTICE 'read';
EXCEPTION WHEN OTHERS THEN
	RAISE NOTICE 'get_changed_keys: refused';
END
$$;
SELECT replp2p.refuse_rewrite();

-- nothing has changed
SELECT count(*) AS nodes FROM replp2p.local_node;
SELECT count(*) AS members FROM replp2p.membership;
SELECT count(*) AS slots FROM pg_replication_slots WHERE slot_name ~ '^replp2p';
