# How transactions share batches. When they are rare each is a batch of its own, sealed at
# once whatever replp2p.batch_delay says. When they have come fast, capture rests after a batch,
# and no commit wakes it: what comes meanwhile is in the next one. Who waits for capture
# ends the rest.
#
# That they come fast is arranged: capture is stopped (SIGSTOP) while they commit, and then
# reads them all at once.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Replp2p;

my $g = Replp2p->group([ 'a', 'b' ], schema => 'CREATE TABLE t (id serial PRIMARY KEY, v int)');
$g->set('a', 'replp2p.batch_delay', '10s');
$g->sync;

sub captured
{
	return split /\|/,
	  $g->sql('a', 'SELECT captured_transactions, captured_batches, log_syncs FROM replp2p.stat_capture');
}

# so many commits in a row
sub commits
{
	my ($n) = @_;
	$g->sql('a', "DO 'BEGIN FOR i IN 1..$n LOOP INSERT INTO t (v) VALUES (i); COMMIT; END LOOP; END'");
}

# one after the other, nobody in a hurry
{
	my ($transactions, $batches) = captured();
	foreach my $n (1 .. 5)
	{
		commits(1);
		$g->eventually('a', "SELECT captured_transactions = $transactions + $n FROM replp2p.stat_capture");
	}
	is((captured())[1], $batches + 5, 'each of a few transactions is a batch of its own');
}

# many at once
my $many = 3000;
{
	my ($transactions, $batches, $syncs) = captured();
	my $capture = $g->pid('a', 'capture');
	kill 'STOP', $capture;
	commits($many);
	kill 'CONT', $capture;
	$g->eventually('a', "SELECT captured_transactions = $transactions + $many FROM replp2p.stat_capture");
	my @now = captured();
	cmp_ok($now[1] - $batches, '<=', 3, "$many transactions are in a batch or two");
	cmp_ok($now[2] - $syncs, '<=', 3, 'with as many syncs');
}

# capture rests
{
	my ($transactions, $batches) = captured();
	commits(1) foreach 1 .. 20;
	my $token = $g->sql('a', 'SELECT replp2p.current_token()');
	my @now = captured();
	is($now[0], $transactions + 20, 'who waits for capture ends its rest');
	cmp_ok($now[1] - $batches, '<=', 2, 'what has come meanwhile shares a batch');
	is($g->sql('b', "SELECT replp2p.wait_for_token('$token', '1 minute')"), '', 'the other node gets it');
}

$g->sync;
$g->same('t');
is($g->sql('b', 'SELECT count(*) FROM t'), 5 + $many + 20, 'nothing is lost');
$g->stop;
done_testing();
