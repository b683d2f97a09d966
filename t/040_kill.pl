# kill -9 of each kind of worker, of a backend that serves a peer and of a
# postmaster, under load on three nodes; then an immediate stop of all of them at
# once. Whatever a client was told to be committed is on every node exactly once,
# and all nodes end the same.
#
# One client a node runs psql and connects again when its server has crashed. Each
# transaction inserts a new id into a table without a key (so that a transaction applied twice
# shows as two rows), one into a table with a key, and updates a hot row. What
# psql prints, the server has acknowledged.
#
# RP_KILL_ROUNDS rounds; in each round every kind once, on nodes drawn by SEED.
use strict;
use warnings;
use IPC::Run;
use List::Util qw(shuffle);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Replp2p;

my $rounds = $ENV{RP_KILL_ROUNDS} // 3;
my $seed = $ENV{SEED} // int(rand(1_000_000));
note("seed $seed");
srand($seed);

my @nodes = ('a', 'b', 'c');
my $g = Replp2p->group(\@nodes, durable => 1, conf => "restart_after_crash = on\n", schema => <<'SQL');
CREATE TABLE acked (id uuid, node text);
CREATE TABLE keyed (id uuid PRIMARY KEY, node text);
CREATE TABLE hot (id int PRIMARY KEY, n int, node text);
INSERT INTO hot SELECT x, 0, 'none' FROM generate_series(1, 8) x;
SQL
my $dir = PostgreSQL::Test::Utils::tempdir();
my %client;

# Run a client for each node until stop_clients.
sub start_clients
{
	my ($options) = @_;
	append_to_file("$dir/go", '');
	foreach my $name (@nodes)
	{
		my @lines = map { client_line($name, 1 + $_ % 8) } 1 .. 200;
		append_to_file("$dir/$name.sql", join('', @lines)) unless -e "$dir/$name.sql";
		my $connect = $g->node($name)->connstr('postgres') . " connect_timeout=5 options='$options'";
		# the pause is this client's own before it connects again
		$client{$name} = IPC::Run::start([ 'bash', '-c',
			'while [ -e "$1/go" ]; do psql -XAtq -d "$3" -f "$1/$2.sql" >>"$1/$2.acked" 2>>"$1/$2.errors" || sleep 0.1; done',
			'client', $dir, $name, $connect ]);
	}
}

sub client_line
{
	my ($name, $hot) = @_;
	return "WITH h AS (UPDATE hot SET n = n + 1, node = '$name' WHERE id = $hot)," .
		" k AS (INSERT INTO keyed VALUES (gen_random_uuid(), '$name'))" .
		" INSERT INTO acked VALUES (gen_random_uuid(), '$name') RETURNING id;\n";
}

sub stop_clients
{
	unlink "$dir/go";
	$client{$_}->finish foreach @nodes;
}

# Ids that were acknowledged by now.
sub acknowledged
{
	return map { grep { length == 36 } split /\n/, slurp_file("$dir/$_.acked") } @nodes;
}

# Wait until the clients of all nodes have committed more.
sub progress
{
	foreach my $name (@nodes)
	{
		$g->up($name);
		my $n = $g->sql($name, "SELECT count(*) FROM acked WHERE node = '$name'");
		$g->eventually($name, "SELECT count(*) > $n + 20 FROM acked WHERE node = '$name'")
			or die "no progress on $name";
	}
}

sub kill_one
{
	my ($name, $kind) = @_;
	my $node = $g->node($name);
	my $offset = -s $node->logfile;
	my $pid = $g->pid($name, $kind);

	kill 9, $pid;
	$node->wait_for_log(qr/\(PID $pid\) was terminated by signal 9/, $offset);
	note("killed $kind of $name");
}

sub kill_postmaster
{
	my ($name) = @_;
	$g->kill_postmaster($name) or die "processes of $name outlive its postmaster";
	$g->node($name)->start;
	note("killed the postmaster of $name");
}

# How many of these ids are lacking on a node.
sub lacking
{
	my ($name, @ids) = @_;
	my %there = map { $_ => 1 } split /\n/, $g->sql($name, 'SELECT id FROM acked');
	return scalar grep { !$there{$_} } @ids;
}

# Tests after a round, once all have everything.
sub check
{
	my ($what, $may_lose, @ids) = @_;
	my %lost;

	$g->up($_) foreach @nodes;
	$g->sync;
	foreach my $name (@nodes)
	{
		$lost{$name} = lacking($name, @ids);
		is($lost{$name}, 0, "$what: all that was acknowledged is on $name") unless $may_lose;
		is($g->sql($name, 'SELECT count(*) - count(DISTINCT id) FROM acked'), 0, "$what: nothing is twice on $name");
	}
	return $lost{a};
}

# clients end with the test, however it ends
END
{
	unlink "$dir/go" if $dir;
}

start_clients('');
progress();
foreach my $round (1 .. $rounds)
{
	my @order = shuffle(@nodes);
	my $n = 0;
	foreach my $kind (shuffle('capture', 'gossip', 'apply', 'exchange', 'launcher', 'postmaster'))
	{
		my $name = $order[ $n++ % @order ];
		$kind eq 'postmaster' ? kill_postmaster($name) : kill_one($name, $kind);
		# now and then the next comes while the others recover
		progress() if $n % 2 == 0;
	}
	check("round $round", 0, acknowledged());
}
stop_clients();
my @ids = acknowledged();
check('at the end', 0, @ids);
$g->same($_) foreach ('acked', 'keyed', 'hot');
is($g->sql('a', 'SELECT (SELECT count(*) FROM keyed) - (SELECT count(*) FROM acked)'), 0,
	'each transaction is there as a whole');
note("figure kill: $rounds rounds of 6 kills, " . @ids . " acknowledged transactions, 0 lost, 0 repeated")
	if Test::More->builder->is_passing;

foreach my $commit ('on', 'off')
{
	my $what = "immediate stop of all nodes, synchronous_commit $commit";

	start_clients("-c synchronous_commit=$commit");
	progress();
	my @running = map { $g->node($_)->data_dir } @nodes;
	my @stops = map { IPC::Run::start([ 'pg_ctl', '-D', $_, '-m', 'immediate', 'stop' ], '>', \my $out) } @running;
	$_->finish foreach @stops;
	$g->node($_)->_update_pid(0) foreach @nodes;
	$g->node($_)->start foreach @nodes;
	progress();
	stop_clients();
	my $lost = check($what, $commit eq 'off', acknowledged());
	$g->same($_, "$what: $_ is the same on all nodes") foreach ('acked', 'keyed', 'hot');
	note("figure $what: " . acknowledged() . " acknowledged in all, $lost lost" . ($commit eq 'off' ? ' (allowed)' : ''));
}

is($g->sql('a', "SELECT count(*) FROM replp2p.health() WHERE status = 'CRITICAL'"), 0, 'nothing is critical afterwards');
$g->stop;
done_testing();
