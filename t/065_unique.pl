use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Replp2p;

my $g = Replp2p->group([ 'a', 'b', 'c' ], schema => <<'SQL');
CREATE TABLE t (id int PRIMARY KEY, u int UNIQUE, w int, v text);
SQL
$g->sql_all("SELECT replp2p.pause_apply()");
$g->sql('a', "INSERT INTO t VALUES (1, 100, 1, 'a')");
$g->sql('b', "INSERT INTO t VALUES (2, 100, 1, 'b')");
$g->sql('c', "INSERT INTO t VALUES (3, 100, 1, 'c')");
$g->sql_all("SELECT replp2p.resume_apply()");
$g->sync;
foreach ('a','b','c') { diag $g->sql($_, "SELECT * FROM t"); diag $g->sql($_, "SELECT * FROM replp2p.displaced"); }
diag $g->sql('a', "DELETE FROM t");
$g->sync;
$g->eventually($_, "SELECT count(*) = 1 FROM t") foreach ('a', 'b', 'c');
foreach ('a','b','c') { diag $g->sql($_, "SELECT * FROM t"); diag $g->sql($_, "SELECT * FROM replp2p.displaced"); }
diag $g->sql('a', "select * from replp2p.conflicts");
$g->stop;
done_testing();
