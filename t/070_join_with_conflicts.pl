# A node joins in the midst of conflicts, most of which are not stable: c applies nothing, and is cut off after
# the others have got half of what it writes; b, by which d joins, lacks what a writes. There are
# displaced rows, siblings (some of both stand in no change log any more), rows that a custom function
# has folded, counters and extremes of several versions, and counters that are displaced.
#
# d is killed while it copies, before its copy counts, and while it catches up; meanwhile rows are displaced on b
# and come back, and siblings are covered. When ready it has what a and b have, and writes. Then c meets them
# all: what the tables, displaced rows and siblings come to is known, and the same on all nodes. Displaced
# rows come back on d, too, when their place gets free, and what c and d write without seeing one another converges.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Replp2p;

my @tables = qw(plain kept made merged summed);
my $g = Replp2p->group([ 'a', 'b', 'c' ], schema => <<'SQL');
CREATE TABLE plain (id int PRIMARY KEY, u int UNIQUE, v text);
CREATE TABLE kept (id int PRIMARY KEY, v text);
CREATE TABLE made (id int PRIMARY KEY, v text);
CREATE TABLE merged (id int PRIMARY KEY, n int NOT NULL DEFAULT 0, hi int NOT NULL DEFAULT 0, lo int NOT NULL DEFAULT 100);
CREATE TABLE summed (id int PRIMARY KEY, u int UNIQUE, n int NOT NULL DEFAULT 0);
CREATE TABLE filler (b bytea);
ALTER TABLE filler ALTER b SET STORAGE EXTERNAL;
CREATE FUNCTION fold(older made, newer made, conflict replp2p.conflict) RETURNS made LANGUAGE sql IMMUTABLE
RETURN CASE WHEN older IS NULL OR newer IS NULL THEN coalesce(older, newer)
	ELSE ROW(newer.id, '(' || older.v || '>' || newer.v || ')')::made END;
SQL
$g->sql('a', $_) foreach
	"SELECT replp2p.set_conflict_handler('kept', 'vector_clock')",
	"SELECT replp2p.set_conflict_handler('made', 'custom', 'fold(made, made, replp2p.conflict)')",
	"SELECT replp2p.set_column_merge('merged', 'n', 'counter')",
	"SELECT replp2p.set_column_merge('merged', 'hi', 'max')",
	"SELECT replp2p.set_column_merge('merged', 'lo', 'min')",
	"SELECT replp2p.set_column_merge('summed', 'n', 'counter')";
$g->sync;
$g->eventually($_, "SELECT count(*) = 4 FROM replp2p.tables WHERE handler <> 'last_writer_wins' OR merges <> '{}'") foreach $g->names;
$g->sql('a', <<'SQL');
INSERT INTO plain SELECT i, i, 's' FROM generate_series(1, 9) i;
INSERT INTO plain VALUES (21, 21, 's'), (22, 22, 's');
INSERT INTO kept SELECT i, 's' FROM generate_series(1, 5) i;
INSERT INTO made SELECT i, 's' FROM generate_series(1, 3) i;
INSERT INTO merged SELECT i FROM generate_series(1, 3) i;
INSERT INTO summed SELECT i, i FROM generate_series(1, 8) i;
INSERT INTO summed VALUES (21, 21), (22, 22);
SQL
$g->sync;

# What a node has of a table: rows, displaced rows, siblings in their order, the winner marked.
my %row = (plain => "concat_ws(' ', id, u, v)", kept => "concat_ws(' ', id, v)", made => "concat_ws(' ', id, v)",
	merged => "concat_ws(' ', id, n, hi, lo)", summed => "concat_ws(' ', id, u, n)");

sub state
{
	my ($name, $t) = @_;
	return $g->sql($name, <<"SQL");
SELECT concat_ws(' | ', (SELECT string_agg($row{$t}, ', ' ORDER BY id) FROM $t),
	(SELECT 'displaced ' || string_agg(concat_ws(' ', row ->> 'id', row ->> 'u', coalesce(row ->> 'v', row ->> 'n')), ', ' ORDER BY key)
	 FROM replp2p.displaced WHERE relation = '$t'::regclass),
	(SELECT 'siblings ' || string_agg(concat_ws(' ', key ->> 'id', origin, coalesce(row ->> 'v', kind)) || CASE WHEN is_winner THEN '+' ELSE '' END,
	 ', ' ORDER BY key, stamp) FROM replp2p.siblings WHERE relation = '$t'::regclass))
SQL
}

