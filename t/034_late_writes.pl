# What a node commits after it has left stays on it. Its clients may go on
# writing while it waits for the others to fetch its last changes; capture (stopped, so
# that all of it comes in one batch) publishes that together with the leave.
#   - no other member applies it, though all of them store it;
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
kill 'STOP', $pid;
$g->sql('c', "INSERT INTO t VALUES (2, 'the last')");
$g->sql('c', 'SELECT replp2p.leave_group()');
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
	'1 as a member, 2 the last, 4 without c', "$_ has nothing that came after the leave") foreach 'a', 'b';

$g->add_cluster('d');
$g->join('d', 'b');
$g->sync;
$g->same('t', 'a node that joins later is like the others');
$g->stop;
done_testing();
