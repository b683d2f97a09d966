# Tables that have a conflict handler or a column merge besides a further unique index, case by
# case: each was found by trying all small histories (contrib/sim, unique_and_custom and its siblings),
# and ended different on the nodes. The storm over such tables is 068.
#
#	a truncate, and a row that a function makes of it and of an older one
#	a local delete that is decoded only while a row is found to be displaced
#	a client who inserts a key while its row is being displaced
#	a client who inserts the key of a displaced row that has counted
#	a local truncate, and rows of a handler that it has not seen
#	a local truncate that is not captured and less than an insert over a displaced row
#	rows of which nothing but the pin says the version
#	a row that was made of several versions, of which one is forgotten, and came back
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Replp2p;

my @tables = qw(made kept summed);
my $g = Replp2p->group([ 'a', 'b', 'c' ], schema => join('', map { "CREATE TABLE $_ (id int PRIMARY KEY, u int UNIQUE, n int NOT NULL DEFAULT 0);\n" } @tables) . <<'SQL');
CREATE TABLE other (id int PRIMARY KEY);
CREATE TABLE changed (id int PRIMARY KEY, u int UNIQUE, n int NOT NULL DEFAULT 0);
CREATE TABLE chain (id int PRIMARY KEY, u int UNIQUE, n int UNIQUE);
CREATE FUNCTION newer(older changed, newer changed, conflict replp2p.conflict) RETURNS changed LANGUAGE sql IMMUTABLE
RETURN newer;
CREATE TABLE folded (id int PRIMARY KEY, u int UNIQUE, n text);
CREATE FUNCTION fold(older folded, newer folded, conflict replp2p.conflict) RETURNS folded LANGUAGE sql IMMUTABLE
RETURN ROW(newer.id, newer.u, '(' || older.n || '>' || newer.n || ')')::folded;
CREATE FUNCTION older(older made, newer made, conflict replp2p.conflict) RETURNS made LANGUAGE sql IMMUTABLE
RETURN coalesce(older, newer);
SQL
$g->sql('a', "SELECT replp2p.set_conflict_handler('made', 'custom', 'older(made, made, replp2p.conflict)')");
$g->sql('a', "SELECT replp2p.set_conflict_handler('kept', 'vector_clock')");
$g->sql('a', "SELECT replp2p.set_column_merge('summed', 'n', 'counter')");
$g->sql('a', "SELECT replp2p.set_conflict_handler('$_', 'vector_clock')") foreach 'changed', 'chain';
$g->sql('a', "SELECT replp2p.set_conflict_handler('folded', 'custom', 'fold(folded, folded, replp2p.conflict)')");
$g->sync;
$g->eventually($_, "SELECT count(*) = 6 FROM replp2p.tables WHERE handler <> 'last_writer_wins' OR merges <> '{}'") foreach $g->names;

sub apply_waits
{
	my ($name) = @_;
	return $g->eventually($name,
		"SELECT count(*) > 0 FROM pg_stat_activity WHERE application_name = 'replp2p apply' AND backend_xid IS NOT NULL AND wait_event_type = 'Extension'");
}

# A truncate that has not seen two rows of one value: the function keeps both, one of them displaced.
$g->sql('c', "SELECT replp2p.pause_apply()");
$g->sql('a', "SELECT replp2p.pause_apply()");
$g->sql('b', "SELECT replp2p.pause_apply()");
$g->sql('a', "INSERT INTO made VALUES (1, 10)");
$g->sql('b', "INSERT INTO made VALUES (2, 10)");
$g->sql($_, "SELECT replp2p.resume_apply()") foreach 'a', 'b';
ok($g->has($_, 'made', '2 10 0 | 1 10 0'), "one displaces the other on $_") foreach 'a', 'b';
$g->sql('c', "TRUNCATE made");
$g->sql('c', "SELECT replp2p.resume_apply()");
$g->ends('made', 'a truncate keeps the displaced row that the function wants', '2 10 0 | 1 10 0');
$g->sql('b', "DELETE FROM made WHERE id = 2");
$g->ends('made', 'it comes back', '1 10 0 | none');
$g->sql('b', "TRUNCATE made");
$g->ends('made', 'and goes by a truncate that has seen it', 'none | none');