# One test for each table: it comes to this on all of the nodes.
sub ends
{
	my ($what, $nodes, %expected) = @_;

	foreach my $t (grep { $expected{$_} } @tables)
	{
		my $good = $g->wait_until(sub { !grep { state($_, $t) ne $expected{$t} } @$nodes });
		ok($good, "$what: $t") or diag("expected: $expected{$t}\n", map { "$_: " . state($_, $t) . "\n" } @$nodes);
	}
	return;
}

# Conflicts that are stable when the others begin, and in no change log any more.
$g->sql_all('SELECT replp2p.pause_apply()');
$g->sql('a', "UPDATE plain SET u = 20, v = 'a' WHERE id = 21; UPDATE kept SET v = 'a' WHERE id = 5; UPDATE summed SET u = 20, n = n + 1 WHERE id = 21");
$g->sql('b', "UPDATE plain SET u = 20, v = 'b' WHERE id = 22; UPDATE kept SET v = 'b' WHERE id = 5; UPDATE summed SET u = 20, n = n + 1 WHERE id = 22");
$g->sql_all('SELECT replp2p.resume_apply()');
$g->sync;
my %last = map { $_ => $g->sql($_, 'SELECT seq FROM replp2p.stat_capture') } 'a', 'b';
$g->sql($_, join('', map { "INSERT INTO filler SELECT string_agg(sha512('$_:' || x::text::bytea), '') FROM generate_series(1, 16384) x;\n" } (1 .. 17)) .
	'TRUNCATE filler') foreach 'a', 'b';
$g->sync;
foreach my $name ($g->names)
{
	ok($g->eventually($name, "SELECT bool_and(oldest_seq > CASE origin WHEN 'a' THEN $last{a} ELSE $last{b} END) FROM replp2p.stat_log WHERE origin IN ('a', 'b')"),
		"what was written is stable, and trimmed on $name");
}

# All write, none seeing another; a and b have it all then, c only its own.
$g->sql_all('SELECT replp2p.pause_apply()');
$g->sql('c', "UPDATE summed SET n = n + 100 WHERE id = 1");
$g->sql('a', <<'SQL');
UPDATE plain SET u = 100, v = 'a' WHERE id = 1;
UPDATE plain SET u = 200, v = 'a' WHERE id = 4;
UPDATE kept SET v = 'a' WHERE id IN (1, 4);
UPDATE made SET v = 'a' WHERE id = 1;
UPDATE merged SET n = n + 1, hi = 5, lo = 50 WHERE id = 1;
UPDATE merged SET n = n + 1 WHERE id = 2;
UPDATE summed SET u = 100, n = n + 1 WHERE id = 1;
UPDATE summed SET u = 300, n = n + 1 WHERE id = 3;
SQL
$g->sql('b', <<'SQL');
UPDATE plain SET u = 100, v = 'b' WHERE id = 2;
UPDATE plain SET u = 200, v = 'b' WHERE id = 5;
UPDATE kept SET v = 'b' WHERE id IN (1, 4);
UPDATE made SET v = 'b' WHERE id = 1;
UPDATE merged SET n = n + 10, hi = 9, lo = 40 WHERE id = 1;
UPDATE merged SET n = n + 10 WHERE id = 2;
UPDATE summed SET u = 100, n = n + 10 WHERE id = 2;
INSERT INTO summed VALUES (13, 300, 5);
SQL
$g->sql('c', <<'SQL');
UPDATE plain SET u = 100, v = 'c' WHERE id = 3;
UPDATE kept SET v = 'c' WHERE id = 1;
UPDATE made SET v = 'c' WHERE id = 1;
UPDATE merged SET n = n + 100, hi = 7, lo = 30 WHERE id = 1;
SQL
$g->sql($_, 'SELECT replp2p.resume_apply()') foreach 'a', 'b';
ends('three versions, two of them unseen by c', [ 'a', 'b' ],
	plain => '3 100 c, 5 200 b, 6 6 s, 7 7 s, 8 8 s, 9 9 s, 22 20 b | displaced 1 100 a, 2 100 b, 4 200 a, 21 20 a',
	kept => '1 c, 2 s, 3 s, 4 b, 5 b | siblings 1 a a, 1 b b, 1 c c+, 4 a a, 4 b b+, 5 a a, 5 b b+',
	made => '1 ((a>b)>c), 2 s, 3 s',
	merged => '1 111 9 30, 2 11 0 100, 3 0 0 100',
	summed => '2 100 10, 4 4 0, 5 5 0, 6 6 0, 7 7 0, 8 8 0, 13 300 5, 22 20 1 | displaced 1 100 101, 3 300 1, 21 20 1');

