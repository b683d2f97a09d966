# Two halves that are cut from one another each take a node in, and the nodes that did so
# then leave: c was admitted by a, d by b, and when all of a and b is said that they know,
# nobody else could tell c of d. Both have paused the other half, so that they
# store of each other what they have not read.
#   - neither leaves before it has read that, and the other one's joiner knows it, too;
#   - when both are gone c and d go on as one group, equal.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Replp2p;

my $g = Replp2p->group([ 'a', 'b' ], schema => 'CREATE TABLE t (id int PRIMARY KEY, v text)');
my %other = (a => 'b', b => 'a');
my %joiner = (a => 'c', b => 'd');

$g->sql($_, "INSERT INTO t VALUES (ascii('$_'), '$_')") foreach 'a', 'b';
$g->sync;
$g->sql($_, "SELECT replp2p.pause_apply('$other{$_}')") foreach 'a', 'b';
$g->set($_, 'replp2p.unreachable_peers', "$other{$_}, $joiner{$other{$_}}") foreach 'a', 'b';
foreach my $name ('a', 'b')
{
	$g->add_cluster($joiner{$name}, conf => "replp2p.unreachable_peers = '$other{$name}'\n");
	$g->join($joiner{$name}, $name);
}
is($g->sql($_, 'SELECT count(*) FROM replp2p.stat_members'), 3, "$_ does not know who joined by $other{$_}") foreach 'a', 'b';

$g->sql($_, 'SELECT replp2p.leave_group()') foreach 'a', 'b';
$g->set($_, 'replp2p.unreachable_peers', undef) foreach $g->names;
$g->node($_)->append_conf('postgresql.conf', "replp2p.unreachable_peers = ''\n") foreach 'c', 'd';
$g->node($_)->reload foreach 'c', 'd';
foreach my $name ('a', 'b')
{
	my $stored = "SELECT stored_seq FROM replp2p.stat_log WHERE origin = '$other{$name}'";
	my $all = $g->sql($other{$name}, "SELECT stored_seq FROM replp2p.stat_log WHERE origin = '$other{$name}'");
	ok($g->eventually($name, "SELECT ($stored) >= $all"), "$name stores what $other{$name} has");
}
my %stored_at = map { $_ => $g->sql($_, 'SELECT clock_timestamp()') } 'a', 'b';
ok($g->eventually($_, "SELECT last_seen > '$stored_at{$_}'::timestamptz + interval '2 s' FROM replp2p.stat_members WHERE node_name = '$other{$_}'"),
	"$_ stays, also when it has heard of $other{$_} for a while: it has not read that") foreach 'a', 'b';
$g->sql($_, 'SELECT replp2p.resume_apply()') foreach 'a', 'b';
ok($g->eventually($_, 'SELECT count(*) = 0 FROM replp2p.stat_members'), "$_ goes") foreach 'a', 'b';

@{ $g->{names} } = ('c', 'd');
ok($g->eventually($_, "SELECT string_agg(node_name || ' ' || state, ', ' ORDER BY node_name) = 'a left, b left, c active, d active' FROM replp2p.stat_members"),
	"$_ knows who is left") or diag($g->sql($_, 'TABLE replp2p.stat_members')) foreach 'c', 'd';
$g->sql($_, "INSERT INTO t VALUES (ascii('$_') + 100, '$_ goes on')") foreach 'c', 'd';
$g->sync;
$g->same('t', 'c and d are one group');
is($g->sql('c', 'SELECT count(*) FROM t'), 4, 'with all that was written');
$g->stop;
done_testing();
