# A join copies tables in parts, several at a time, while they are written to; and it
# goes on where it was when either side dies.
#
# b joins with three processes under writes that move rows between the parts. c is
# killed after each of its parts, once; while it is down, the sponsor's rows are changed in all
# ways, and the sponsor is killed, too, so that the snapshot is lost. The tables are
# checked to be the sponsor's, and stand open only when they are. f loses copiers and
# sponsor while it copies. d meets a schema that has changed meanwhile, and begins anew; e is
# made to leave in the middle.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Replp2p;

my @conf = (conf => "deadlock_timeout = 100ms\n");
my $g = Replp2p->group(['a'], @conf);

# few rows on a page: 4 parts of 16 MB in few rows
$g->sql('a', <<'SQL');
CREATE TYPE mood AS ENUM ('good', 'bad');
CREATE TABLE wide (id int PRIMARY KEY, v text NOT NULL, n int NOT NULL DEFAULT 0, m char(4), filler text)
	WITH (fillfactor = 10, autovacuum_enabled = false);
CREATE UNIQUE INDEX wide_v ON wide (v);
CREATE INDEX wide_n ON wide (n) INCLUDE (filler) WHERE n > 5;
INSERT INTO wide SELECT i, 'v' || i, i % 10, 'good', repeat('f', 400) FROM generate_series(1, 12000) i;
CREATE TABLE composite (a text, b numeric, c int GENERATED ALWAYS AS IDENTITY, g int GENERATED ALWAYS AS (c * 2) STORED,
	p point, x xml, m mood DEFAULT 'good', PRIMARY KEY (b, a)) WITH (fillfactor = 10);
INSERT INTO composite (a, b, p) SELECT 'a' || i, i / 7.0, point(i, i) FROM generate_series(1, 300) i;
CREATE TABLE keyless (a int, b text);
INSERT INTO keyless SELECT i, 'b' || i FROM generate_series(1, 1000) i;
CREATE TABLE emptied (id int PRIMARY KEY, v text);
INSERT INTO emptied SELECT i, 'before' FROM generate_series(1, 1000) i;
CREATE TABLE child (id int PRIMARY KEY, parent int REFERENCES wide DEFERRABLE INITIALLY DEFERRED, CHECK (id > 0),
	EXCLUDE USING gist (int4range(id, id + 1) WITH &&));
INSERT INTO child SELECT i, i FROM generate_series(1, 50) i;
CREATE TABLE part (id int, v text, PRIMARY KEY (id)) PARTITION BY RANGE (id);
CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM (0) TO (100);
CREATE TABLE part_2 PARTITION OF part FOR VALUES FROM (100) TO (1000);
INSERT INTO part SELECT i, 'p' FROM generate_series(1, 300) i;
CREATE INDEX ON part (v);
CREATE MATERIALIZED VIEW seen AS SELECT count(*) FROM wide;
CREATE SEQUENCE counted;
SELECT setval('counted', 77);
CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.v := NEW.v; RETURN NEW; END';
CREATE TRIGGER touched BEFORE UPDATE ON emptied FOR EACH ROW EXECUTE FUNCTION touch();
SQL
my @tables = qw(wide composite keyless emptied child part part_1);

# What a node's database is made of, besides rows.
my $made = <<'SQL';
SELECT string_agg(line, E'\n' ORDER BY line) FROM (
	SELECT indexdef AS line FROM pg_indexes WHERE schemaname = 'public'
	UNION ALL SELECT conrelid::regclass || ' ' || conname || ' ' || convalidated || ' ' || pg_get_constraintdef(oid)
		FROM pg_constraint WHERE connamespace = 'public'::regnamespace
	UNION ALL SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal
	UNION ALL SELECT relname || ' ' || relkind::text || ' ' || coalesce(i.indisvalid, true) FROM pg_class c
		LEFT JOIN pg_index i ON i.indexrelid = c.oid WHERE relnamespace = 'public'::regnamespace) x
SQL

# One test: a node has all that a has.
sub whole
{
	my ($name, $what) = @_;
	$g->sync;
	my @different = grep { $g->digest($name, $_) ne $g->digest('a', $_) } @tables;
	is("@different", '', "$what: the tables of $name are those of a");
	is($g->sql($name, $made), $g->sql('a', $made), "$what: and so are indexes, constraints and triggers");
	is($g->sql($name, 'SELECT sum(n) FROM (SELECT count(*) n FROM replp2p.join_tables UNION ALL SELECT count(*) FROM replp2p.join_pieces
		UNION ALL SELECT count(*) FROM replp2p.join_steps UNION ALL SELECT count(*) FROM replp2p.join_objects) x'), 0,
		"$what: no plan is left");
}

# Rows of a are changed in all ways, so that they move between pages.
my $turn = 0;

