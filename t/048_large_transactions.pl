# Large transactions are decoded while they run, into a file (src/pg/capture_spool.c): its
# content reaches the others with the commit and not before; an aborted one leaves nothing,
# an aborted savepoint neither, wherever in the file it began; a crash of the server or the
# end of capture loses nothing. And several that run at once do not mix.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Replp2p;

# more than what capture keeps in memory of running transactions
my $rows = 60_000;

my $g = Replp2p->group([ 'a', 'b' ], conf => "max_prepared_transactions = 2\n", schema => <<'SQL');
CREATE TABLE t (id int PRIMARY KEY, v text);
CREATE TABLE other (id int PRIMARY KEY, v text);
CREATE TABLE emptied (id int PRIMARY KEY);
CREATE TABLE out (id int PRIMARY KEY, v text);
SELECT 'CREATE TABLE many' || x || ' (id int PRIMARY KEY)' FROM generate_series(1, 3) x \gexec
CREATE TYPE mood AS ENUM ('sad', 'ok');
CREATE TABLE moods (id int PRIMARY KEY, m mood);
INSERT INTO emptied VALUES (1);
SQL
$g->sql('a', "SELECT replp2p.exclude_table('out')");
$g->sync;
my $a = $g->node('a');

sub spools
{
	my @files = glob($a->data_dir . '/replp2p/*/spool/*');
	return scalar @files;
}

sub spooled
{
	my ($count, $what) = @_;
	ok($g->wait_until(sub { spools() == $count }), $what);
}

sub insert
{
	my ($table, $from, $n) = @_;
	return "INSERT INTO $table SELECT x, md5(x::text) FROM generate_series($from, $from + $n - 1) x";
}

sub counters { return split /\|/, $g->sql('a', 'SELECT captured_transactions, captured_changes, captured_batches FROM replp2p.stat_capture') }

sub all_same
{
	my ($what) = @_;
	$g->sync;
	$g->same($_, "$what: $_ is the same") foreach ('t', 'other', 'emptied', 'moods', map { "many$_" } 1 .. 3);
}

my $s = $a->background_psql('postgres', on_error_stop => 0);
my $s2 = $a->background_psql('postgres', on_error_stop => 0);

# two at once, and a small one while they run
{
	my ($transactions, $changes, $batches) = counters();
	$s->query_safe('BEGIN; ' . insert('t', 1, $rows));
	spooled(1, 'a running transaction is spooled');
	$s2->query_safe('BEGIN; ' . insert('other', 1, $rows));
	spooled(2, 'so is another');
	$g->sql('a', "INSERT INTO many1 VALUES (1)");
	$s->query_safe("UPDATE t SET v = 'changed ' || id WHERE id % 3 = 0; DELETE FROM t WHERE id % 5 = 0; TRUNCATE emptied");
	$s2->query_safe(insert('other', $rows + 1, $rows));
	$g->sync;
	is($g->sql('b', "SELECT (SELECT count(*) FROM t) || ' ' || (SELECT count(*) FROM many1)"), '0 1',
		'what has not committed is not there, what has is');
	is((counters())[0], $transactions + 1, 'nor is it counted');
	$s2->query_safe('COMMIT');
	$s->query_safe('COMMIT');
	all_same('two large ones');
	spooled(0, 'their files are gone');
	my @now = counters();
	is($now[0], $transactions + 3, 'each is a transaction');
	is($now[1], $changes + 1 + 2 * $rows + $rows + int($rows / 3) + int($rows / 5) + 1, 'all of their rows were captured, once');
	cmp_ok($now[2], '>', $batches + 3, 'in parts');
}

# a rollback
$s->query_safe('BEGIN; ' . insert('t', 1_000_000, $rows));
spooled(1, 'one that is to be undone is spooled');
$s->query_safe('ROLLBACK');
spooled(0, 'and its file is gone with it');

# savepoints: kept, undone, undone within undone, undone before anything else, undone again
$s->query_safe('BEGIN; INSERT INTO many1 VALUES (2)');
$s->query_safe('SAVEPOINT one; ' . insert('t', 2_000_000, $rows) . '; INSERT INTO many2 VALUES (1)');
spooled(1, 'savepoints: it is spooled');
$s->query_safe('ROLLBACK TO one; ' . insert('t', 2_100_000, 100) . '; RELEASE one');
$s->query_safe('SAVEPOINT two; ' . insert('t', 2_200_000, $rows));
$s->query_safe('SAVEPOINT three; ' . insert('t', 2_300_000, $rows) . '; RELEASE three');
$s->query_safe('INSERT INTO many2 VALUES (2); ROLLBACK TO two; INSERT INTO many2 VALUES (3)');
$s->query_safe(insert('other', 2_400_000, $rows));
$s->query_safe('SAVEPOINT four; INSERT INTO many3 VALUES (1); SAVEPOINT five; ' . insert('t', 2_500_000, $rows));
$s->query_safe('ROLLBACK TO five; INSERT INTO many3 VALUES (2); RELEASE four');
$s->query_safe(insert('other', 2_600_000, $rows) . '; COMMIT');
all_same('savepoints');
is($g->sql('b', 'SELECT count(*) FROM t WHERE id >= 2000000'), 100, 'savepoints: what was undone is not there');
is($g->sql('b', "SELECT (SELECT string_agg(id::text, ' ' ORDER BY id) FROM many2) || ', ' || (SELECT string_agg(id::text, ' ' ORDER BY id) FROM many3)"),
	'3, 1 2', 'savepoints: what was not is');