# c is cut off, and goes on.
$g->set($_, 'replp2p.unreachable_peers', $_ eq 'c' ? 'a, b, d' : 'c') foreach $g->names;
ok($g->eventually($_, "SELECT count(*) > 0 AND bool_and(cut AND NOT connected) FROM replp2p.stat_links WHERE 'c' IN ('$_', node_name)"), "links to c are cut on $_")
	or diag($g->sql($_, 'TABLE replp2p.stat_links')) foreach $g->names;
# (a pull that waits already would deliver once more)
$g->sql('c', "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE query ~* '^call replp2p.exchange'");
$g->sql('c', <<'SQL');
UPDATE plain SET u = 500, v = 'C' WHERE id = 5;
UPDATE plain SET u = 600, v = 'C' WHERE id = 6;
UPDATE kept SET v = 'C' WHERE id IN (1, 2);
UPDATE made SET v = 'C' WHERE id IN (1, 2);
UPDATE merged SET n = n + 1000, hi = 20 WHERE id = 1;
DELETE FROM merged WHERE id = 2;
UPDATE summed SET n = n + 1000 WHERE id IN (1, 8);
SQL
$g->captured('c');

# b does not see what a writes, when d begins to copy.
sub apart
{
	my ($on_a, $on_b) = @_;

	$g->sql('b', "SELECT replp2p.pause_apply('a')");
	$g->sql('a', $on_a);
	$g->captured('a');
	$g->sql('b', $on_b);
	return;
}

# Where a crash point leaves its mark on d.
sub marker { return $g->node('d')->data_dir . "/replp2p/$_[0]" }

apart(<<'SQL', <<'SQL2');
UPDATE plain SET u = 700, v = 'a' WHERE id = 7;
UPDATE kept SET v = 'a' WHERE id = 2;
UPDATE made SET v = 'a' WHERE id = 2;
UPDATE merged SET n = n + 10000 WHERE id = 1;
UPDATE summed SET u = 500, n = n + 1 WHERE id = 5;
SQL
UPDATE plain SET u = 700, v = 'b' WHERE id = 8;
UPDATE kept SET v = 'b' WHERE id = 2;
UPDATE made SET v = 'b' WHERE id = 2;
UPDATE merged SET n = n + 100000 WHERE id = 1;
UPDATE summed SET u = 500, n = n + 1 WHERE id = 6;
SQL2
is($g->sql('b', "SELECT bool_and(stable_seq < stored_seq) FROM replp2p.stat_log WHERE origin IN ('a', 'b')"), 't',
	'what a and b wrote is not stable');
$g->add_cluster('d', conf => "replp2p.unreachable_peers = 'c'\nreplp2p.join_workers = 1\nreplp2p.crash_point = 'stop:join_after_piece'\n");
my $invite = $g->sql('b', 'SELECT replp2p.create_invite()');
$g->sql('d', sprintf("SELECT replp2p.join_group('d', '%s', '%s')", $g->dsn_of('d'), $invite));
ok($g->wait_until(sub { -e marker('stopped_at_join_after_piece') }), 'd has copied a piece');

# Meanwhile b gets what a wrote: a row is displaced, another comes back, siblings come and go.
$g->sql('b', 'SELECT replp2p.resume_apply()');
my $token = $g->sql('a', 'SELECT replp2p.current_token()');
$g->sql('b', "SELECT replp2p.wait_for_token('$token')");
$g->sql('b', "DELETE FROM plain WHERE id = 3; UPDATE kept SET v = 'settled' WHERE id = 4");
ends('while d copies', [ 'a', 'b' ],
	plain => '2 100 b, 5 200 b, 6 6 s, 8 700 b, 9 9 s, 22 20 b | displaced 1 100 a, 4 200 a, 7 700 a, 21 20 a',
	kept => '1 c, 2 b, 3 s, 4 settled, 5 b | siblings 1 a a, 1 b b, 1 c c+, 2 a a, 2 b b+, 5 a a, 5 b b+');
