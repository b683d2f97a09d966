# A process dies at each boundary of fsync and commit, once. Each time the cluster
# recovers by itself, work goes on, and in the end all nodes are the same, with
# every transaction applied exactly once.
#
# The points are read from the sources: RP_CRASH_POINT("name") there is a case
# here, and a point that is not reached is a failure. Who has to come by follows from the
# name's first word. The marker file that the dying process leaves proves that it did.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Replp2p;

# While we wait for the crash only a writes, and b receives: who dies is which worker.
my %where = (
	capture => { a => 'capture' },
	gossip => { b => 'gossip' },
	apply => { b => 'apply' },
	displaced => { b => 'apply' },
	serve => { a => 'exchange' },	# a backend that serves a peer
	log => { a => 'capture', b => 'gossip' },	# the own log, and that of another origin
	own => { a => 'capture' },
	foreign => { b => 'gossip' });

my %points;
foreach my $file (glob('src/pg/*.c src/core/*.c'))
{
	my $source = slurp_file($file);
	$points{$1} = 1 while $source =~ /RP_CRASH_POINT\("(\w+)"\)/g;
}
cmp_ok(scalar keys %points, '>', 0, 'there are crash points in the sources');

my $g = Replp2p->group([ 'a', 'b' ], conf => "restart_after_crash = on\n", schema => <<'SQL');
CREATE TABLE once (id int);
CREATE TABLE t (id int PRIMARY KEY, v text);
CREATE TABLE bulk (id int PRIMARY KEY, v text);
CREATE TABLE u (id int PRIMARY KEY, v text UNIQUE);
INSERT INTO t SELECT x, 'start' FROM generate_series(1, 50) x;
-- beside bulk, large enough for a joiner to take one of them from b, which is not its sponsor
CREATE TABLE shared (id int PRIMARY KEY, v text);
INSERT INTO shared SELECT x, repeat(md5(x::text), 30) FROM generate_series(1, 2500) x;
SQL
# without a key: what is applied twice is there twice
my $last_id = 0;

sub marker
{
	my ($name, $point) = @_;
	return $g->node($name)->data_dir . "/replp2p/crashed_at_$point";
}

# Run SQL on a node that may be crashing; true: it was acknowledged.
sub attempt
{
	my ($name, $sql) = @_;
	# a psql that finds no server may leave before it has read its query: that dies
	my $status = eval { $g->node($name)->psql('postgres', $sql, on_error_stop => 1, stderr => \my $stderr) };
	return defined $status && $status == 0;
}

# Write, as far as the node lets us: the crash may come in the middle. Returns ids of what is committed.
sub write_on
{
	my ($name) = @_;
	my @written;

	foreach (1 .. 5)
	{
		my $id = ++$last_id;
		my $row = 1 + $id % 50;
		push @written, $id if attempt($name,
			"BEGIN; INSERT INTO once VALUES ($id); UPDATE t SET v = '$name $id' WHERE id = $row;" .
			" SAVEPOINT s; DELETE FROM t WHERE id = $row + 1; ROLLBACK TO s; COMMIT;");
	}
	return @written;
}

# Enough, in values that don't compress, to fill a segment of the change log.
sub fill_segment
{
	my ($name) = @_;
	my $from = ++$last_id * 1000;

	attempt($name, "INSERT INTO bulk SELECT $from + x, (SELECT string_agg(md5(random()::text || x || y), '')" .
		" FROM generate_series(1, 700) y) FROM generate_series(1, 800) x");
}

# Have two nodes insert a row each of the same unique value: one is displaced on both.
my $clash = 0;

sub displace
{
	my $id = 2 * ++$clash;

	$g->sql($_, 'SELECT replp2p.pause_apply()') foreach 'a', 'b';
	$g->sql('a', "INSERT INTO u VALUES ($id, 'clash $clash')");
	$g->sql('b', "INSERT INTO u VALUES ($id + 1, 'clash $clash')");
	$g->sql($_, 'SELECT replp2p.resume_apply()') foreach 'a', 'b';
	$g->sync;
	is($g->sql($_, 'SELECT count(*) FROM replp2p.displaced'), '1', "a row is displaced on $_") foreach 'a', 'b';
}

# Have a stop in the midst of sending a large transaction, so that its receiver waits for more; and go on.
sub transfer_stop
{
	$g->set('a', 'replp2p.crash_point', 'stop:serve_further_parts');
	$g->eventually('a', "SELECT current_setting('replp2p.crash_point') <> ''");
}

sub transfer_go_on
{
	$g->set('a', 'replp2p.crash_point', undef);
	kill 'CONT', split /\n/, $g->sql('a', "SELECT pid FROM pg_stat_activity WHERE query ~* '^call replp2p.exchange'");
}

my @written;
my %tries;