# A local delete which is decoded while apply finds out who is in the way of a row of that key.
foreach my $t (@tables)
{
	$g->sql('a', "INSERT INTO $t VALUES (1, 20)");
	$g->sync;
	$g->sql_all('SELECT replp2p.pause_apply()');
	$g->sql('a', "UPDATE $t SET n = 1 WHERE id = 1");
	my $pid = $g->sql('b', 'SELECT pid FROM replp2p.stat_capture');
	kill 'STOP', $pid;
	$g->sql('b', "BEGIN; DELETE FROM $t WHERE id = 1; INSERT INTO $t VALUES (2, 20); COMMIT");
	$g->sql('b', 'SELECT replp2p.resume_apply()');
	ok(apply_waits('b'), "$t: apply waits for capture");
	kill 'CONT', $pid;
	$g->sql_all('SELECT replp2p.resume_apply()');
	# the function keeps the older, which is an update here
	$g->ends($t, "$t: a delete decoded meanwhile", $t eq 'made' ? '2 20 0 | 1 20 1' : '2 20 0 | none');
	$g->sql('c', "DELETE FROM $t");
	$g->sql('c', "DELETE FROM $t");
	$g->sync;
	$g->sql('a', "TRUNCATE $t");
	$g->ends($t, "$t: empty again", 'none | none');
}

# While a row is being displaced, whoever inserts its key waits for apply, and so has seen it.
$g->sql_all('SELECT replp2p.pause_apply()');
$g->sql('b', "BEGIN; INSERT INTO made VALUES (1, 30); INSERT INTO other VALUES (1); COMMIT");
$g->sql('a', "INSERT INTO made VALUES (2, 30)");
$g->captured('a');
my $lock = $g->node('a')->background_psql('postgres');
$lock->query_safe('BEGIN; LOCK TABLE other');
$g->sql('a', 'SELECT replp2p.resume_apply()');
ok($g->eventually('a', "SELECT count(*) = 1 FROM pg_locks WHERE NOT granted AND relation = 'other'::regclass"),
	'apply has displaced a row, and not committed');
my $client = $g->node('a')->background_psql('postgres');
$client->query_until(qr/start/, "\\echo start\nINSERT INTO made VALUES (1, 31);\n");
my $waits = $g->wait_until(sub {
	return $g->sql('a', "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'INSERT INTO made%'") ||
		$g->sql('a', "SELECT count(*) FROM made WHERE id = 1");
});
is($g->sql('a', "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'INSERT INTO made%'"),
	1, 'whoever inserts its key waits');
$lock->query_safe('COMMIT');
$lock->quit;
$client->quit;
$g->sql_all('SELECT replp2p.resume_apply()');
$g->ends('made', 'and has written over it', '1 31 0, 2 30 0 | none');

# A client writes over a displaced row that has counted. He is waited for before that is forgotten; and if his own row
# is displaced before both were added up, it is with the sum.
sub write_over
{
	my ($worker, $on_a, $on_b, $what, $expected) = @_;
	my $pid = $g->sql('a', "SELECT pid FROM pg_stat_activity WHERE application_name = 'replp2p $worker'");

	$g->sql('b', "SELECT replp2p.pause_apply()");
	kill 'STOP', $pid;
	$g->sql('a', $on_a);
	$g->captured('a') if $worker eq 'apply';
	$g->sql('b', $on_b);
	ok($worker eq 'apply' ? $g->eventually('a', "SELECT lag_transactions > 0 FROM replp2p.stat_lag WHERE origin = 'b'") :
		apply_waits('a'), "$what: $worker is behind");
	kill 'CONT', $pid;
	$g->sql('b', "SELECT replp2p.resume_apply()");
	$g->ends('summed', $what, $expected);
	return;
}

# Two rows of one value, the first of them displaced.
sub displace
{
	my ($first, $second) = @_;

	$g->sync;
	$g->sql_all('SELECT replp2p.pause_apply()');
	$g->sql('a', "INSERT INTO summed VALUES ($first)");
	$g->sql('b', "INSERT INTO summed VALUES ($second)");
	$g->sql_all('SELECT replp2p.resume_apply()');
	return;
}

$g->sql('b', "INSERT INTO summed VALUES (3, 3)");
displace('1, 50, 5', '2, 50, 7');
$g->ends('summed', 'a counter is displaced', '2 50 7, 3 3 0 | 1 50 5');
write_over('capture', "BEGIN; DELETE FROM summed WHERE id = 2; INSERT INTO summed VALUES (1, 51, 20); COMMIT",
	"UPDATE summed SET n = 1 WHERE id = 3", 'written over', '1 51 25, 3 3 1 | none');
