# What a node commits after it has left stays on it. It says that it leaves when all others
# have applied what it had; a, stopped, keeps it from that. Its clients may go on
# writing while it waits for the others to fetch its last changes; capture (stopped, so
# that all of it comes in one batch) publishes that together with the leave.
#   - what it commits before it says that it leaves all have;
#   - no other member applies what it commits then, though all of them store it;
#   - they go on, equal, and a node that joins afterwards gets ready.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Replp2p;

my $g = Replp2p->group([ 'a', 'b', 'c' ], schema => 'CREATE TABLE t (id int PRIMARY KEY, v text)');
$g->sql('c', "INSERT INTO t VALUES (1, 'as a member')");
$g->sync;

my $pid = $g->sql('c', 'SELECT pid FROM replp2p.stat_capture');
my $slow = $g->sql('a', "SELECT pid FROM pg_stat_activity WHERE backend_type = 'replp2p gossip'");
my $log = -s $g->node('c')->logfile;
kill 'STOP', $slow;
$g->sql('c', "INSERT INTO t VALUES (2, 'the last')");
$g->sql('c', 'SELECT replp2p.leave_group()');
$g->node('c')->wait_for_log(qr/this node is leaving its replp2p group/, $log);
$g->sql('c', "INSERT INTO t VALUES (5, 'while it waits')");
ok($g->eventually('b', 'SELECT count(*) = 1 FROM t WHERE id = 5'), 'a node that wants to leave goes on as a member');
is($g->sql('c', "SELECT count(*) FROM replp2p.membership WHERE change = 'l'"), 0, 'and has not said that it leaves: a lacks what it had');
kill 'STOP', $pid;
kill 'CONT', $slow;
ok($g->eventually('c', "SELECT count(*) = 1 FROM replp2p.membership WHERE change = 'l'"), 'when all have that, it says so');
$g->sql('c', "INSERT INTO t VALUES (3, 'after it left'); UPDATE t SET v = 'changed after it left' WHERE id = 1");
kill 'CONT', $pid;
ok($g->eventually('c', 'SELECT count(*) = 0 FROM replp2p.stat_members'), 'c goes');

@{ $g->{names} } = ('a', 'b');
ok($g->eventually($_, "SELECT state = 'left' FROM replp2p.stat_members WHERE node_name = 'c'"), "$_ has applied the leave")
	foreach 'a', 'b';
cmp_ok($g->sql('a', "SELECT l.stored_seq - m.left_seq FROM replp2p.stat_log l JOIN replp2p.stat_members m ON m.node_name = l.origin WHERE l.origin = 'c'"),
	'>', 0, 'more than the leave is stored') or diag($g->sql('a', 'TABLE replp2p.stat_log'));

$g->sql('a', "INSERT INTO t VALUES (4, 'without c')");
$g->sync;
is($g->sql($_, "SELECT string_agg(id || ' ' || v, ', ' ORDER BY id) FROM t"),
	'1 as a member, 2 the last, 4 without c, 5 while it waits', "$_ has nothing that came after the leave") foreach 'a', 'b';

$g->add_cluster('d');
$g->join('d', 'b');
$g->sync;
$g->same('t', 'a node that joins later is like the others');
$g->stop;
done_testing();
