# Many inserts of one transaction are stored in runs (they are in the WAL as such), and leave
# what row by row would have left: where rows of the same key are here, earlier and later ones; where
# keys have been deleted here, decoded or not; in a table with a second unique key; and when
# one of them fails, which is then the one that is listed.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Replp2p;

my $g = Replp2p->group([ 'a', 'b' ], schema => <<'SQL');
CREATE TABLE t (id int PRIMARY KEY, v text, big text);
CREATE TABLE u (id int PRIMARY KEY, v text UNIQUE);
CREATE TABLE w (id int PRIMARY KEY, v text);
CREATE TABLE other (id int PRIMARY KEY, v text);
CREATE TABLE changed (id int PRIMARY KEY, v text);
CREATE TABLE met (id int PRIMARY KEY, v text);
CREATE TABLE late (id int PRIMARY KEY, v text);
INSERT INTO t SELECT x, 'start' FROM generate_series(300, 310) x;
INSERT INTO t SELECT x, 'start' FROM generate_series(400, 410) x;
SQL
$g->sync;

# Records of several rows that b has written to its WAL since then.
sub runs_since
{
	my ($from) = @_;
	my $to = $g->sql('b', 'SELECT pg_current_wal_flush_lsn()');
	my ($out) = run_command([ 'pg_waldump', '--rmgr=Heap2', '-s', $from, '-e', $to, '-p', $g->node('b')->data_dir . '/pg_wal' ]);
	return scalar(() = $out =~ /MULTI_INSERT/g);
}

sub both { $g->sql($_, $_[0]) foreach 'a', 'b' }

# Rows that are here
my $lsn = $g->sql('b', 'SELECT pg_current_wal_insert_lsn()');
both('SELECT replp2p.pause_apply()');
$g->sql('b', "INSERT INTO t SELECT x, 'b early' FROM generate_series(100, 110) x");
$g->sql('a', "DELETE FROM t; INSERT INTO t SELECT x, 'a', repeat(x::text, 1000 * (x / 999)) FROM generate_series(1, 3000) x");
$g->sql('b', "INSERT INTO t SELECT x, 'b late' FROM generate_series(200, 210) x; DELETE FROM t WHERE id BETWEEN 300 AND 310");
$g->sql('b', 'SELECT replp2p.current_token()');
# and keys that b deletes while nobody reads it
my $pid = $g->sql('b', 'SELECT pid FROM replp2p.stat_capture');
kill 'STOP', $pid;
$g->sql('b', 'DELETE FROM t WHERE id BETWEEN 400 AND 410');
$g->sql('b', 'SELECT replp2p.resume_apply()');
ok($g->eventually('b', "SELECT count(*) > 0 FROM pg_stat_activity WHERE application_name = 'replp2p apply' AND backend_xid IS NOT NULL AND wait_event_type = 'Extension'"),
	'apply waits for what is not decoded');
kill 'CONT', $pid;
$g->sql('a', 'SELECT replp2p.resume_apply()');
$g->sync;
$g->same('t', 'all the same');
is($g->sql('b', "SELECT string_agg(v || n, ' ' ORDER BY v) FROM (SELECT v, count(*) n FROM t GROUP BY v) s"),
	'a2967 b late11', 'the later version of each key stands');
is($g->sql('b', "SELECT count(*) FROM t WHERE id BETWEEN 100 AND 110 AND v = 'a'"), 11, 'rows that were earlier are overwritten');
is($g->sql('b', 'SELECT sum(length(big)) FROM t'), $g->sql('a', 'SELECT sum(length(big)) FROM t'), 'out-of-line values, too');
is($g->sql('b', "SELECT conflict_type || ' ' || resolution || count(*) FROM replp2p.conflicts GROUP BY conflict_type, resolution ORDER BY 1"),
	"insert_deleted keep_local22\ninsert_exists apply_remote11\ninsert_exists keep_local11", 'each conflict is in the history');
cmp_ok(runs_since($lsn), '>', 0, 'there were runs');

ok($g->eventually('b', "SELECT n_tup_ins >= 2000 FROM pg_stat_user_tables WHERE relname = 't'"),
	'the statistics that autovacuum goes by know of it');

# Every second table, a row of the run changed at once, keys that come again
$lsn = $g->sql('b', 'SELECT pg_current_wal_insert_lsn()');
$g->sql('a', join ' ', 'BEGIN;', (map { my $from = 10000 * $_; (
	"INSERT INTO other SELECT x, 'one' FROM generate_series($from, $from + 200) x;",
	"INSERT INTO w SELECT x, 'two' FROM generate_series($from, $from + 20) x;",
	"UPDATE other SET v = 'changed' WHERE id = $from + 200;",
	"DELETE FROM w WHERE id = $from + 3; INSERT INTO w VALUES ($from + 3, 'again');") } 1 .. 5), 'COMMIT;');
$g->sync;
$g->same($_, "$_ is the same") foreach 'other', 'w';
cmp_ok(runs_since($lsn), '>=', 10, 'by runs');

