# Changes of conflict handlers travel in the stream: what one node sets holds on
# all, what two set at once comes to the same everywhere, conflicts across a
# change are judged alike, and a node that joins later, or starts anew, has it, too.
#
# (What the handlers themselves do is the matter of other tests.)
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Replp2p;

my $g = Replp2p->group([ 'a', 'b' ], schema => <<'SQL');
CREATE SCHEMA "Odd name";
CREATE TABLE t (id int PRIMARY KEY, v text, hits bigint NOT NULL DEFAULT 0, top int NOT NULL DEFAULT 0);
CREATE TABLE "Odd name"."t.""1" (id int PRIMARY KEY, v text);
CREATE TABLE old_rules (id int PRIMARY KEY, v text);
CREATE TABLE counted (id int PRIMARY KEY, n int NOT NULL);
CREATE FUNCTION f_both(older t, newer t, replp2p.conflict) RETURNS t LANGUAGE sql IMMUTABLE
	RETURN ROW(newer.id, older.v || '+' || newer.v, newer.hits, newer.top)::t;
CREATE FUNCTION "Odd name"."f.2"(older "Odd name"."t.""1", newer "Odd name"."t.""1", replp2p.conflict)
	RETURNS "Odd name"."t.""1" LANGUAGE sql IMMUTABLE AS 'SELECT older';
SQL

