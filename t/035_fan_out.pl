# Six nodes: three ask an origin for its changes, the others a relay between.
#
# A relay that is cut off is left at once for the origin, and asked again when
# the link is healed. One that hangs (its gossip worker is stopped: it goes on
# answering, and has nothing new) is found out by what the origin says of
# itself, and nobody waits for it any longer.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Replp2p;

use constant FANOUT => 3;		# P2P_FANOUT

my @names = ('a' .. 'f');
my $g = Replp2p->group(\@names, schema => 'CREATE TABLE t (id int PRIMARY KEY, v text)');

# Whom each other node asks for the changes of an origin.
sub sources
{
	my ($origin) = @_;
	return map { $_ => $g->sql($_, "SELECT source FROM replp2p.stat_lag WHERE origin = '$origin'") }
		grep { $_ ne $origin } @names;
}

sub source_is
{
	my ($name, $origin, $source, $what) = @_;
	return ok($g->eventually($name, "SELECT source FROM replp2p.stat_lag WHERE origin = '$origin'", $source),
		"$what: $name asks $source for the changes of $origin");
}

# Do some ask the origin, as many as the fan-out says, and the others one of these?
sub is_a_tree
{
	my ($origin) = @_;
	my %source = sources($origin);
	my @direct = grep { $source{$_} eq $origin } keys %source;
	return @direct == FANOUT &&
		!grep { my $relay = $source{$_}; $relay ne $origin && !grep { $_ eq $relay } @direct } keys %source;
}

# Write a row on each node, and wait until these have them all.
my $id = 0;
sub rows_reach
{
	my ($what, @receivers) = @_;
	my @tokens;

	foreach my $name (@names)
	{
		$id++;
		$g->sql($name, "INSERT INTO t VALUES ($id, '$name')");
		push @tokens, $g->sql($name, 'SELECT replp2p.current_token()');
	}
	foreach my $receiver (@receivers)
	{
		$g->sql($receiver, "SELECT replp2p.wait_for_token('$_', '3 minutes')") foreach @tokens;
		is($g->sql($receiver, 'SELECT count(*) FROM t'), $id, "$what: $receiver has all rows");
	}
}

ok($g->wait_until(sub { !grep { !is_a_tree($_) } @names }),
	'each origin is asked by three, the others ask one of these');
rows_reach('over relays', @names);

my %source = sources('a');
my ($child) = sort grep { $source{$_} ne 'a' } keys %source;
my $relay = $source{$child};

# The link to the relay is cut, and healed.
$g->set($child, 'replp2p.unreachable_peers', $relay);
source_is($child, 'a', 'a', 'cut off from its relay');
rows_reach('cut off from a relay', grep { $_ ne $relay } @names);
$g->set($child, 'replp2p.unreachable_peers', undef);
source_is($child, 'a', $relay, 'healed');
rows_reach('healed', @names);

# The relay hangs.
my $pid = $g->pid($relay, 'gossip');
my @others = grep { $_ ne $relay } @names;

kill 'STOP', $pid;
rows_reach("while $relay hangs", @others);
source_is($child, 'a', 'a', "while $relay hangs");
kill 'CONT', $pid;
rows_reach("$relay is back", @names);
$g->same('t');

$g->stop;
done_testing();