# Rows of the run changed and deleted right after it
$lsn = $g->sql('b', 'SELECT pg_current_wal_insert_lsn()');
$g->sql('a', <<'SQL');
BEGIN;
INSERT INTO changed SELECT x, 'run' FROM generate_series(1, 100) x;
UPDATE changed SET v = 'changed' WHERE id % 3 = 0;
DELETE FROM changed WHERE id % 5 = 0;
COMMIT;
SQL
$g->sync;
$g->same('changed', 'changed and deleted right after the run');
is($g->sql('b', "SELECT count(*) || ' ' || count(*) FILTER (WHERE v = 'changed') FROM changed"), '80 27', 'each that was to be');
cmp_ok(runs_since($lsn), '>', 0, 'by runs');

# A key that has a tombstone ends a run, in which a row meets another one
$lsn = $g->sql('b', 'SELECT pg_current_wal_insert_lsn()');
both('SELECT replp2p.pause_apply()');
$g->sql('b', "INSERT INTO met VALUES (20, 'b early'), (50, 'b early'); DELETE FROM met WHERE id = 50");
$g->sql('b', 'SELECT replp2p.current_token()');
# (the first one has apply ask for deletes)
$g->sql('a', "INSERT INTO met VALUES (0, 'run 0')");
$g->sql('a', "INSERT INTO met SELECT x, 'run ' || x FROM generate_series(1, 100) x");
both('SELECT replp2p.resume_apply()');
$g->sync;
$g->same('met', 'a tombstone in the midst');
is($g->sql('b', "SELECT count(*) FROM met WHERE v = 'run ' || id"), 101, 'every row is there, and right');
cmp_ok(runs_since($lsn), '>', 0, 'by runs');

# A key that b deletes, and nobody reads it, after the last insert that has asked for such deletes, and before the
# run is stored. In between apply waits for a client who holds a row of another table.
$lsn = $g->sql('b', 'SELECT pg_current_wal_insert_lsn()');
$g->sql('a', "INSERT INTO other VALUES (1, 'held')");
$g->sync;
both('SELECT replp2p.pause_apply()');
$g->sql('a', <<'SQL');
BEGIN;
INSERT INTO late SELECT x, 'one by one' FROM generate_series(1, 7) x;
UPDATE other SET v = 'changed' WHERE id = 1;
INSERT INTO late SELECT x, 'run' FROM generate_series(8, 100) x;
COMMIT;
SQL
my $client = $g->node('b')->background_psql('postgres');
$client->query_safe('BEGIN; SELECT FROM other WHERE id = 1 FOR UPDATE');
$g->sql('b', 'SELECT replp2p.resume_apply()');
ok($g->eventually('b', "SELECT count(*) = 1 FROM pg_stat_activity WHERE application_name = 'replp2p apply' AND wait_event_type = 'Lock'"),
	'apply waits for a client');
$pid = $g->sql('b', 'SELECT pid FROM replp2p.stat_capture');
kill 'STOP', $pid;
$g->sql('b', "INSERT INTO late VALUES (40, 'b'); DELETE FROM late WHERE id = 40");
$client->query_safe('COMMIT');
$client->quit;
my $stored_or_waits = "SELECT (SELECT count(*) FROM late) = 100 OR EXISTS (SELECT FROM pg_stat_activity
	WHERE application_name = 'replp2p apply' AND backend_xid IS NOT NULL AND wait_event_type = 'Extension')";
ok($g->eventually('b', $stored_or_waits), 'apply waits for capture with the run');
kill 'CONT', $pid;
$g->sql('a', 'SELECT replp2p.resume_apply()');
$g->sync;
$g->same('late', 'a key deleted late');
is($g->sql('b', 'SELECT count(*) FILTER (WHERE id = 40) || $$ $$ || count(*) FROM late'), '0 99', 'it stays away');
cmp_ok(runs_since($lsn), '>', 0, 'by runs');

# A second unique key: no runs, the usual resolution
both('SELECT replp2p.pause_apply()');
$g->sql('b', "INSERT INTO u VALUES (5000, 'v 50')");
$g->sql('a', "INSERT INTO u SELECT x, 'v ' || x FROM generate_series(1, 100) x");
both('SELECT replp2p.resume_apply()');
$g->sync;
$g->same('u', 'a second unique key');

# A row that b cannot store, in the middle
$g->sql('b', 'CREATE INDEX ON w (v)');
$g->sql('a', "INSERT INTO w SELECT x, CASE x WHEN 730 THEN (SELECT string_agg(md5(y::text), '') FROM generate_series(1, 300) y) ELSE 'fine' END FROM generate_series(701, 760) x");
ok($g->eventually('b', 'SELECT count(*) = 1 FROM replp2p.failed_changes'), 'a row fails');
is($g->sql('b', "SELECT f.change || ' ' || (v.key ->> 'id') FROM replp2p.failed_changes v, replp2p.failed_transactions f"), '30 730', 'it is named');
$g->sql('b', 'SELECT replp2p.skip_failed(id) FROM replp2p.failed_changes');
$g->sync;
is($g->sql('b', "SELECT count(*) FROM w WHERE v = 'fine'"), 59, 'the others are there');

$g->stop;
done_testing();