# What holds for a table on a node, by its view.
sub holds
{
	my ($name, $table) = @_;
	return $g->sql($name, "SELECT concat_ws(' ', handler, handler_function, merges)
		FROM replp2p.tables WHERE relation = '$table'::regclass");
}

# Run SQL on each node without their seeing one another's, in the order given; then let it cross.
sub cross
{
	my (@steps) = @_;
	$g->sync;
	$g->sql_all('SELECT replp2p.pause_apply()');
	$g->sql(@$_) foreach @steps;
	$g->sql_all('SELECT replp2p.resume_apply()');
	$g->sync;
}

# Is this row the same, and so, on all nodes?
sub row_is
{
	my ($table, $id, $expected, $what) = @_;
	$g->same($table, $what);
	is($g->sql($_, "SELECT r FROM $table r WHERE id = $id"), "($expected)", "$what: on $_")
		foreach @{ $g->{names} };
}

# Have all nodes found out that nothing is unsettled?
sub settled
{
	my ($what) = @_;
	foreach my $name (@{ $g->{names} })
	{
		ok($g->eventually($name, 'SELECT count(*) = 0 FROM replp2p.table_handlers WHERE NOT settled'),
			"$what: settled on $name");
	}
}

# One after the other.
is(holds('a', 't'), 'last_writer_wins', 'the default');
$g->sql('a', "SELECT replp2p.set_conflict_handler('t', 'vector_clock')");
is(holds('a', 't'), 'vector_clock', 'set here');
$g->sync;
is(holds('b', 't'), 'vector_clock', 'set there');
$g->sql('b', "SELECT replp2p.set_conflict_handler('t', 'custom', 'f_both(t, t, replp2p.conflict)')");
$g->sql('b', "SELECT replp2p.set_column_merge('t', 'hits', 'max')");
$g->sql('b', <<'SQL');
SELECT replp2p.set_conflict_handler('"Odd name"."t.""1"', 'custom', '"Odd name"."f.2"("Odd name"."t.""1", "Odd name"."t.""1", replp2p.conflict)')
SQL
$g->sync;
is(holds($_, 't'), 'custom public.f_both {"hits": "max"}', "a function and a merge on $_") foreach ('a', 'b');
is(holds($_, '"Odd name"."t.""1"'), 'custom "Odd name"."f.2"', "odd names on $_") foreach ('a', 'b');
settled('in turn');
is($g->sql('a', 'SELECT string_agg(serial::text, $$,$$) FROM replp2p.table_handlers WHERE setting = $$vector_clock$$'), '',
	'what was superseded is forgotten');

# At once: the later change holds, wherever it came first.
cross([ 'b', "SELECT replp2p.set_conflict_handler('t', 'last_writer_wins')" ],
	[ 'a', "SELECT replp2p.set_conflict_handler('t', 'vector_clock')" ]);
is(holds($_, 't'), 'vector_clock {"hits": "max"}', "the later of two handlers on $_") foreach ('a', 'b');
cross([ 'a', "SELECT replp2p.set_column_merge('t', 'top', 'max')" ],
	[ 'b', "SELECT replp2p.set_column_merge('t', 'top', 'min')" ]);
is(holds($_, 't'), 'vector_clock {"top": "min", "hits": "max"}', "the later of two merges on $_") foreach ('a', 'b');
is($g->sql('b', 'SELECT count(*) FROM replp2p.failed_changes'), 0, 'nothing failed')
	if $g->sql('b', "SELECT to_regclass('replp2p.failed_changes') IS NOT NULL") eq 't';

# Conflicts across a change: who has seen it beats who has not, whatever the stamps.
$g->sql('a', "INSERT INTO old_rules VALUES (1, 'start'), (2, 'start'), (3, 'start')");
cross([ 'a', "SELECT replp2p.set_conflict_handler('old_rules', 'vector_clock')" ],
	[ 'a', "UPDATE old_rules SET v = 'new rule' WHERE id = 1" ],
	[ 'b', "UPDATE old_rules SET v = 'old rule, later' WHERE id = 1" ],
	[ 'b', "UPDATE old_rules SET v = 'old rule, nobody else' WHERE id = 2" ]);
row_is('old_rules', 1, '1,"new rule"', 'the newer rule beats the later stamp');
row_is('old_rules', 2, '2,"old rule, nobody else"', 'no conflict, no rule');

# The transaction of the change itself has not seen it.
cross([ 'b', <<'SQL' ], [ 'a', "UPDATE old_rules SET v = 'later' WHERE id = 3" ]);
BEGIN;
UPDATE old_rules SET v = 'before' WHERE id = 3;
SELECT replp2p.set_conflict_handler('old_rules', 'last_writer_wins');
UPDATE old_rules SET v = 'after' WHERE id = 3;
COMMIT;
SQL
row_is('old_rules', 3, '3,later', 'the later of two versions that have not seen the change');

# Likewise counters: what has not seen the change sets, and the count restarts there; what has seen it adds.
$g->sql('a', 'INSERT INTO counted VALUES (1, 100), (2, 100)');
cross([ 'a', "SELECT replp2p.set_column_merge('counted', 'n', 'counter')" ],
	[ 'a', 'UPDATE counted SET n = n + 1' ],
	[ 'b', 'UPDATE counted SET n = n + 10 WHERE id = 1' ]);
is($g->sql($_, "SELECT relreplident FROM pg_class WHERE oid = 'counted'::regclass"), 'f',
	"old values are logged on $_") foreach ('a', 'b');
row_is('counted', 1, '1,110', 'the count restarts at what is set');
row_is('counted', 2, '2,101', 'an addition alone');
cross([ 'a', 'UPDATE counted SET n = n + 1' ], [ 'b', 'UPDATE counted SET n = n + 10' ]);
row_is('counted', 1, '1,121', 'two additions');
row_is('counted', 2, '2,112', 'two additions');
settled('across');

# A function that is missing here: the change is kept; a conflict waits for it.
$g->sql('b', 'DROP FUNCTION f_both');
$g->sql('a', "SELECT replp2p.set_conflict_handler('t', 'custom', 'f_both(t, t, replp2p.conflict)')");
$g->sql('a', "INSERT INTO t VALUES (1, 'start')");
$g->sync;
is(holds('b', 't'), holds('a', 't'), 'a change is kept though its function is not there');
$g->sql_all('SELECT replp2p.pause_apply()');
$g->sql('a', "UPDATE t SET v = 'x' WHERE id = 1");
$g->sql('b', "UPDATE t SET v = 'y' WHERE id = 1");
$g->sql_all('SELECT replp2p.resume_apply()');
ok($g->eventually('b', "SELECT last_error ~ 'public.f_both' FROM replp2p.stat_lag WHERE origin = 'a'"),
	'a conflict that needs it waits, and says so');
$g->sql('b', <<'SQL');
CREATE FUNCTION f_both(older t, newer t, replp2p.conflict) RETURNS t LANGUAGE sql IMMUTABLE
	RETURN ROW(newer.id, older.v || '+' || newer.v, newer.hits, newer.top)::t
SQL
$g->sync;
row_is('t', 1, '1,x+y,0,0', 'it goes on once the function is there');

# A table that is missing here.
$g->sql('a', 'CREATE TABLE late (id int PRIMARY KEY, n int NOT NULL)');
$g->sql('a', "SELECT replp2p.set_column_merge('late', 'n', 'counter')");
$g->sync;
$g->sql('b', 'CREATE TABLE late (id int PRIMARY KEY, n int NOT NULL)');
is(holds('b', 'late'), 'last_writer_wins {"n": "counter"}', 'a change waits for its table');
ok($g->eventually('b', "SELECT relreplident = 'f' FROM pg_class WHERE oid = 'late'::regclass"),
	'which then logs old values');
$g->sql('a', 'INSERT INTO late VALUES (1, 0)');
cross([ 'a', 'UPDATE late SET n = n + 1' ], [ 'b', 'UPDATE late SET n = n + 1' ]);
row_is('late', 1, '1,2', 'and counts');

# A joiner has what its sponsor has, unsettled changes among it; an old name is the table's of now.
$g->sql_all('ALTER TABLE late RENAME TO lately');
$g->sql('a', "SELECT replp2p.set_conflict_handler('lately', 'vector_clock')");
my $what = "SELECT string_agg(concat_ws(' ', relation::regclass, column_number, setting, function_name, encode(author_id, 'hex'),
	serial, seq, stamp), '; ' ORDER BY author_id, serial) FROM replp2p.table_handlers h
	WHERE NOT EXISTS (SELECT FROM replp2p.table_handlers n WHERE n.relation = h.relation AND n.column_number = h.column_number AND n.stamp > h.stamp)";