displace('4, 60, 5', '5, 60, 7');
$g->ends('summed', 'another one', '1 51 25, 3 3 1, 5 60 7 | 4 60 5');
write_over('apply', "INSERT INTO summed VALUES (4, 61, 20)", "UPDATE summed SET u = 61 WHERE id = 5",
	'written over and displaced', '1 51 25, 3 3 1, 5 61 7 | 4 61 25');
write_over('apply', "TRUNCATE summed", "INSERT INTO summed VALUES (4, 62, 30)",
	'truncated, and written anew', '4 62 30 | none');

# He writes over one that c, who has not seen what displaces it, deletes later.
$g->sync;
$g->sql_all('SELECT replp2p.pause_apply()');
$g->sql('a', 'INSERT INTO summed VALUES (7, 80, 5)');
$g->sql('b', 'INSERT INTO summed VALUES (8, 80, 7)');
$g->sql('c', "SELECT replp2p.resume_apply('a')");
ok($g->has('c', 'summed', '4 62 30, 7 80 5 | none'), 'not displaced on c');
$g->sql('c', "SELECT replp2p.pause_apply('a')");
$g->sql($_, 'SELECT replp2p.resume_apply()') foreach 'a', 'b';
ok($g->has($_, 'summed', '4 62 30, 8 80 7 | 7 80 5'), "displaced on $_") foreach 'a', 'b';
my $worker = $g->pid('a', 'apply');
kill 'STOP', $worker;
$g->sql('a', 'INSERT INTO summed VALUES (7, 81, 20)');
$g->captured('a');
$g->sql('c', 'DELETE FROM summed WHERE id = 7');
ok($g->eventually('a', "SELECT lag_transactions > 0 FROM replp2p.stat_lag WHERE origin = 'c'"), 'apply is behind');
kill 'CONT', $worker;
$g->sql('c', 'SELECT replp2p.resume_apply()');
$g->ends('summed', 'deleted by who has seen neither', '4 62 30, 8 80 7 | none');

# A local truncate is decoded while a row is displaced by what was inserted after it. The row has a greater handler
# epoch, so it stays, and comes back, though the truncate is later.
$g->sql_all('SELECT replp2p.pause_apply()');
$g->sql('a', 'INSERT INTO changed VALUES (3, 30)');
$g->sql('b', 'INSERT INTO changed VALUES (4, 30)');
$g->sql_all('SELECT replp2p.resume_apply()');
$g->ends('changed', 'there is a displaced row', '4 30 0 | 3 30 0');
$g->sql_all('SELECT replp2p.pause_apply()');
$g->sql('a', "SELECT replp2p.set_conflict_handler('changed', 'custom', 'newer(changed, changed, replp2p.conflict)')");
$g->sql('a', 'INSERT INTO changed VALUES (1, 10)');
$g->captured('a');
my $capture = $g->sql('b', 'SELECT pid FROM replp2p.stat_capture');
kill 'STOP', $capture;
$g->sql('b', 'BEGIN; TRUNCATE changed; INSERT INTO changed VALUES (2, 10); COMMIT');
$g->sql('b', 'SELECT replp2p.resume_apply()');
ok(apply_waits('b'), 'apply waits for a truncate');
kill 'CONT', $capture;
$g->sql_all('SELECT replp2p.resume_apply()');
$g->ends('changed', 'a truncate of a lesser handler epoch', '2 10 0 | 1 10 0');
$g->sql('b', 'DELETE FROM changed WHERE id = 2');
$g->ends('changed', 'and the row comes back', '1 10 0 | none');

# Versions that are stable and in no key set: those of displaced rows stand with them, those of rows in the table were pinned.
sub forget_stable
{
	my ($name, $origins) = @_;
	ok($g->eventually($name, "SELECT bool_and(stable_seq = stored_seq) FROM replp2p.stat_log WHERE origin IN ($origins)"),
		"what $origins wrote is stable on $name");
	my $apply = $g->pid($name, 'apply');
	$g->sql($name, "SELECT pg_terminate_backend($apply, 60000)");
	return ok($g->eventually($name, "SELECT pid <> $apply FROM pg_stat_activity WHERE backend_type = 'replp2p apply'"), 'apply has started again');
}

