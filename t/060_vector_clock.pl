# vector_clock: what has seen its predecessor is applied silently; truly
# concurrent versions are all kept and shown by the view siblings, the greatest
# is the row, and a later write that has seen them covers them.
#
# Concurrency is made by pausing apply on all nodes while each writes. The
# lines of siblings must be the same on every node, whatever came first, also
# after a restart in the middle, and on a node that joins while rows are contested.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Replp2p;

my $g = Replp2p->group([ 'a', 'b', 'c' ], schema => <<'SQL');
CREATE TABLE t (id int PRIMARY KEY, v text, big text);
ALTER TABLE t ALTER big SET STORAGE EXTERNAL;
CREATE TABLE plain (id int PRIMARY KEY, v text);
SQL
$g->sql('a', "SELECT replp2p.set_conflict_handler('t', 'vector_clock')");
$g->sync;

my $id = 0;

# A row that everybody has.
sub start
{
	$id++;
	$g->sql('a', "INSERT INTO t VALUES ($id, 'start', repeat('z', 5000))");
	$g->sync;
	$g->sql_all('DELETE FROM replp2p.conflict_history');
}

# Each [node, SQL] in turn, none seeing another.
sub cross
{
	$g->sync;
	$g->sql_all('SELECT replp2p.pause_apply()');
	$g->sql(@$_) foreach @_;
	$g->sql_all('SELECT replp2p.resume_apply()');
	$g->sync;
}

# What siblings says of the current row, ascending: origin, value, + for the winner.
my $siblings = "SELECT coalesce(string_agg(origin || ':' || coalesce(\"row\" ->> 'v', kind) || CASE WHEN is_winner THEN '+' ELSE '' END, ' ' ORDER BY stamp), '') FROM replp2p.siblings WHERE relation = 't'::regclass AND key = jsonb_build_object('id', ID)";

sub siblings_are
{
	my ($expected, $what) = @_;
	(my $query = $siblings) =~ s/\bID\b/$id/;
	foreach my $name ($g->names)
	{
		# a local write covers siblings as soon as apply has read it from the own log
		ok($g->eventually($name, $query, $expected), "$what: siblings on $name")
		  or diag($g->sql($name, $query));
	}
	return;
}

sub row { return $g->sql('b', "SELECT v FROM t WHERE id = $id") }

subtest 'three concurrent updates' => sub {
	start();
	cross([ 'b', "UPDATE t SET v = 'one' WHERE id = $id" ],
		[ 'c', "UPDATE t SET v = 'two' WHERE id = $id" ],
		[ 'a', "UPDATE t SET v = 'three' WHERE id = $id" ]);
	$g->same('t');
	is(row(), 'three', 'the greatest is the row');
	siblings_are('b:one c:two a:three+', 'all three are kept');
	is($g->sql('c', "SELECT count(*) FROM replp2p.siblings WHERE length(\"row\" ->> 'big') = 5000 AND (key ->> 'id')::int = $id"),
		3, 'each with its out-of-line value, though none wrote it');
	is($g->sql('c', "SELECT string_agg(DISTINCT conflict_type || ' ' || relationship, ',') FROM replp2p.conflicts"),
		'update_origin_differs concurrent', 'they are conflicts');

	$g->sql('b', "UPDATE t SET v = 'settled' WHERE id = $id");
	$g->sync;
	$g->same('t');
	siblings_are('', 'a later write that has seen them covers them');
};

subtest 'one version covers some' => sub {
	start();
	$g->sync;
	$g->sql_all('SELECT replp2p.pause_apply()');
	$g->sql('a', "UPDATE t SET v = 'seen' WHERE id = $id");
	$g->sql('b', "UPDATE t SET v = 'unseen' WHERE id = $id");
	$g->sql('c', "SELECT replp2p.resume_apply('a')");
	ok($g->eventually('c', "SELECT v = 'seen' FROM t WHERE id = $id"), 'c sees one of the two');
	$g->sql('c', "UPDATE t SET v = v || ' by c' WHERE id = $id");
	$g->sql_all('SELECT replp2p.resume_apply()');
	$g->sync;
	$g->same('t');
	is(row(), 'seen by c', 'the last is the row');
	siblings_are('b:unseen c:seen by c+', 'what it has not seen stays beside it');
};

