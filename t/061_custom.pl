# A custom handler: f is folded over the whole set of concurrent versions in the
# order of their stamps, so that any deterministic function converges, whatever came
# first. The one here is neither commutative nor associative, and tells what it
# was told. Then what happens when f has no answer: an error of its own lets the
# winner stand on every node and is recorded; a time-out, or a function that is not
# there, chooses nothing: that origin waits, the others flow, and it goes on by itself.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Replp2p;

my $merge = <<'SQL';
CREATE OR REPLACE FUNCTION merge_t(older t, newer t, conflict replp2p.conflict) RETURNS t
LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
	result public.t := coalesce(newer, older);
BEGIN
	IF newer.v = 'gone' THEN
		RETURN NULL;
	ELSIF older.v = 'raise' OR newer.v = 'raise' THEN
		RAISE EXCEPTION 'no idea what to do with %', newer.v;
	ELSIF newer.v = 'key' THEN
		result.id := -1;
		RETURN result;
	END IF;
	result.v := '(' || coalesce(older.v, '-') || '>' || coalesce(newer.v, '-') || ')';
	result.f := coalesce(older.f, 0) / 3 + coalesce(newer.f, 0);
	result.told := conflict.relation || conflict.key || conflict.older_kind || conflict.newer_kind
		|| (conflict.older_stamp < conflict.newer_stamp) || conflict.newer_stamp
		|| (conflict.older_node = conflict.newer_node) || current_setting('search_path') || result.f;
	RETURN result;
END $$;
SQL

my $g = Replp2p->group([ 'a', 'b', 'c' ], conf => "max_prepared_transactions = 5\n", schema => <<"SQL");
CREATE TABLE t (id int PRIMARY KEY, v text, f float8 NOT NULL DEFAULT 1, told text, big text);
ALTER TABLE t ALTER big SET STORAGE EXTERNAL;
CREATE TABLE other (id int PRIMARY KEY, v text);
$merge
SQL
# what f must not depend on
$g->sql('a', "ALTER DATABASE postgres SET timezone = 'Asia/Tokyo'");
$g->sql('b', "ALTER DATABASE postgres SET extra_float_digits = -5");
$g->sql('c', "ALTER DATABASE postgres SET datestyle = 'German'");
$ENV{PGOPTIONS} = '-c extra_float_digits=1';	# of the test's own sessions, which compare
$g->sql('a', "SELECT replp2p.set_conflict_handler('t', 'custom', 'merge_t(t, t, replp2p.conflict)'::regprocedure)");
$g->sync;

my $id = 0;

