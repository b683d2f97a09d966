# When the postmaster is killed, everything of ours leaves by itself at once:
# launcher, workers, backends that wait in a long poll for peers; also a worker
# that waits for a lock. Nothing holds the shared memory, so the cluster can be
# started again at once, and goes on where it was: what it knew of deleted rows,
# too, which it has to read from its logs before it applies anything.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Replp2p;

# a long poll that nothing but the postmaster's death ends within the test's time
my $g = Replp2p->group([ 'a', 'b', 'c' ], durable => 1, conf => "replp2p.poll_timeout = 30s\n",
	schema => 'CREATE TABLE t (id int PRIMARY KEY, v text)');
my @kinds = ('launcher', 'capture', 'gossip', 'apply', 'exchange');

# Kill the postmaster of a node and see all of ours go.
sub kill_and_watch
{
	my ($name, $what) = @_;
	my %pid = map { $_ => $g->pid($name, $_) } @kinds;

	ok($g->kill_postmaster($name), "$what: all processes have left");
	ok($g->is_gone($pid{$_}), "$what: $_ has left") foreach @kinds;
	ok($g->node($name)->start(fail_ok => 1), "$what: the cluster starts again at once");
	ok($g->up($name), "$what: and captures");
}

$g->sql('a', "INSERT INTO t VALUES (1, 'before')");
$g->sync;
kill_and_watch('a', 'idle');
$g->sql('a', "INSERT INTO t VALUES (2, 'after')");
$g->sync;
$g->same('t', 'idle: changes flow again');

# apply waits for a row that a local transaction holds
my $session = $g->node('a')->background_psql('postgres', on_error_stop => 0);
$session->query_safe("BEGIN; UPDATE t SET v = 'held' WHERE id = 1");
$g->sql('b', "UPDATE t SET v = 'from b' WHERE id = 1");
$g->eventually('a', "SELECT count(*) > 0 FROM pg_stat_activity WHERE backend_type = 'replp2p apply' AND wait_event_type = 'Lock'");
kill_and_watch('a', 'apply waits for a row');
$session->{run}->kill_kill if ref $session->{run};
$g->sync;
$g->same('t', 'apply waits for a row: changes flow again');
is($g->sql('a', 'SELECT v FROM t WHERE id = 1'), 'from b', 'the change that waited is there');

# apply stopped by the operator, changes waiting
$g->sql('a', 'SELECT replp2p.pause_apply()');
$g->sql('b', "INSERT INTO t SELECT x, 'many' FROM generate_series(10, 2000) x");
$g->eventually('a', "SELECT state = 'paused' AND known_seq > applied_seq FROM replp2p.stat_lag WHERE origin = 'b'");
kill_and_watch('a', 'paused');
$g->sql('a', 'SELECT replp2p.resume_apply()');
$g->sync;
$g->same('t', 'paused: changes flow again');

# b deletes what c has updated before, which a hears of last: a tombstone there has to stay until then
$g->sync;
$g->sql($_, "SELECT replp2p.pause_apply('c')") foreach ('a', 'b');
$g->sql('c', "UPDATE t SET v = 'earlier' WHERE id BETWEEN 10 AND 19");
$g->sql('b', 'DELETE FROM t WHERE id BETWEEN 10 AND 19');
$g->eventually('a', 'SELECT count(*) = 0 FROM t WHERE id BETWEEN 10 AND 19');
kill_and_watch('a', 'with tombstones');
$g->sql($_, "SELECT replp2p.resume_apply('c')") foreach ('a', 'b');
$g->sync;
$g->same('t', 'with tombstones: all nodes are the same');
is($g->sql('a', 'SELECT count(*) FROM t WHERE id BETWEEN 10 AND 19'), 0, 'what was deleted stays so');

$g->stop;
done_testing();