subtest 'deletes are versions, too' => sub {
	start();
	cross([ 'a', "UPDATE t SET v = 'update' WHERE id = $id" ], [ 'b', "DELETE FROM t WHERE id = $id" ]);
	$g->same('t');
	is(row(), '', 'a delete that is later stands');
	siblings_are('a:update b:delete+', 'the update that lost is kept');
	$g->sql('c', "INSERT INTO t VALUES ($id, 'again')");
	$g->sync;
	siblings_are('', 'an insert that has seen both covers them');

	start();
	cross([ 'a', "DELETE FROM t WHERE id = $id" ], [ 'b', "UPDATE t SET v = 'update' WHERE id = $id" ]);
	$g->same('t');
	is(row(), 'update', 'a later update survives a delete');
	siblings_are('a:delete b:update+', 'the delete that lost is shown');

	start();
	cross([ 'a', "DELETE FROM t WHERE id = $id" ], [ 'b', "DELETE FROM t WHERE id = $id" ]);
	siblings_are('', 'of two deletes nothing is to be chosen');

	start();
	cross([ 'a', 'TRUNCATE t' ], [ 'c', "UPDATE t SET v = 'later' WHERE id = $id" ]);
	$g->same('t');
	is($g->sql('b', 'SELECT string_agg(v, $$ $$) FROM t'), 'later', 'a TRUNCATE leaves what is later');
	siblings_are('a:delete c:later+', 'and is shown as a delete of that row');
	is($g->sql('b', "SELECT count(*) FROM replp2p.siblings WHERE (key ->> 'id')::int <> $id"), 0,
		'what it has covered is not');
};

subtest 'no conflict where there is none' => sub {
	start();
	foreach my $round (1 .. 3)
	{
		foreach my $name ($g->names)
		{
			$g->sql($name, "UPDATE t SET v = '$name$round' WHERE id = $id");
			$g->sync;
		}
	}
	$g->same('t');
	is(row(), 'c3', 'edits in turn');
	siblings_are('', 'edits in turn');
	is($g->sql($_, 'SELECT count(*) FROM replp2p.conflicts'), 0, "no conflict of it on $_") foreach $g->names;

	cross([ 'a', "INSERT INTO plain VALUES (1, 'a')" ], [ 'b', "INSERT INTO plain VALUES (1, 'b')" ]);
	$g->same('plain');
	is($g->sql('a', "SELECT count(*) FROM replp2p.siblings WHERE relation = 'plain'::regclass"), 0,
		'other tables have no siblings');
};

subtest 'who sees them' => sub {
	start();
	cross([ 'a', "UPDATE t SET v = 'one' WHERE id = $id" ], [ 'b', "UPDATE t SET v = 'two' WHERE id = $id" ]);
	my $count = "SELECT count(*) > 0 FROM replp2p.siblings";
	$g->sql('a', 'CREATE ROLE reader; CREATE ROLE stranger; GRANT SELECT ON t TO reader');
	is($g->sql('a', "SET ROLE reader; $count"), 't', 'who may read the table');
	is($g->sql('a', "SET ROLE stranger; $count"), 'f', 'nobody else');
	$g->sql('a', 'ALTER TABLE t ENABLE ROW LEVEL SECURITY');
	is($g->sql('a', "SET ROLE reader; $count"), 'f', 'nobody from whom row security would hide rows');
	$g->sql('a', 'ALTER TABLE t DISABLE ROW LEVEL SECURITY; DROP OWNED BY reader; DROP ROLE reader, stranger');
};

subtest 'a node may stop, and one may join, in the middle' => sub {
	start();
	$g->sql_all('SELECT replp2p.pause_apply()');
	$g->sql('b', "UPDATE t SET v = 'one' WHERE id = $id");
	$g->sql('c', "UPDATE t SET v = 'two' WHERE id = $id");
	$g->sql('a', "UPDATE t SET v = 'three' WHERE id = $id");
	$g->sql('a', "SELECT replp2p.resume_apply('b')");
	ok($g->eventually('a', "SELECT count(*) = 2 FROM replp2p.siblings WHERE (key ->> 'id')::int = $id"),
		'one of two has come');
	$g->node('a')->restart('immediate');
	$g->up('a');
	$g->node('c')->restart('fast');
	$g->up('c');
	$g->sql_all('SELECT replp2p.resume_apply()');
	$g->sync;
	$g->same('t', 'the same after restarts');
	siblings_are('b:one c:two a:three+', 'after restarts');

	$g->node($_)->restart('fast') foreach $g->names;
	$g->up($_) foreach $g->names;
	siblings_are('b:one c:two a:three+', 'after restarts of all');

	$g->add_cluster('d');
	$g->join('d', 'b');
	$g->sync;
	$g->same('t', 'a joiner has the same rows');
	siblings_are('b:one c:two a:three+', 'with a joiner');
	$g->sql('d', "UPDATE t SET v = 'settled' WHERE id = $id");
	$g->sync;
	siblings_are('', 'the joiner settles it');
};

subtest 'many siblings only warn' => sub {
	$g->set($_, 'replp2p.sibling_warning', 2) foreach $g->names;
	start();
	my $log = -s $g->node('d')->logfile;
	cross(map { [ $_, "UPDATE t SET v = '$_' WHERE id = $id" ] } $g->names);
	siblings_are('a:a b:b c:c d:d+', 'four');
	like(slurp_file($g->node('d')->logfile, $log), qr/WARNING: .*a row of table "t" has \d siblings/,
		'said in the log');
};

$g->stop;
done_testing();