sub change
{
	$turn++;
	$g->sql('a', <<"SQL");
UPDATE wide SET v = v || '.$turn', n = n + 1 WHERE id % 7 = $turn % 7;
UPDATE wide SET id = id + 100000 WHERE id % 501 = $turn AND id > 50;
DELETE FROM wide WHERE id % 11 = $turn AND id > 50;
INSERT INTO wide SELECT $turn * 200000 + i, 'new $turn ' || i, i % 10, 'bad', repeat('g', 400) FROM generate_series(1, 500) i;
DELETE FROM composite WHERE c % 13 = $turn;
UPDATE composite SET a = a || '$turn' WHERE c % 5 = 0;
DELETE FROM keyless WHERE a % 10 = $turn;
INSERT INTO keyless VALUES (5, 'again'), (5, 'again');
TRUNCATE emptied;
INSERT INTO emptied SELECT i, 'turn $turn' FROM generate_series(1, 20) i;
UPDATE part SET id = 1000 - id WHERE id IN ($turn, 200 + $turn);
SQL
}

#
# Several processes, under writes.
#

$g->add_cluster('b', conf => "deadlock_timeout = 100ms\nreplp2p.join_workers = 3\n");
my $script = "$PostgreSQL::Test::Utils::tmp_check/move.sql";
append_to_file($script, <<'SQL');
\set id random(51, 12000)
\set other random(51, 12000)
UPDATE wide SET n = n + 1, filler = repeat(chr(97 + n % 26), 300 + n % 200) WHERE id = :id;
DELETE FROM wide WHERE id = :other;
INSERT INTO wide VALUES (:other, 'v' || :other, 1) ON CONFLICT DO NOTHING;
SQL
my $load = $g->pgbench('a', '-T', 600, '-R', 200, '-c', 2, '-f', $script);
ok($g->eventually('a', 'SELECT seq > 100 FROM replp2p.stat_capture'), 'a is under load');
$g->join('b', 'a');
ok($g->halt($load), 'it was all the time');
whole('b', 'several processes');
cmp_ok($g->sql('b', 'SELECT count(DISTINCT xmin::text) FROM wide'), '>', 3, 'wide was copied in several transactions');
is( $g->sql('b', "SELECT phase, tables_processed = tables_total, indexes_processed = indexes_total,
		bytes_processed = bytes_total, tables_total >= 7, indexes_total >= 9, bytes_total > 48e6, rows_processed > 12000 FROM replp2p.stat_join"),
	'ready|t|t|t|t|t|t|t', 'stat_join has counted to the end');

#
# Killed after each part, both sides.
#

sub marker
{
	my ($name, $point) = @_;
	return $g->node($name)->data_dir . "/replp2p/crashed_at_$point";
}

# Start a joiner that was killed; it is going to be killed at the point again.
sub start_until
{
	my ($name, $point) = @_;
	my $node = $g->node($name);

	unlink marker($name, $point);
	$node->start;
	crashed($name, $point);
}

# Wait until it is dead.
sub crashed
{
	my ($name, $point) = @_;
	my $node = $g->node($name);
	my $pid = $node->{_pid};

	ok($g->wait_until(sub { -e marker($name, $point) && !kill(0, $pid) }), "$name is killed at $point")
		or die "$name lives on";
	delete $node->{_pid};
}

# Have a new node join that is killed at a point; it stays down.
sub join_and_die
{
	my ($name, $point, $conf) = @_;
	$g->add_cluster($name, conf => "replp2p.crash_point = '$point'\n$conf");
	my $invite = $g->sql('a', 'SELECT replp2p.create_invite()');
	$g->sql($name, sprintf("SELECT replp2p.join_group('%s', '%s', '%s')", $name, Replp2p::dsn($g->node($name)), $invite));
	crashed($name, $point);
}

# Kill a, and have it back.
sub kill_a
{
	ok($g->kill_postmaster('a'), 'the sponsor is killed');
	$g->node('a')->start;
	$g->up('a');
}

join_and_die('c', 'join_after_piece', "replp2p.join_workers = 1\n");
change();
start_until('c', 'join_after_piece');
kill_a();
change();
start_until('c', 'join_after_piece');
$g->sql('a', 'VACUUM wide');
change();
$g->sql('a', 'VACUUM FULL composite');
start_until('c', 'join_after_piece');
# once more between the indexes
$g->node('c')->append_conf('postgresql.conf', "replp2p.crash_point = 'join_before_index'\n");
start_until('c', 'join_before_index');
kill_a();
change();
my $offset = -s $g->node('c')->logfile;
unlink marker('c', 'join_before_index');
start_until('c', 'join_before_index');
change();

# alive, but without a sponsor: what is half-copied is shut
$g->node('a')->stop;
$g->node('c')->start;
ok($g->eventually('c', "SELECT last_error LIKE '%session with the sponsor%' FROM replp2p.stat_join"), 'c finds no sponsor');
is($g->sql('c', "SELECT count(*) > 0 FROM replp2p.join_pieces WHERE copied_from IS NOT NULL"), 't', 'and has copied');
foreach my $statement ('SELECT count(*) FROM wide', 'INSERT INTO wide VALUES (0)', 'DELETE FROM emptied', 'TRUNCATE emptied',
	'COPY keyless TO STDOUT', "INSERT INTO part VALUES (7, 'x')")
{
	$g->node('c')->psql('postgres', $statement, stderr => \my $message);
	like($message, qr/ERROR:  table "\w+" is being copied from another node\nHINT:  .*wait_for_ready/, "$statement: refused");
}
$g->node('a')->start;
$g->ready('c');
push @{ $g->{names} }, 'c';
whole('c', 'killed again and again');
my $log = slurp_file($g->node('c')->logfile);
my @before = $log =~ /the join goes on where it was: (\d+) of \d+ bytes/g;
cmp_ok(scalar @before, '>=', 5, 'the join went on each time');
is(scalar(grep { $before[$_] <= $before[ $_ - 1 ] } (1 .. 3)), 0, 'with more each time');
unlike($log, qr/begins anew/, 'and never began anew');
is($g->sql('c', "SELECT count(*) FROM replp2p.conflicts"), 0, 'there is no conflict');
$g->sql('c', "UPDATE wide SET n = n + 1; DELETE FROM composite WHERE c % 2 = 0; UPDATE emptied SET v = 'c'");
$g->sync;
whole('c', 'written to by c');
is($g->sql($_, "SELECT count(*) FROM replp2p.conflicts"), 0, "no conflict on $_") foreach $g->names;

#
# Alive: a copier is ended, and the sponsor killed, wherever they are just then.
#

$g->add_cluster('f', conf => "replp2p.join_workers = 3\nreplp2p.crash_point = 'stop:join_after_piece'\n");
my $f_invite = $g->sql('a', 'SELECT replp2p.create_invite()');
$g->sql('f', sprintf("SELECT replp2p.join_group('f', '%s', '%s')", Replp2p::dsn($g->node('f')), $f_invite));
ok($g->wait_until(sub { -e $g->node('f')->data_dir . '/replp2p/stopped_at_join_after_piece' }), 'f copies');
$g->sql('f', "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'replp2p copier'");
kill_a();
change();
# who stopped was one of these; without it the copy cannot have come to its end
kill 'CONT', split /\n/, $g->sql('f', "SELECT pid FROM pg_stat_activity WHERE backend_type IN ('replp2p join', 'replp2p copier')");
$g->ready('f');
push @{ $g->{names} }, 'f';
whole('f', 'ended and killed');

#
# The schema changes in the middle.
#

join_and_die('d', 'join_after_piece', "replp2p.join_workers = 2\n");
$g->node('a')->psql('postgres', 'SELECT replp2p.leave_group()', stderr => \my $message);
like($message, qr/ERROR:  node "d" is joining the group by this node\nHINT:  .*force/, 'the sponsor may not leave meanwhile');
$g->sql($_, 'ALTER TABLE wide ADD COLUMN late int; DROP INDEX wide_n') foreach $g->names;
$g->sql('a', 'UPDATE wide SET late = n WHERE n > 3');
$g->node('d')->start;
$g->ready('d');
push @{ $g->{names} }, 'd';
whole('d', 'the schema has changed');
like(slurp_file($g->node('d')->logfile), qr/begins anew/, 'the join has begun anew');

#
# Leaving in the middle.
#

join_and_die('e', 'join_after_piece', '');
$g->node('a')->stop;
$g->node('e')->append_conf('postgresql.conf', "replp2p.crash_point = ''\n");
$g->node('e')->start;
ok($g->eventually('e', "SELECT last_error LIKE '%session with the sponsor%' FROM replp2p.stat_join"), 'e finds no sponsor');
$g->sql('e', 'SELECT replp2p.leave_group(true)');
ok($g->eventually('e', "SELECT to_regclass('wide') IS NULL AND to_regtype('mood') IS NULL"), 'what was copied is dropped');
ok($g->eventually('e', "SELECT count(*) = 0 FROM pg_replication_slots"), 'and e is no node');
$g->node('a')->start;
$g->up('a');
$g->sql('a', "UPDATE wide SET v = 'x' || v");
# its first admission stands, with its name
my $invite = $g->sql('a', 'SELECT replp2p.create_invite()');
$g->sql('e', sprintf("SELECT replp2p.join_group('e again', '%s', '%s')", Replp2p::dsn($g->node('e')), $invite));
$g->ready('e');
push @{ $g->{names} }, 'e';
whole('e', 'joined again');

$g->stop;
done_testing();
