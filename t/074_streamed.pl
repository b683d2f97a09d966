# One PULL, many replies: while changes come one by one, a peer need not ask for each of them. Who may not be told
# any more is told nothing from the next reply on, though his PULL is still open; and when the backend that
# answers dies, the next PULL goes on behind what had come.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Replp2p;

my $CHANGES = 100;

my $g = Replp2p->group([ 'a', 'b' ], schema => 'CREATE TABLE t (id int PRIMARY KEY, v text)');
my $id = 0;

# Insert a row on a; its id and a token for it.
sub change
{
	$id++;
	$g->sql('a', "INSERT INTO t VALUES ($id, 'of a')");
	return ($id, $g->sql('a', 'SELECT replp2p.current_token()'));
}

sub arrives
{
	my ($token) = @_;
	return eval { $g->sql('b', "SELECT replp2p.wait_for_token('$token', '3 minutes')"); 1 };
}

# A PULL of b's is open for a minute at a, and nothing else is said: whatever comes now is not a new question's.
$g->set('b', 'replp2p.gossip_interval', '10min');
$g->set('b', 'replp2p.poll_timeout', '10min');
ok($g->eventually('a', <<'SQL'), 'the peer waits in one statement');
SELECT bool_or(state = 'active' AND query_start < clock_timestamp() - interval '5 s')
FROM pg_stat_activity WHERE application_name = 'replp2p b'
SQL

# The statements in which a answers, one after the other: a new one begins with each question.
my %statements;
my $arrived = 0;
foreach (1 .. $CHANGES)
{
	my (undef, $token) = change();
	$arrived++ if arrives($token);
	$statements{$_}++ foreach split ' ', $g->sql('a', <<'SQL');
SELECT string_agg(pid || '.' || extract(epoch FROM query_start), ' ')
FROM pg_stat_activity WHERE application_name = 'replp2p b' AND state = 'active'
SQL
}
is($arrived, $CHANGES, 'changes that come one by one arrive');
my $asked = keys %statements;
ok($asked > 0 && $asked < $CHANGES / 2, 'and few of them were asked for');
Replp2p::figure("$CHANGES changes one by one: asked for them $asked times");

# a cuts the link: its own gossip has read the setting, so the backend that serves b has been told of it, too
ok($g->eventually('a', <<'SQL'), 'a PULL is open');
SELECT bool_or(state = 'active') FROM pg_stat_activity WHERE application_name = 'replp2p b'
SQL
$g->set('a', 'replp2p.unreachable_peers', 'b');
ok($g->eventually('a', "SELECT cut AND NOT connected FROM replp2p.stat_links WHERE node_name = 'b'"), 'a cuts its link to b');
my ($hidden, $token) = change();
ok($g->eventually('b', "SELECT last_error LIKE '%cut%' FROM replp2p.stat_links WHERE node_name = 'a'"), 'b is told so');
is($g->sql('b', "SELECT count(*) FROM t WHERE id = $hidden"), 0, 'and nothing else, though its PULL was open');
$g->set('a', 'replp2p.unreachable_peers', undef);
$g->set('b', 'replp2p.gossip_interval', undef);
$g->set('b', 'replp2p.poll_timeout', undef);
ok(arrives($token), 'when the cut is healed it comes');

# the backend dies between two replies
foreach (1 .. 3)
{
	ok($g->eventually('a', <<'SQL'), 'a backend that answers is terminated');
SELECT bool_or(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'replp2p b' AND state = 'active'
SQL
	(undef, $token) = change();
	ok(arrives($token), 'and the next change arrives');
}
$g->sync;
$g->same('t', 'both nodes have the same');

done_testing();