$g->add_cluster('c');
$g->join('c', 'a');
$g->sync;
settled('joined');
is($g->sql($_, $what), $g->sql('a', $what), "the same changes, with the same versions, on $_") foreach ('b', 'c');
is($g->sql('c', "SELECT string_agg(relname, ',' ORDER BY relname) FROM pg_class WHERE relreplident = 'f' AND relnamespace = 'public'::regnamespace"),
	'counted,lately', 'a joiner logs old values where they are wanted');
cross(map { [ $_, 'UPDATE counted SET n = n + 1; UPDATE lately SET n = n + 1' ] } ('a', 'b', 'c'));
row_is('counted', 1, '1,124', 'a joiner counts, too');
row_is('lately', 1, '1,5', 'also under the new name');

# All of it survives a restart.
$g->node('b')->restart;
$g->up('b');
is($g->sql('b', $what), $g->sql('a', $what), 'the same after a restart');
cross(map { [ $_, 'UPDATE counted SET n = n + 1' ] } ('c', 'b', 'a'));
row_is('counted', 1, '1,127', 'and in force');

# Back to the default: settled, and no more tracked; what comes then is judged as ever.
$g->sql('c', "SELECT replp2p.set_column_merge('counted', 'n', 'none')");
cross([ 'a', 'UPDATE counted SET n = 1' ], [ 'b', 'UPDATE counted SET n = 2' ], [ 'c', 'UPDATE counted SET n = 3' ]);
row_is('counted', 1, '1,3', 'the last writer wins again');
settled('back');
cross([ 'c', 'UPDATE counted SET n = 4' ], [ 'b', 'UPDATE counted SET n = 5' ], [ 'a', 'UPDATE counted SET n = 6' ]);
row_is('counted', 1, '1,6', 'also when that is settled');

$g->stop;
done_testing();
