# Every row operation, in each direction between two nodes: what one writes the
# other has, byte for byte, whatever the type, key or column order.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Replp2p;

my $schema = <<'SQL';
CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE TABLE plain (id int PRIMARY KEY, v text, n numeric, at timestamptz, j jsonb, b bytea, a int[]);
CREATE TABLE composite (a int, b text, c uuid, v text, PRIMARY KEY (b, a, c));
CREATE TABLE "Quoted ""Täble""" ("Schlüssel ""x""" text PRIMARY KEY, "WERT" text);
CREATE TABLE types (id int PRIMARY KEY, m mood, ms mood[], p positive, r regclass, o oid, iv interval,
	f float8, d date, ip inet, ts tsvector, rg int4range, g int GENERATED ALWAYS AS (id * 2) STORED);
CREATE TABLE toasted (id int PRIMARY KEY, big text, other int, small text);
ALTER TABLE toasted ALTER big SET STORAGE EXTERNAL;
CREATE TABLE full_identity (id int PRIMARY KEY, v text);
ALTER TABLE full_identity REPLICA IDENTITY FULL;
CREATE TABLE by_index (id int NOT NULL, code text NOT NULL, v text);
CREATE UNIQUE INDEX by_index_code ON by_index (code);
ALTER TABLE by_index REPLICA IDENTITY USING INDEX by_index_code;
CREATE TABLE no_key (v text);
CREATE TABLE referenced (id int PRIMARY KEY);
CREATE TABLE referencing (id int PRIMARY KEY, r int REFERENCES referenced);
CREATE TABLE parted (id int, k int, v text, PRIMARY KEY (id, k)) PARTITION BY LIST (k);
CREATE TABLE parted_1 PARTITION OF parted FOR VALUES IN (1);
CREATE TABLE parted_2 PARTITION OF parted FOR VALUES IN (2);
CREATE UNLOGGED TABLE unlogged (id int PRIMARY KEY);
SQL

my $g = Replp2p->group([ 'a', 'b' ], schema => $schema);