apart(<<'SQL', <<'SQL2');
UPDATE plain SET u = 900, v = 'a' WHERE id = 9;
UPDATE kept SET v = 'a' WHERE id = 3;
UPDATE made SET v = 'a' WHERE id = 3;
UPDATE merged SET n = n + 1 WHERE id = 3;
UPDATE summed SET u = 700, n = n + 1 WHERE id = 7;
SQL
INSERT INTO plain VALUES (10, 900, 'b');
DELETE FROM kept WHERE id = 3;
UPDATE made SET v = 'b' WHERE id = 3;
UPDATE merged SET n = n + 2 WHERE id = 3;
UPDATE summed SET u = 700, n = n + 1 WHERE id = 8;
SQL2

# The postmaster of d is killed, and with it who stands; it is killed twice more.
my $joiner = $g->sql('d', "SELECT pid FROM pg_stat_activity WHERE backend_type = 'replp2p join'");
my $postmaster = $g->node('d')->{_pid};
$g->node('d')->kill9;
kill 'KILL', $joiner;
ok($g->wait_until(sub { !kill(0, $postmaster) && $g->is_gone($joiner) }), 'd is killed while it copies');
foreach my $point ('join_before_commit', 'apply_before_commit')
{
	$g->node('d')->append_conf('postgresql.conf', "replp2p.crash_point = '$point'\n");
	$g->node('d')->start;
	my $pid = $g->node('d')->{_pid};
	ok($g->wait_until(sub { -e marker("crashed_at_$point") && !kill(0, $pid) }), "d is killed at $point") or die;
	delete $g->node('d')->{_pid};
}
$g->node('d')->append_conf('postgresql.conf', "replp2p.crash_point = ''\n");
$g->node('d')->start;
$g->ready('d');
like(slurp_file($g->node('d')->logfile), qr/the join goes on where it was/, 'it went on each time');
unlike(slurp_file($g->node('d')->logfile), qr/begins anew/, 'and did not begin anew');
$g->sql('b', 'SELECT replp2p.resume_apply()');
ends('d is ready', [ 'a', 'b', 'd' ],
	plain => '2 100 b, 5 200 b, 6 6 s, 8 700 b, 10 900 b, 22 20 b | displaced 1 100 a, 4 200 a, 7 700 a, 9 900 a, 21 20 a',
	kept => '1 c, 2 b, 4 settled, 5 b | siblings 1 a a, 1 b b, 1 c c+, 2 a a, 2 b b+, 3 a a, 3 b delete+, 5 a a, 5 b b+',
	made => '1 ((a>b)>c), 2 (a>b), 3 (a>b)',
	merged => '1 110111 9 30, 2 11 0 100, 3 3 0 100',
	summed => '2 100 10, 4 4 0, 6 500 1, 8 700 1, 13 300 5, 22 20 1 | displaced 1 100 101, 3 300 1, 5 500 1, 7 700 1, 21 20 1');
is($g->sql('a', "SELECT bool_and(stable_seq < stored_seq) FROM replp2p.stat_log WHERE origin IN ('a', 'b')"), 't',
	'nothing of it is stable even now');

# d writes, and c, who knows nothing of it.
$g->sql('d', <<'SQL');
DELETE FROM plain WHERE id = 8;
INSERT INTO plain VALUES (11, 600, 'd');
UPDATE kept SET v = 'd' WHERE id = 1;
UPDATE made SET v = 'd' WHERE id = 2;
UPDATE merged SET n = n + 1000000, hi = 12 WHERE id = 1;
UPDATE merged SET n = n + 7 WHERE id = 2;
INSERT INTO summed VALUES (1, 50, 7);
DELETE FROM summed WHERE id = 13;
SQL
ends('d has written', [ 'a', 'b', 'd' ],
	plain => '2 100 b, 5 200 b, 6 6 s, 7 700 a, 10 900 b, 11 600 d, 22 20 b | displaced 1 100 a, 4 200 a, 9 900 a, 21 20 a',
	kept => '1 d, 2 b, 4 settled, 5 b | siblings 2 a a, 2 b b+, 3 a a, 3 b delete+, 5 a a, 5 b b+',
	made => '1 ((a>b)>c), 2 d, 3 (a>b)',
	merged => '1 1110111 12 30, 2 18 0 100, 3 3 0 100',
	summed => '1 50 108, 2 100 10, 3 300 1, 4 4 0, 6 500 1, 8 700 1, 22 20 1 | displaced 5 500 1, 7 700 1, 21 20 1');
$g->sql('c', <<'SQL');
INSERT INTO plain VALUES (12, 900, 'c');
UPDATE kept SET v = 'late' WHERE id = 3;
UPDATE made SET v = 'late' WHERE id = 3;
UPDATE summed SET n = n + 1000 WHERE id = 2;
SQL
$g->captured('c');

