# Apply begins with what gossip has written to a log and is still syncing, and
# commits only what is durable, or is small enough to go into the WAL before (t/073).
#
# Gossip is stopped between write and sync of a large row. Apply has it in an open
# transaction then, and nobody sees it; after a while it gives up, so that it
# does not hold its locks. Once gossip goes on the row is there.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Replp2p;

my $g = Replp2p->group([ 'a', 'b' ], schema => 'CREATE TABLE t (id int PRIMARY KEY, v text)');
my $gossip = $g->pid('b', 'gossip');
my $stopped = $g->node('b')->data_dir . '/replp2p/stopped_at_gossip_after_write';

# Insert a row whose batch does not go into the WAL, however it is compressed.
sub insert
{
	my ($id) = @_;
	$g->sql('a', "INSERT INTO t SELECT $id, string_agg(md5(x || 'row $id'), '') FROM generate_series(1, 1000) x");
}

# Has apply on b an open transaction that writes?
my $applying = <<'SQL';
SELECT count(*) > 0 FROM pg_locks JOIN pg_stat_activity USING (pid)
WHERE backend_type = 'replp2p apply' AND locktype = 'transactionid'
SQL

sub is_visible
{
	my ($id) = @_;
	return $g->sql('b', "SELECT count(*) FROM t WHERE id = $id");
}

insert(1);
$g->sync;
$g->set('b', 'replp2p.crash_point', 'stop:gossip_after_write');

# the setting takes effect after one row or another
my $id = 1;
until (-e $stopped)
{
	$id++;
	insert($id);
	$g->wait_until(sub { -e $stopped || is_visible($id) }) or BAIL_OUT('neither stopped nor applied');
}

ok($g->eventually('b', $applying), 'apply works on what is written');
is(is_visible($id), 0, 'but it has not committed what is not durable');
ok($g->eventually('b', "SELECT NOT ($applying)"), 'nor does it hold its locks for long');
is(is_visible($id), 0, 'it has given up');

kill 'CONT', $gossip;
ok($g->eventually('b', "SELECT count(*) = 1 FROM t WHERE id = $id"), 'durable, the row is there');
is($g->sql('b', 'SELECT count(*) FROM replp2p.failed_changes'), 0, 'nothing has failed');
insert(0);
$g->sync;
$g->same('t');

$g->stop;
done_testing();
