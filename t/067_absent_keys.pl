# Where a custom function may take rows away, "no row" is a verdict like any other:
# it hangs on all versions that stand, and a local write that is not decoded
# yet, or comes while it is being given, must not be missed. The function here keeps the
# older of two, so that a row that came before a truncate comes back when the one
# before it is covered. Each case ends alike on both nodes only if apply
# waits for capture, or keeps the key, although there is no row to lock.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Replp2p;

my $g = Replp2p->group([ 'a', 'b' ], schema => <<'SQL');
CREATE TABLE t (id int PRIMARY KEY, v text, n int NOT NULL DEFAULT 0);
CREATE TABLE m (id int PRIMARY KEY, n int NOT NULL);
CREATE FUNCTION first_t(older t, newer t, conflict replp2p.conflict) RETURNS t
LANGUAGE sql IMMUTABLE RETURN older;
SQL
$g->sql('a', "SELECT replp2p.set_conflict_handler('t', 'custom', 'first_t(t, t, replp2p.conflict)'::regprocedure)");
$g->sql('a', "SELECT replp2p.set_column_merge('m', 'n', 'max')");
$g->sync;

sub capture_pid
{
	return $g->sql($_[0], 'SELECT pid FROM replp2p.stat_capture');
}

sub apply_waits
{
	my ($name) = @_;
	return $g->eventually($name,
		"SELECT count(*) > 0 FROM pg_stat_activity WHERE application_name = 'replp2p apply' AND backend_xid IS NOT NULL AND wait_event_type = 'Extension'");
}

# a: `seen` is decoded, `unseen` is not when b's change is applied, which has seen neither.
sub undecoded
{
	my ($table, $seen, $on_b, $unseen, $what) = @_;

	$g->sync;
	$g->sql_all('SELECT replp2p.pause_apply()');
	$g->sql('a', $seen);
	$g->captured('a');
	$g->sql('b', $on_b);
	my $pid = capture_pid('a');
	kill 'STOP', $pid;
	$g->sql('a', $unseen);
	$g->sql('a', 'SELECT replp2p.resume_apply()');
	ok(apply_waits('a'), "$what: apply waits for capture");
	kill 'CONT', $pid;
	$g->sql('b', 'SELECT replp2p.resume_apply()');
	$g->sync;
	$g->same($table, "$what: the same on both");
}

undecoded('t', 'TRUNCATE t', "INSERT INTO t VALUES (1, 'b')", 'TRUNCATE t', 'truncate, insert, truncate');
is($g->sql('a', 'SELECT v FROM t'), 'b', 'and the row is there, since the first truncate is covered');
$g->sql('a', 'DELETE FROM t');
undecoded('t', "INSERT INTO t VALUES (2, 'a'); DELETE FROM t WHERE id = 2", "INSERT INTO t VALUES (2, 'b')",
	"INSERT INTO t VALUES (2, 'again'); DELETE FROM t WHERE id = 2", 'delete, insert, insert and delete');

# While apply gives the verdict "no row", a client wants to insert that key: he waits for its commit, and so has seen it.
# Apply is kept in the middle of its transaction by a lock on another table, on which its next change wants to write.
foreach my $case (
	[ 't', "INSERT INTO t VALUES (7, 'old')", 'ab', 'DELETE FROM t WHERE id = 7', "UPDATE t SET v = 'b' WHERE id = 7", "INSERT INTO t VALUES (7, 'late')" ],
	[ 'm', 'INSERT INTO m VALUES (7, 5)', 'ba', 'DELETE FROM m WHERE id = 7', 'UPDATE m SET n = 9 WHERE id = 7', 'INSERT INTO m VALUES (7, 1)' ])
{
	# the function keeps the older, here a delete; of the column with a merge, the delete is the later and wins
	my ($table, $start, $order, $on_a, $on_b, $late) = @$case;

	$g->sql('b', $start);
	$g->sync;
	$g->sql_all('SELECT replp2p.pause_apply()');
	$g->sql('b', "CREATE TABLE IF NOT EXISTS other (id int PRIMARY KEY)");
	$g->sql('a', "CREATE TABLE IF NOT EXISTS other (id int PRIMARY KEY)");
	my %do = (a => $on_a, b => "BEGIN; $on_b; INSERT INTO other SELECT count(*) FROM other; COMMIT");
	$g->sql($_, $do{$_}) foreach split //, $order;
	$g->captured('a');
	my $lock = $g->node('a')->background_psql('postgres');
	$lock->query_safe('BEGIN; LOCK TABLE other');
	$g->sql('a', 'SELECT replp2p.resume_apply()');
	ok($g->eventually('a', "SELECT count(*) = 1 FROM pg_locks WHERE NOT granted AND relation = 'other'::regclass"),
		"$table: apply is in the middle");
	my $client = $g->node('a')->background_psql('postgres');
	$client->query_until(qr/start/, "\\echo start\n$late;\n");
	ok($g->eventually('a', "SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'INSERT INTO $table%'"),
		"$table: whoever inserts the key waits for apply");
	$lock->query_safe('COMMIT');
	$lock->quit;
	$client->quit;
	$g->sql('b', 'SELECT replp2p.resume_apply()');
	$g->sync;
	$g->same($table, "$table: the same on both");
	$g->same('other', "$table: and the other");
}

# a counter and a function that may take rows away don't go together
my ($status, $out, $err) = $g->node('a')->psql('postgres',
	"SELECT replp2p.set_conflict_handler('m', 'custom', 'first_m(m, m, replp2p.conflict)'::regprocedure)");
isnt($status, 0, 'no such function');
$g->sql_all(<<'SQL');
CREATE TABLE c (id int PRIMARY KEY, n int NOT NULL);
CREATE FUNCTION first_c(older c, newer c, conflict replp2p.conflict) RETURNS c LANGUAGE sql IMMUTABLE RETURN older;
SQL
$g->sql('a', "SELECT replp2p.set_column_merge('c', 'n', 'counter')");
($status, $out, $err) = $g->node('a')->psql('postgres',
	"SELECT replp2p.set_conflict_handler('c', 'custom', 'first_c(c, c, replp2p.conflict)'::regprocedure)");
like($err, qr/ERROR:  table "c" has a counter, which handler custom cannot have/, 'no custom handler beside a counter');
($status, $out, $err) = $g->node('a')->psql('postgres', "SELECT replp2p.set_column_merge('t', 'id', 'counter')");
isnt($status, 0, 'nor a counter in a key');
($status, $out, $err) = $g->node('a')->psql('postgres', "SELECT replp2p.set_column_merge('t', 'n', 'counter')");
like($err, qr/ERROR:  table "t" has handler custom, which cannot have a counter/, 'no counter beside a custom handler');

$g->stop;
done_testing();