# c meets them all.
$g->node('d')->append_conf('postgresql.conf', "replp2p.unreachable_peers = ''\n");
$g->node('d')->reload;
$g->set($_, 'replp2p.unreachable_peers', undef) foreach $g->names;
$g->sql('c', 'SELECT replp2p.resume_apply()');
push @{ $g->{names} }, 'd';
my @nodes = $g->names;
$g->sync;
ends('c is back', \@nodes,
	plain => '2 100 b, 4 200 a, 5 500 C, 7 700 a, 11 600 d, 12 900 c, 22 20 b | displaced 1 100 a, 6 600 C, 9 900 a, 10 900 b, 21 20 a',
	kept => '1 d, 2 b, 3 late, 4 settled, 5 b | siblings 1 c C, 1 d d+, 2 c C, 2 a a, 2 b b+, 3 a a, 3 b delete, 3 c late+, 5 a a, 5 b b+',
	made => '1 ((a>b)>C), 2 (C>d), 3 ((a>b)>late)',
	merged => '1 1111111 20 30, 2 7 0 100, 3 3 0 100',
	summed => '1 50 1108, 2 2 1010, 3 300 1, 4 4 0, 6 500 1, 8 700 1001, 22 20 1 | displaced 5 500 1, 7 700 1, 21 20 1');

# Places get free.
$g->sql('c', 'DELETE FROM plain WHERE id = 12; DELETE FROM summed WHERE id = 6');
$g->sql('d', "DELETE FROM plain WHERE id IN (2, 22); DELETE FROM summed WHERE id IN (8, 22); UPDATE kept SET v = 'settled' WHERE id <> 4");
$g->sql('a', 'DELETE FROM plain WHERE id = 11');
$g->sync;
ends('places are free', \@nodes,
	plain => '1 100 a, 4 200 a, 5 500 C, 6 600 C, 7 700 a, 10 900 b, 21 20 a | displaced 9 900 a',
	kept => '1 settled, 2 settled, 3 settled, 4 settled, 5 settled',
	summed => '1 50 1108, 2 2 1010, 3 300 1, 4 4 0, 5 500 1, 7 700 1, 21 20 1');

# c and d write without seeing one another.
$g->sql_all('SELECT replp2p.pause_apply()');
$g->sql('c', <<'SQL');
UPDATE plain SET u = 1000, v = 'c' WHERE id = 1;
UPDATE kept SET v = 'c' WHERE id = 1;
UPDATE made SET v = 'c' WHERE id = 1;
UPDATE merged SET n = n + 1, hi = 1 WHERE id = 1;
UPDATE summed SET u = 1000, n = n + 1 WHERE id = 1;
SQL
$g->sql('d', <<'SQL');
UPDATE plain SET u = 1000, v = 'd' WHERE id = 4;
UPDATE kept SET v = 'd' WHERE id = 1;
UPDATE made SET v = 'd' WHERE id = 1;
UPDATE merged SET n = n + 2, hi = 2 WHERE id = 1;
UPDATE summed SET u = 1000, n = n + 2 WHERE id = 2;
SQL
$g->sql_all('SELECT replp2p.resume_apply()');
$g->sync;
ends('c and d', \@nodes,
	plain => '4 1000 d, 5 500 C, 6 600 C, 7 700 a, 10 900 b, 21 20 a | displaced 1 1000 c, 9 900 a',
	kept => '1 d, 2 settled, 3 settled, 4 settled, 5 settled | siblings 1 c c, 1 d d+',
	made => '1 (c>d), 2 (C>d), 3 ((a>b)>late)',
	merged => '1 1111114 2 30, 2 7 0 100, 3 3 0 100',
	summed => '2 1000 1012, 3 300 1, 4 4 0, 5 500 1, 7 700 1, 21 20 1 | displaced 1 1000 1109');
$g->sql('d', 'DELETE FROM plain WHERE id = 10; DELETE FROM summed WHERE id = 2');
$g->sql('c', 'UPDATE plain SET u = 4 WHERE id = 4');
$g->sync;
ends('all are back', \@nodes,
	plain => '1 1000 c, 4 4 d, 5 500 C, 6 600 C, 7 700 a, 9 900 a, 21 20 a',
	summed => '1 1000 1109, 3 300 1, 4 4 0, 5 500 1, 7 700 1, 21 20 1');
$g->none_stands_still('all is applied');

$g->stop;
done_testing();
