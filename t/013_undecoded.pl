# What capture has not read yet. Capture of one node is stopped (SIGSTOP), so
# that the window between a local commit and its stamp stays open as long as we
# like:
#   - a local delete that is not decoded has no tombstone: a concurrent earlier
#     change of that key must wait for it, not bring the row back;
#   - a local update that is not decoded has no version: a concurrent earlier
#     change must wait for it, not overwrite it;
#   - other keys and tables don't wait when nothing of theirs is undecoded;
#   - a stamp is that of the commit's place in the WAL, however late capture comes
#     by: a delete from before apply began with a change is not stamped after it.
# And causal delivery: what depends on a change that is held back waits for it.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Replp2p;

my $g = Replp2p->group([ 'a', 'b', 'c' ], schema => <<'SQL');
CREATE TABLE t (id int PRIMARY KEY, v text);
CREATE TABLE other (id int PRIMARY KEY, v text);
INSERT INTO t SELECT x, 'start' FROM generate_series(1, 20) x;
SQL
$g->sync;

sub capture_pid
{
	return $g->sql($_[0], 'SELECT pid FROM replp2p.stat_capture');
}

sub waits_for_capture
{
	my ($name) = @_;
	return $g->eventually($name,
		"SELECT count(*) > 0 FROM pg_stat_activity WHERE application_name = 'replp2p apply' AND backend_xid IS NOT NULL AND wait_event_type = 'Extension'");
}

# On a: early; on b, capture stopped: late. What ends up is late, everywhere.
sub race
{
	my ($early, $late, $expected, $what) = @_;
	$g->sync;
	$g->sql('b', 'SELECT replp2p.pause_apply()');
	$g->sql('a', 'SELECT replp2p.pause_apply()');
	$g->sql('a', $early);
	my $pid = capture_pid('b');
	kill 'STOP', $pid;
	$g->sql('b', $late);
	$g->sql('b', "SELECT replp2p.resume_apply()");
	ok(waits_for_capture('b'), "$what: apply waits for capture");
	kill 'CONT', $pid;
	$g->sql('a', "SELECT replp2p.resume_apply()");
	$g->sync;
	$g->same('t', "$what: the same everywhere");
	is($g->sql('a', "SELECT string_agg(id || v, ' ' ORDER BY id) FROM t WHERE id IN (1, 2, 3, 101)"),
		$expected, "$what: the later one stands");
}

race("UPDATE t SET v = 'early' WHERE id = 1", 'DELETE FROM t WHERE id = 1',
	'2start 3start', 'an undecoded delete');
race("UPDATE t SET v = 'early' WHERE id = 2", "UPDATE t SET v = 'late' WHERE id = 2",
	'2late 3start', 'an undecoded update');
race("UPDATE t SET v = 'early' WHERE id = 3", "UPDATE t SET id = 101, v = 'moved' WHERE id = 3",
	'2late 101moved', 'an undecoded key update');
race("INSERT INTO t VALUES (1, 'early')", "INSERT INTO t VALUES (1, 'late'); DELETE FROM t WHERE id = 1",
	'2late 101moved', 'an undecoded insert and delete');
race("UPDATE t SET v = 'early' WHERE id = 2", 'TRUNCATE t', '', 'an undecoded truncate');

# nothing of that table is undecoded: nobody waits
my $pid = capture_pid('b');
kill 'STOP', $pid;
$g->sql('b', "INSERT INTO t VALUES (50, 'x')");
$g->sql('a', "INSERT INTO other VALUES (1, 'one')");
ok($g->eventually('b', 'SELECT count(*) = 1 FROM other'), 'an insert into another table does not wait for capture');
kill 'CONT', $pid;
$g->sync;
$g->same('other');

# stamps: b's delete stands in the WAL in front of apply's note that it begins with a's change.
# Neither has seen the other, and the later one by the clock wins, whenever capture reads the delete
# (t/020 has the other case, a commit behind the note)
$g->sql('a', "INSERT INTO other VALUES (2, 'two')");
$g->sync;
$pid = capture_pid('b');
kill 'STOP', $pid;
$g->sql('b', "DELETE FROM other WHERE id = 2");
$g->sql('a', "UPDATE other SET v = 'later by the clock' WHERE id = 2");
ok(waits_for_capture('b'), 'a change later by the clock meets an undecoded delete');
kill 'CONT', $pid;
$g->sync;
$g->same('other', 'the same everywhere');
is($g->sql('a', 'SELECT v FROM other WHERE id = 2'), 'later by the clock',
	'who committed before apply began with a change is not stamped after it');

# causal delivery: c holds back a; b has seen a's change and builds on it
$g->sql('c', "SELECT replp2p.pause_apply('a')");
$g->sql('a', "INSERT INTO t VALUES (200, 'cause')");
$g->eventually('b', 'SELECT count(*) = 1 FROM t WHERE id = 200');
$g->sql('b', "INSERT INTO other SELECT id, 'effect of ' || v FROM t WHERE id = 200");
ok($g->eventually('c', "SELECT state = 'waiting' FROM replp2p.stat_lag WHERE origin = 'b'"),
	'what depends on a held change waits for it');
is($g->sql('c', 'SELECT count(*) FROM other WHERE id = 200'), 0, 'and is not seen');
$g->sql('c', "SELECT replp2p.resume_apply('a')");
ok($g->eventually('c', "SELECT count(*) = 1 FROM t JOIN other USING (id) WHERE id = 200"),
	'and comes after it');

$g->sync;
$g->same($_) foreach ('t', 'other');
$g->stop;
done_testing();