# Have a worker of the node die at the point, with work on a until it has.
sub crash
{
	my ($name, $worker, $point) = @_;
	my $node = $g->node($name);
	my $offset = -s $node->logfile;
	my $parts = $point =~ /early|parts/;	# a large transaction must come in parts
	my $fill = $parts || $point =~ /rotate|trim|spool/;
	my $free = $point =~ /^displaced/;
	my $group = $point =~ /group/;	# several transactions must be queued

	displace() if $free;
	transfer_stop() if $point =~ /early/;

	# what apply commits, capture would write to the own log; but only what is applied is trimmed
	$g->sql($name, 'SELECT replp2p.pause_apply()') unless $worker eq 'apply' || $point =~ /trim/;
	# capture may come by before that has answered
	eval { $g->set($name, 'replp2p.crash_point', $point) };
	$node->wait_for_log(qr/parameter "replp2p.crash_point" changed to "$point"/, $offset);
	my $reached = $g->wait_until(sub {
		fill_segment('a') if $fill;
		attempt('a', "DELETE FROM u WHERE v = 'clash $clash'") if $free;
		$free = 0;
		$fill = $parts;
		attempt($name, 'SELECT replp2p.pause_apply()') if $group;
		push @written, write_on('a');
		attempt($name, 'SELECT replp2p.resume_apply()') if $group;
		return -e marker($name, $point);
	});
	$reached or die "nobody has come by $point on $name";
	transfer_go_on() if $point =~ /early/;
	$node->wait_for_log(qr/replp2p: crash point $point\n/, $offset);
	$node->wait_for_log(qr/exited with exit code 2/, $offset);
	my ($who) = slurp_file($node->logfile, $offset) =~ /LOG:\s+(.*?) \(PID \d+\) exited with exit code 2/;
	# off again before the marker goes, or the next one who comes by dies, too
	$g->up($name);
	$g->set($name, 'replp2p.crash_point', undef);
	$node->wait_for_log(qr/parameter "replp2p.crash_point" removed from/, $offset);
	if ($point =~ /^log_/ && $who ne qq{background worker "replp2p $worker"} && ++$tries{"$name $point"} < 10)
	{
		# the other log's writer came by first (a position that was due): once more
		$g->sql($name, 'SELECT replp2p.resume_apply()');
		$g->sync;
		unlink marker($name, $point);
		return crash($name, $worker, $point);
	}
	is($who, $worker eq 'exchange' ? 'server process' : qq{background worker "replp2p $worker"}, "$point is reached on $name, by whom it should");
	$g->sql($name, 'SELECT replp2p.resume_apply()');
}

# Test that everything goes on and that all are the same.
sub recovered
{
	my ($point, @names) = @_;

	$g->up($_) foreach @names;
	push @written, write_on($_) foreach @names;
	$g->sync;
	my $bad = 0;
	foreach my $name (@names)
	{
		my %count = map { split /\|/ } split /\n/, $g->sql($name, 'SELECT id, count(*) FROM once GROUP BY id');
		$bad += grep { ($count{$_} // 0) != 1 } @written;
		$bad += grep { $_ != 1 } values %count;
	}
	is($bad, 0, "$point: every transaction is there exactly once");
	my @different = grep { my $t = $_; grep { $g->digest($_, $t) ne $g->digest('a', $t) } @names } 'once', 't', 'bulk', 'u', 'shared';
	is("@different", '', "$point: all nodes are the same");
	return unless $point =~ /^displaced/;
	ok($g->eventually($_, 'SELECT count(*) = 0 FROM replp2p.displaced')
		  && $g->eventually($_, "SELECT count(*) = $clash FROM u"), "$point: the displaced row is back on $_")
	  foreach @names;
}

foreach my $point (sort grep { !/^join_/ } keys %points)
{
	my ($part) = $point =~ /^([a-z]+)/;

	die "who comes by $point?" unless $where{$part};
	foreach my $name (sort keys %{ $where{$part} })
	{
		my $worker = $point eq 'log_after_trim' ? 'gossip' : $where{$part}{$name};
		crash($name, $worker, $point);
		recovered($point, 'a', 'b');
		unlink marker($name, $point);
	}
}

# a point while joining: the join goes on by itself
my $n = 0;
foreach my $point (sort grep { /^join_/ } keys %points)
{
	my $name = 'joiner' . ++$n;
	$g->add_cluster($name, conf => "restart_after_crash = on\nreplp2p.crash_point = '$point'\n");
	my $invite = $g->sql('a', 'SELECT replp2p.create_invite()');
	$g->sql($name, sprintf("SELECT replp2p.join_group('%s', '%s', '%s')", $name, Replp2p::dsn($g->node($name)), $invite));
	ok($g->wait_until(sub { push @written, write_on('a'), write_on('b'); -e marker($name, $point) }),
		"$point is reached") or next;
	$g->eventually($name, "SELECT replp2p.wait_for_ready('1 minute') IS NOT NULL");
	push @{ $g->{names} }, $name;
	recovered($point, $g->names);
}

note("figure crash points: " . keys(%points));
$g->stop;
done_testing();