$g->sql_all('SELECT replp2p.pause_apply()');
$g->sql('a', 'INSERT INTO chain VALUES (3, 30, 20), (5, 50, 51)');
$g->sql('b', 'INSERT INTO chain VALUES (1, 10, 20), (6, 50, 52)');
$g->sql('c', 'INSERT INTO chain VALUES (2, 10, 40), (7, 50, 53)');
$g->sql_all('SELECT replp2p.resume_apply()');
$g->ends('chain', 'who is displaced displaces nobody', '2 10 40, 3 30 20, 7 50 53 | 1 10 20, 5 50 51, 6 50 52');
$g->sync;
forget_stable($_, "'a', 'b', 'c'") foreach $g->names;
$g->ends('chain', 'and so it stays', '2 10 40, 3 30 20, 7 50 53 | 1 10 20, 5 50 51, 6 50 52');
$g->sql('a', 'DELETE FROM chain WHERE id = 2');
$g->ends('chain', 'who comes back displaces another', '1 10 20, 7 50 53 | 3 30 20, 5 50 51, 6 50 52');
$g->sql('b', 'DELETE FROM chain WHERE id = 7');
$g->ends('chain', 'who comes back is greater than who stays displaced', '1 10 20, 6 50 52 | 3 30 20, 5 50 51');
$g->sql('c', 'DELETE FROM chain WHERE id = 6');
$g->ends('chain', 'the third comes back', '1 10 20, 5 50 51 | 3 30 20');
$g->sql('c', 'DELETE FROM chain WHERE id = 1');
$g->ends('chain', 'all are back', '3 30 20, 5 50 51 | none');

# A counter's row is displaced, superseded by a local truncate that capture has not read yet, and inserted anew by who has seen
# neither: the truncate is less than that insert, and nothing of the displaced row counts.
$g->sql('a', 'TRUNCATE summed');
$g->ends('summed', 'nothing', 'none | none');
$g->sql_all('SELECT replp2p.pause_apply()');
$g->sql('a', 'INSERT INTO summed VALUES (1, 10, 1)');
$g->sql('b', 'INSERT INTO summed VALUES (2, 10, 0)');
$g->sql('a', 'SELECT replp2p.resume_apply()');
ok($g->has('a', 'summed', '2 10 0 | 1 10 1'), 'a row with a counter is displaced');
my $capture = $g->sql('a', 'SELECT pid FROM replp2p.stat_capture');
kill 'STOP', $capture;
$g->sql('a', 'TRUNCATE summed');
$g->sql('b', 'INSERT INTO summed VALUES (1, 20, 8)');
ok(apply_waits('a'), 'who inserts over a displaced row waits for who may have superseded it');
kill 'CONT', $capture;
$g->sql_all('SELECT replp2p.resume_apply()');
$g->ends('summed', 'a truncate that was not captured', '1 20 8 | none');

# A row that comes back under its greatest version, which is this node's own, was made of more than is known of by now. It is
# not folded again. (a applies nothing, so that only what a wrote gets stable.)
$g->sql('a', "INSERT INTO folded VALUES (1, 10, 's')");
$g->sync;
$g->sql_all('SELECT replp2p.pause_apply()');
$g->sql($_->[0], "UPDATE folded SET u = $_->[1], n = '$_->[0]' WHERE id = 1") foreach [ 'a', 50 ], [ 'c', 51 ], [ 'b', 50 ];
$g->sql('c', "INSERT INTO folded VALUES (2, 50, 'c')");
$g->sql($_, 'SELECT replp2p.resume_apply()') foreach 'b', 'c';
ok($g->has($_, 'folded', '2 50 c | 1 50 ((a>c)>b)'), "made of three, and displaced on $_") foreach 'b', 'c';
$g->sql('b', 'DELETE FROM folded WHERE id = 2');
ok($g->has($_, 'folded', '1 50 ((a>c)>b) | none'), "it comes back on $_") foreach 'b', 'c';
$g->captured('b');
forget_stable('b', "'a'");
is($g->sql('b', "SELECT bool_or(stable_seq = stored_seq) FROM replp2p.stat_log WHERE origin IN ('b', 'c')"), 'f', 'what the others wrote is not');
$g->sql('b', 'INSERT INTO other VALUES (2)');
$g->captured('b');
$g->sql('a', 'SELECT replp2p.resume_apply()');
$g->ends('folded', 'it is not made anew of two', '1 50 ((a>c)>b) | none');

$g->stop;
done_testing();
