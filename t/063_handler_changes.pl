# Changes of conflict handlers travel in the stream: what one node sets is set on
# all, what two set at once comes to the same everywhere, and a node that joins
# later has it, too.
#
# (What the handlers do is the matter of other tests.)
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Replp2p;

my $g = Replp2p->group([ 'a', 'b' ], schema => <<'SQL');
CREATE TABLE t (id int PRIMARY KEY, v text, hits bigint NOT NULL DEFAULT 0, top int NOT NULL DEFAULT 0);
CREATE TABLE u (id int PRIMARY KEY, n int NOT NULL DEFAULT 0);
CREATE FUNCTION f(older t, newer t, replp2p.conflict) RETURNS t LANGUAGE sql IMMUTABLE AS 'SELECT newer';
SQL

# What holds for a table on a node, by its view.
sub holds
{
	my ($name, $table) = @_;
	return $g->sql($name, "SELECT concat_ws(' ', handler, handler_function, merges)
		FROM replp2p.tables WHERE relation = '$table'::regclass");
}

# Set on one node, in force on both.
is(holds('a', 't'), 'last_writer_wins', 'the default');
$g->sql('a', "SELECT replp2p.set_conflict_handler('t', 'vector_clock')");
is(holds('a', 't'), 'vector_clock', 'set here');
$g->sync;
is(holds('b', 't'), 'vector_clock', 'set there');
$g->sql('b', "SELECT replp2p.set_conflict_handler('t', 'custom', 'f(t, t, replp2p.conflict)')");
$g->sql('b', "SELECT replp2p.set_column_merge('t', 'hits', 'counter')");
$g->sync;
is(holds($_, 't'), 'custom public.f {"hits": "counter"}', "a function and a counter on $_") foreach ('a', 'b');
is($g->sql($_, "SELECT relreplident FROM pg_class WHERE oid = 't'::regclass"), 'f',
	"old values are logged on $_") foreach ('a', 'b');

$g->stop;
done_testing();