sub start
{
	my ($n) = @_;
	foreach (1 .. $n // 1)
	{
		$id++;
		$g->sql('a', "INSERT INTO t VALUES ($id, 's', 1, NULL, repeat('z', 5000))");
	}
	$g->sync;
	$g->sql_all('DELETE FROM replp2p.conflict_history');
}

sub blind
{
	$g->sync;
	$g->sql_all('SELECT replp2p.pause_apply()');
	$g->sql(@$_) foreach @_;
}

sub cross
{
	blind(@_);
	$g->sql_all('SELECT replp2p.resume_apply()');
	$g->sync;
}

sub value { return $g->sql($_[0] // 'b', "SELECT v FROM t WHERE id = $id") }

sub stuck
{
	my ($name, $origin, $error, $what) = @_;
	return ok($g->eventually($name,
			"SELECT state = 'error' AND last_error ~ '$error' FROM replp2p.stat_lag WHERE origin = '$origin'"),
		$what);
}

subtest 'folded in the order of the stamps, in every order of arrival' => sub {
	my @orders = ([qw(a b c)], [qw(a c b)], [qw(b a c)], [qw(b c a)], [qw(c a b)], [qw(c b a)]);
	foreach my $order (@orders)
	{
		my ($x, $y, $z) = @$order;
		start();
		blind(map { [ $_, "UPDATE t SET v = '$_', f = 1.1 WHERE id = $id" ] } @$order);
		# on each node the greater of the two others first
		my %first = ($x => $z, $y => $z, $z => $y);
		foreach my $name (@$order)
		{
			$g->sql($name, "SELECT replp2p.resume_apply('$first{$name}')");
			ok($g->eventually($name, "SELECT v LIKE '(%' FROM t WHERE id = $id"), "$name has two of @$order");
		}
		$g->sql_all('SELECT replp2p.resume_apply()');
		$g->sync;
		is(value($_), "(($x>$y)>$z)", "@$order on $_") foreach $g->names;
		$g->same('t', "@$order: the same everywhere, and what f was told");
	}
	like($g->sql('a', "SELECT told FROM t WHERE id = $id"),
		qr/^public\.t\{"id": $id\}updateupdatetrue\d{4}-\d\d-\d\d [\d:.]+\+00falsepg_catalog, pg_temp1\.\d+$/,
		'of the row, both kinds, stamps in UTC, with fixed settings');
	is($g->sql('a', "SELECT count(*) FROM t WHERE length(big) = 5000"), 6, 'values that nobody wrote are there');
	is($g->sql('c', "SELECT string_agg(DISTINCT resolution, ',') FROM replp2p.conflicts"), 'merged',
		'recorded as merged');
	$g->sql('c', "UPDATE t SET v = 'new' WHERE id = $id");
	$g->sync;
	is(value($_), 'new', "a later write covers them on $_") foreach $g->names;
};

subtest 'deletes' => sub {
	start();
	cross([ 'a', "UPDATE t SET v = 'a' WHERE id = $id" ], [ 'b', "DELETE FROM t WHERE id = $id" ]);
	$g->same('t');
	is(value(), '(a>-)', 'a delete is passed as NULL');

	start();
	cross([ 'a', "DELETE FROM t WHERE id = $id" ], [ 'b', "UPDATE t SET v = 'b' WHERE id = $id" ],
		[ 'c', "UPDATE t SET v = 'c' WHERE id = $id" ]);
	$g->same('t');
	is(value(), '((->b)>c)', 'wherever it stands');

	start();
	cross([ 'a', "DELETE FROM t WHERE id = $id" ], [ 'b', "DELETE FROM t WHERE id = $id" ]);
	$g->same('t');
	is(value(), '', 'two deletes are one');

	start();
	cross([ 'c', "UPDATE t SET v = 'a' WHERE id = $id" ], [ 'b', "UPDATE t SET v = 'gone' WHERE id = $id" ]);
	$g->same('t');
	is(value(), '', 'NULL from f: no row');

	start();
	cross([ 'a', "INSERT INTO t VALUES ($id + 1000, 'a')" ], [ 'b', "INSERT INTO t VALUES ($id + 1000, 'b')" ]);
	$g->same('t');
	is($g->sql('c', "SELECT v FROM t WHERE id = $id + 1000"), '(a>b)', 'two inserts');

	start();
	cross([ 'a', "UPDATE t SET id = id + 2000, v = 'moved' WHERE id = $id" ],
		[ 'b', "UPDATE t SET v = 'b' WHERE id = $id" ],
		[ 'c', "INSERT INTO t VALUES ($id + 2000, 'c')" ]);
	$g->same('t');
	is($g->sql('c', "SELECT string_agg(v, ' ' ORDER BY id) FROM t WHERE id IN ($id, $id + 2000)"),
		'(->b) (moved>c)', 'a key update is a delete and an insert');

	start();
	cross([ 'b', 'TRUNCATE t' ], [ 'c', "UPDATE t SET v = 'c' WHERE id = $id" ]);
	$g->same('t');
	is($g->sql('a', 'SELECT string_agg(v, $$ $$) FROM t'), '(->c)', 'so is TRUNCATE, of every row');
};

# On b the row is gone, and stays so by what f makes of b's delete and a's 'gone'; the change hangs
# on another row that is locked. Meanwhile a client on b inserts the key again: neither sees the other.
subtest 'an error that f raises: the winner stands' => sub {
	start();
	cross([ 'a', "UPDATE t SET v = 'a' WHERE id = $id" ], [ 'b', "UPDATE t SET v = 'raise' WHERE id = $id" ],
		[ 'c', "UPDATE t SET v = 'c' WHERE id = $id" ]);
	$g->same('t');
	is(value($_), 'c', "the greatest version, on $_") foreach $g->names;
	is($g->sql($_, "SELECT DISTINCT resolution || ': ' || message || ' ' || (applied_row ->> 'v') FROM replp2p.conflicts WHERE remote_origin = 'b'"),
		'error_winner_stands: P0001: no idea what to do with raise c', "recorded on $_")
	  foreach ('c');
	$g->sql('b', "UPDATE t SET v = 'fine' WHERE id = $id");
	$g->sync;
	is(value('a'), 'fine', 'the next write is as any');

	start();
	cross([ 'a', "UPDATE t SET v = 'a' WHERE id = $id" ], [ 'b', "UPDATE t SET v = 'key' WHERE id = $id" ]);
	$g->same('t');
	is(value($_), 'key', "so with a result of another key, on $_") foreach $g->names;
	like($g->sql('a', 'SELECT message FROM replp2p.conflicts'), qr/changed the key/, 'recorded');
};

subtest 'a time-out chooses nothing' => sub {
	start();
	$g->set('a', 'replp2p.handler_timeout', '50ms');
	my $reloaded = $g->eventually('a', "SELECT setting = '50' FROM pg_settings WHERE name = 'replp2p.handler_timeout'");
	$g->sql('a', <<'SQL');
CREATE OR REPLACE FUNCTION merge_t(older t, newer t, conflict replp2p.conflict) RETURNS t
LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN LOOP END LOOP; EXCEPTION WHEN query_canceled THEN RETURN newer; END $$;
SQL
	blind([ 'b', "UPDATE t SET v = 'b' WHERE id = $id" ], [ 'a', "UPDATE t SET v = 'a' WHERE id = $id" ]);
	$g->sql('a', 'SELECT replp2p.resume_apply()');
	stuck('a', 'b', 'took longer than 50 ms', 'the origin waits, though f would not be stopped');
	is(value('a'), 'a', 'nothing is chosen');
	$g->sql('c', "INSERT INTO other VALUES (1, 'from c, which has not seen b')");
	$g->sql('c', "INSERT INTO t VALUES (100000 + $id, 'from c')");
	ok($g->eventually('a', 'SELECT count(*) = 1 FROM other'), 'other origins flow');
	ok($g->eventually('a', "SELECT count(*) = 1 FROM t WHERE id = 100000 + $id"), 'also into the same table');
	$g->sql('b', "INSERT INTO other VALUES (2, 'from b, after it')");
	$g->sql_all('SELECT replp2p.resume_apply()');
	ok($g->eventually('c', 'SELECT count(*) = 2 FROM other'), 'c has seen b');
	$g->sql('c', "INSERT INTO other VALUES (3, 'from c, which has seen b')");
	ok($g->eventually('a', "SELECT state = 'waiting' FROM replp2p.stat_lag WHERE origin = 'c'"), 'what has seen it waits for it');
	is($g->sql('a', 'SELECT count(*) FROM other'), 1, 'as does what its origin wrote later, in whatever table');
	$g->node('a')->restart('fast');
	$g->up('a');
	stuck('a', 'b', 'took longer than 50 ms', 'also after a restart');
	$g->sql('a', $merge);
	$g->set('a', 'replp2p.handler_timeout', undef);
	$g->sync;
	$g->same('t', 'it goes on once f answers');
	is(value($_), '(b>a)', "with the answer, on $_") foreach $g->names;
	is($g->sql('a', 'SELECT count(*) FROM other'), 3, 'and what had waited is there');
	is($g->sql('a', "SELECT string_agg(resolution, ',') FROM replp2p.conflicts"), 'merged', 'recorded once');
};

subtest 'a function that is not there' => sub {
	start();
	blind([ 'c', "UPDATE t SET v = 'c' WHERE id = $id" ], [ 'a', "UPDATE t SET v = 'a' WHERE id = $id" ]);
	$g->sql('b', 'ALTER FUNCTION merge_t(t, t, replp2p.conflict) RENAME TO hidden');
	$g->sql_all('SELECT replp2p.resume_apply()');
	ok($g->eventually('b', "SELECT count(*) = 1 FROM replp2p.stat_lag WHERE state = 'error'"), 'its absence is no answer');
	$g->sql('b', 'ALTER FUNCTION hidden(t, t, replp2p.conflict) RENAME TO merge_t');
	$g->sync;
	$g->same('t', 'it goes on once it is there');
	is(value('b'), '(c>a)', 'with its answer');
};

subtest 'a node may stop, and one may join, in the middle' => sub {
	start();
	blind([ 'a', "UPDATE t SET v = 'a' WHERE id = $id" ], [ 'b', "UPDATE t SET v = 'b' WHERE id = $id" ],
		[ 'c', "UPDATE t SET v = 'c' WHERE id = $id" ]);
	$g->sql('b', "SELECT replp2p.resume_apply('c')");
	ok($g->eventually('b', "SELECT v = '(b>c)' FROM t WHERE id = $id"), 'b has two of three');
	$g->node('b')->restart('immediate');
	$g->up('b');
	$g->sql_all('SELECT replp2p.resume_apply()');
	$g->sync;
	is(value($_), '((a>b)>c)', "folded from the beginning on $_") foreach $g->names;
	$g->same('t');

	blind([ 'a', "UPDATE t SET v = 'a' WHERE id = $id" ], [ 'b', "UPDATE t SET v = 'b' WHERE id = $id" ]);
	$g->sql('b', 'SELECT replp2p.resume_apply()');
	ok($g->eventually('b', "SELECT v = '(a>b)' FROM t WHERE id = $id"), 'b has two of two');
	$g->add_cluster('d', conf => "max_prepared_transactions = 5\n");
	$g->sql('c', "UPDATE t SET v = 'c' WHERE id = $id");
	$g->sql('a', 'SELECT replp2p.resume_apply()');
	$g->sql('c', 'SELECT replp2p.resume_apply()');
	$g->join('d', 'b');
	$g->sync;
	is(value($_), '((a>b)>c)', "with a joiner, on $_") foreach $g->names;
	$g->same('t');
};

$g->stop;
done_testing();