# nothing of it is for others
$s->query_safe('BEGIN; ' . insert('out', 1, $rows) . '; COMMIT');
all_same('an excluded table');

# whole in one file, prepared, and of a type that asks the catalogs
$s->query_safe('BEGIN; ' . insert('t', 3_000_000, $rows) . '; INSERT INTO moods SELECT x, ' .
	"CASE WHEN x % 2 = 0 THEN 'sad'::mood ELSE 'ok' END FROM generate_series(1, $rows) x; PREPARE TRANSACTION 'p'");
spooled(1, 'a prepared one is spooled');
$g->sql('a', "COMMIT PREPARED 'p'");
all_same('a prepared one');

# a table that is made and changed in the midst
$g->sql('b', 'CREATE TABLE made (id int PRIMARY KEY, v text, c int)');
$s->query_safe('BEGIN; CREATE TABLE made (id int PRIMARY KEY, v text); ' . insert('made', 1, $rows));
spooled(1, 'one that makes a table is spooled');
$s->query_safe("ALTER TABLE made ADD COLUMN c int; INSERT INTO made SELECT x, 'later', x FROM generate_series($rows + 1, 2 * $rows) x; COMMIT");
$g->sync;
$g->same('made', 'a table made in the midst is the same');
is($g->sql('b', "SELECT count(*) || ' ' || count(c) FROM made"), 2 * $rows . " $rows", 'with the column that came in the midst');

# undone before capture comes to it, which it learns in the midst of a change
{
	my $capture = $g->pid('a', 'capture');
	my $moods = "INSERT INTO moods SELECT x, 'ok' FROM generate_series(1000001, 1000000 + $rows) x";
	kill 'STOP', $capture;
	$s->query_safe("BEGIN; $moods; ROLLBACK");
	$s->query_safe("BEGIN; INSERT INTO many1 VALUES (10); SAVEPOINT one; $moods; ROLLBACK TO one; INSERT INTO many1 VALUES (11); COMMIT");
	$s->query_safe('BEGIN; ' . insert('t', 3_500_000, $rows) . "; SAVEPOINT one; $moods; ROLLBACK TO one; INSERT INTO many1 VALUES (12); COMMIT");
	kill 'CONT', $capture;
	all_same('undone before it is decoded');
	is($g->sql('b', "SELECT (SELECT count(*) FROM moods), (SELECT count(*) FROM many1 WHERE id >= 10), (SELECT count(*) FROM t WHERE id >= 3500000)"),
		"$rows|3|$rows", 'what was undone is not there, what was not is');
	is($g->pid('a', 'capture'), $capture, 'and capture has taken no harm');
	spooled(0, 'nothing is left');
}

# capture ends in the midst
$s->query_safe('BEGIN; ' . insert('t', 4_000_000, $rows));
spooled(1, 'one during which capture ends is spooled');
my $capture = $g->pid('a', 'capture');
kill 'TERM', $capture;
$g->eventually('a', "SELECT pid <> $capture FROM replp2p.stat_capture");
$s->query_safe(insert('t', 4_100_000, $rows) . '; COMMIT');
all_same('capture has ended');
is($g->sql('b', 'SELECT count(*) FROM t WHERE id >= 4000000'), 2 * $rows, 'and nothing is lost');
spooled(0, 'or left');

# the server ends in the midst
$s->query_safe('BEGIN; ' . insert('t', 5_000_000, $rows));
spooled(1, 'one during which the server ends is spooled');
$a->stop('immediate');
spooled(1, 'its file is there');
$a->start;
$g->up('a');
spooled(0, 'and is removed');
$g->sql('a', "INSERT INTO many1 VALUES (3)");
all_same('the server has ended');
is($g->sql('b', 'SELECT count(*) FROM t WHERE id >= 5000000'), 0, 'what had not committed is not there');

eval { $_->quit } foreach ($s, $s2);
$g->stop;
done_testing();