foreach my $way ([ 'a', 'b', 1 ], [ 'b', 'a', 1001 ])
{
	my ($from, $to, $i) = @$way;
	my ($i1, $i2, $i3, $i4) = ($i + 1, $i + 2, $i + 3, $i + 4);
	my $check = sub {
		my ($table, $what) = @_;
		$g->sync;
		$g->same($table, "$from to $to: $what");
	};

	$g->sql($from, "INSERT INTO plain VALUES ($i, 'one', 1.50, '2026-01-02 03:04:05.678901+02', '{\"a\": [1, null]}', '\\x00ff', '{1,NULL,3}'),
		($i1, NULL, NULL, NULL, NULL, NULL, NULL), ($i2, '', 'NaN', 'infinity', 'null', '', '{}')");
	$check->('plain', 'inserts, nulls and empty values');
	$g->sql($from, "UPDATE plain SET v = 'uno', n = NULL WHERE id = $i; UPDATE plain SET v = 'x' WHERE id = $i1");
	$check->('plain', 'updates');
	$g->sql($from, "UPDATE plain SET id = $i3 WHERE id = $i2");
	$check->('plain', 'a key update');
	$g->sql($from, "BEGIN; UPDATE plain SET id = $i4 WHERE id = $i1; UPDATE plain SET id = $i1, v = 'back' WHERE id = $i4; COMMIT");
	$check->('plain', 'a key update there and back in one transaction');
	$g->sql($from, "DELETE FROM plain WHERE id = $i3");
	$check->('plain', 'a delete');
	$g->sql($from, "BEGIN; DELETE FROM plain WHERE id = $i; INSERT INTO plain VALUES ($i, 'again'); UPDATE plain SET v = v || '!' WHERE id = $i; COMMIT");
	$check->('plain', 'delete, re-insert and update in one transaction');
	$g->sql($from, "BEGIN; INSERT INTO plain VALUES ($i4, 'lost'); SAVEPOINT s; INSERT INTO plain VALUES (" . ($i + 50) . ", 'undone'); ROLLBACK TO s; SAVEPOINT t; UPDATE plain SET v = 'kept' WHERE id = $i4; RELEASE t; COMMIT");
	$check->('plain', 'savepoints');

	$g->sql($from, "INSERT INTO composite SELECT x, 'k' || x, md5(x::text)::uuid, 'v' FROM generate_series($i, $i + 20) x");
	$g->sql($from, "UPDATE composite SET v = 'w' WHERE a % 2 = 0; DELETE FROM composite WHERE a % 5 = 0; UPDATE composite SET b = b || 'ä' WHERE a % 7 = 0");
	$check->('composite', 'composite and text keys');
	$g->sql($from, qq{INSERT INTO "Quoted ""Täble""" VALUES ('ключ$i', 'значение'); UPDATE "Quoted ""Täble""" SET "WERT" = '値' WHERE "Schlüssel ""x""" = 'ключ$i'});
	$check->('"Quoted ""Täble"""', 'quoted and non-ASCII names and values');
	$g->sql($from, "INSERT INTO types VALUES ($i, 'happy', '{sad,ok}', 5, 'pg_class', 1259, '1 mon 2 days 03:04:05', 0.1::float8 + 0.2, '0044-03-15 BC', '::1/64', 'a:1 b:2', '[3,7)')");
	$g->sql($from, "UPDATE types SET m = 'ok', f = 'NaN' WHERE id = $i");
	$check->('types', 'enums, domains, regclass, arrays of user types, generated columns');

	$g->sql($from, "INSERT INTO toasted SELECT $i, string_agg(md5(x::text), ''), 0, 's' FROM generate_series(1, 1000) x");
	$check->('toasted', 'an out-of-line value');
	$g->sql($from, "UPDATE toasted SET other = 1 WHERE id = $i");
	$check->('toasted', 'an update that leaves the out-of-line value unchanged');
	$g->sql($from, "UPDATE toasted SET id = $i1 WHERE id = $i");
	$check->('toasted', 'a key update that leaves the out-of-line value unchanged');
	$g->sql($from, "UPDATE toasted SET big = repeat('y', 100000), small = NULL WHERE id = $i1");
	$check->('toasted', 'a changed out-of-line value');

	$g->sql($from, "INSERT INTO full_identity VALUES ($i, 'a'), ($i1, 'b'); UPDATE full_identity SET v = 'c' WHERE id = $i; UPDATE full_identity SET id = $i2 WHERE id = $i; DELETE FROM full_identity WHERE id = $i1");
	$check->('full_identity', 'replica identity full');
	$g->sql($from, "INSERT INTO by_index VALUES ($i, 'c$i', 'a'), ($i, 'd$i', 'b'); UPDATE by_index SET v = 'c' WHERE code = 'c$i'; UPDATE by_index SET code = 'e$i' WHERE code = 'd$i'; DELETE FROM by_index WHERE code = 'c$i'");
	$check->('by_index', 'replica identity using index');
	$g->sql($from, "INSERT INTO no_key VALUES ('twice'), ('twice')");
	$check->('no_key', 'inserts into a table without a key');
	$g->sql($from, "INSERT INTO referenced VALUES ($i); INSERT INTO referencing VALUES ($i, $i); DELETE FROM referencing WHERE id = $i; INSERT INTO referencing VALUES ($i, $i)");
	$check->('referencing', 'foreign keys');
	$g->sql($from, "INSERT INTO parted VALUES ($i, 1, 'a'), ($i, 2, 'b'); UPDATE parted SET k = 2, id = $i1 WHERE id = $i AND k = 1");
	$check->('parted', 'partitions, and a row that moves between them');
	$g->sql($from, "INSERT INTO unlogged VALUES ($i)");
}

is($g->sql('a', 'SELECT count(*) FROM unlogged'), 1, 'unlogged tables are not replicated');

$g->sql('a', 'TRUNCATE plain, composite');
$g->sync;
$g->same('plain', 'TRUNCATE of several tables');
is($g->sql('b', 'SELECT count(*) FROM plain'), 0, 'the truncated table is empty there');
$g->sql('b', "BEGIN; INSERT INTO plain VALUES (1, 'before'); TRUNCATE plain; INSERT INTO plain VALUES (1, 'after'); COMMIT");
$g->sync;
is($g->sql('a', 'SELECT v FROM plain'), 'after', 'TRUNCATE in the middle of a transaction');

# columns in another order, and one that the other side lacks
$g->sql('a', 'CREATE TABLE shuffled (id int PRIMARY KEY, x text, y int)');
$g->sql('b', "CREATE TABLE shuffled (y int, gone int, extra text DEFAULT 'here', x text, id int PRIMARY KEY); ALTER TABLE shuffled DROP COLUMN gone");
$g->sql('a', "INSERT INTO shuffled VALUES (1, 'one', 10), (2, 'two', 20)");
$g->sync;
is($g->sql('b', 'SELECT id, x, y, extra FROM shuffled ORDER BY id'), "1|one|10|here\n2|two|20|here",
	'columns in another order; a local column takes its default');
$g->sql('a', "UPDATE shuffled SET y = 21 WHERE id = 2");
is($g->eventually('b', "SELECT y FROM shuffled WHERE id = 2", '21'), 1, 'updates arrive there');

# one transaction over many batches' worth of rows
$g->sql('a', "CREATE TABLE many (id int PRIMARY KEY, v text)");
$g->sql('b', "CREATE TABLE many (id int PRIMARY KEY, v text)");
$g->sql('a', "INSERT INTO many SELECT x, repeat(md5(x::text), 10) FROM generate_series(1, 60000) x");
$g->sync('a');
$g->same('many', 'a transaction much larger than a batch');

is($g->sql('a', "SELECT count(*) FROM replp2p.conflicts"), 0, 'nothing of this was a conflict on a');
is($g->sql('b', "SELECT count(*) FROM replp2p.conflicts"), 0, 'nor on b');

$g->stop;
done_testing();
