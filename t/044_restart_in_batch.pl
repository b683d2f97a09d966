# Apply ends between two transactions of one batch, and starts again: it still knows what
# the first of them has deleted. A batch is read as a whole or not at all, so the
# pass over the logs at the start must read the one in whose midst it stands, and
# take from it what is applied.
#
# a deletes a row and empties a table, then changes a row that b holds locked, all in
# one batch: its capture was stopped meanwhile. c has changed the row that is
# deleted, and filled the table, before and concurrently, and b hears of that last.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Replp2p;

my $g = Replp2p->group([ 'a', 'b', 'c' ], schema => <<'SQL');
CREATE TABLE t (id int PRIMARY KEY, v text);
CREATE TABLE emptied (id int PRIMARY KEY);
INSERT INTO t VALUES (1, 'start'), (2, 'start');
SQL
$g->sync;

$g->sql($_, "SELECT replp2p.pause_apply('c')") foreach ('a', 'b');
$g->sql('c', "UPDATE t SET v = 'earlier' WHERE id = 1; INSERT INTO emptied VALUES (1)");

my $session = $g->node('b')->background_psql('postgres', on_error_stop => 0);
$session->query_safe('BEGIN; SELECT v FROM t WHERE id = 2 FOR UPDATE');

my $batches = $g->sql('a', 'SELECT captured_batches FROM replp2p.stat_capture');
my $capture = $g->pid('a', 'capture');
kill 'STOP', $capture;
$g->sql('a', 'BEGIN; DELETE FROM t WHERE id = 1; TRUNCATE emptied; COMMIT');
$g->sql('a', "UPDATE t SET v = 'later' WHERE id = 2");
kill 'CONT', $capture;
$g->sql('a', 'SELECT replp2p.current_token()');
is($g->sql('a', 'SELECT captured_batches FROM replp2p.stat_capture'), $batches + 1,
	'two transactions are in one batch');

my $waits = "FROM pg_stat_activity WHERE backend_type = 'replp2p apply' AND wait_event_type = 'Lock'";
ok($g->eventually('b', "SELECT count(*) = 1 $waits"), 'the second one waits for a row');
is($g->sql('b', 'SELECT count(*) FROM t WHERE id = 1'), 0, 'the first one is applied');
my $apply = $g->pid('b', 'apply');
kill 'TERM', $apply;
ok($g->eventually('b', "SELECT count(*) = 1 $waits AND pid <> $apply"), 'apply has started again, and waits again');
$session->query_safe('ROLLBACK');
$session->quit;

$g->sync('a');
$g->sql($_, "SELECT replp2p.resume_apply('c')") foreach ('a', 'b');
$g->sync;
$g->same($_) foreach ('t', 'emptied');
is($g->sql('b', 'SELECT id, v FROM t'), '2|later', 'what was deleted stays so');
is($g->sql('b', 'SELECT count(*) FROM emptied'), 0, 'what was emptied stays so');

$g->stop;
done_testing();
