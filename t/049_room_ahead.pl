# Small batches go into space that the change log's writer has put ahead of them, since making a file
# longer costs its sync more than the batch. While they come one by one there is always room: more
# is made when little is left, and not by the sync that somebody waits for. So it is seen here
# after every commit, in the log of the node that writes and in the one of the node that follows.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Replp2p;

my $ROOM = 32 * 1024;			# what the writer calls enough: PREPARE_ROOM
my $COMMITS = 150;

my $g = Replp2p->group([ 'a', 'b' ], schema => 'CREATE TABLE t (id int PRIMARY KEY, v text)');
my %folder = (own => $g->log_folder('a', 'a'), foreign => $g->log_folder('b', 'a'));
$g->sync;

# Bytes of records in the last segment, and bytes of room behind them.
sub segment
{
	my ($folder) = @_;
	my $bytes = slurp_file(Replp2p->last_segment($folder));
	my $records = length Replp2p->log_records($bytes);

	return ($records, length($bytes) - $records);
}

my %begin = map { $_ => (segment($folder{$_}))[0] } keys %folder;
my %without;
foreach my $id (1 .. $COMMITS)
{
	$g->sql('a', "INSERT INTO t SELECT $id, string_agg(md5(random()::text), '') FROM generate_series(1, 120)");
	$g->sync('a');
	foreach my $log (keys %folder)
	{
		next if $without{$log};
		$without{$log} = $id unless $g->wait_until(sub { (segment($folder{$log}))[1] >= $ROOM });
	}
	last if %without;
}
foreach my $log (sort keys %folder)
{
	is($without{$log}, undef, "the $log log has room ahead after every commit");
	cmp_ok((segment($folder{$log}))[0] - $begin{$log}, '>', 2 * 128 * 1024, 'more than was prepared at once has been written');
}

$g->same('t');
$g->stop;
done_testing();
