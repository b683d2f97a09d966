# A join copies tables from several members at once, and what it makes of them is what its sponsor
# has: row by row, with their versions.
#
# d's join stops between the snapshots of the others and that of its sponsor a; meanwhile keys are changed in
# all ways, on all nodes, concurrently, too. So what is copied from b and c is old, and must be patched. e
# is killed when it has a part of another's table, and again in the middle of patching; it joins while nobody
# applies what c writes, whose older and newer writes then meet copied rows. f loses the other donor for good
# while it copies.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Replp2p;

my $g = Replp2p->group([ 'a', 'b', 'c' ], conf => "deadlock_timeout = 100ms\n", schema => <<'SQL');
CREATE TABLE wide (id int PRIMARY KEY, v text NOT NULL, n int NOT NULL DEFAULT 0, filler text) WITH (fillfactor = 10);
INSERT INTO wide SELECT i, 'v' || i, i % 10, repeat('f', 400) FROM generate_series(1, 12000) i;
CREATE TABLE other (LIKE wide INCLUDING ALL) WITH (fillfactor = 10);
INSERT INTO other SELECT * FROM wide WHERE id <= 11000;
CREATE TABLE composite (a text, b numeric, c int GENERATED ALWAYS AS IDENTITY, g int GENERATED ALWAYS AS (c * 2) STORED,
	p point, x xml, big text, PRIMARY KEY (b, a)) WITH (fillfactor = 10);
ALTER TABLE composite ALTER big SET STORAGE EXTERNAL;
INSERT INTO composite (a, b, p, big) SELECT 'a' || i, i / 7.0, point(i, i), repeat('x', 3000 * (i % 2)) FROM generate_series(1, 800) i;
CREATE TABLE emptied (id int PRIMARY KEY, v text) WITH (fillfactor = 10);
INSERT INTO emptied SELECT i, repeat('e', 400) FROM generate_series(1, 1500) i;
CREATE TABLE by_index (id int NOT NULL, v text) WITH (fillfactor = 10);
CREATE UNIQUE INDEX by_index_id ON by_index (id);
ALTER TABLE by_index REPLICA IDENTITY USING INDEX by_index_id;
INSERT INTO by_index SELECT i, repeat('i', 400) FROM generate_series(1, 1000) i;
-- what only the sponsor gives
CREATE TABLE keyless (a int, b text) WITH (fillfactor = 10);
INSERT INTO keyless SELECT i, repeat('k', 400) FROM generate_series(1, 1000) i;
CREATE TABLE claims (id int PRIMARY KEY, u int UNIQUE, v text) WITH (fillfactor = 10);
INSERT INTO claims SELECT i, i, repeat('c', 400) FROM generate_series(1, 1000) i;
CREATE TABLE clocked (id int PRIMARY KEY, v text) WITH (fillfactor = 10);
INSERT INTO clocked SELECT i, repeat('c', 400) FROM generate_series(1, 1000) i;
SQL
$g->sql('a', "SELECT replp2p.set_conflict_handler('clocked', 'vector_clock')");
$g->sync;
my @tables = qw(wide other composite emptied by_index keyless claims clocked);

# All nodes have the same.
sub whole
{
	my ($what) = @_;
	$g->sync;
	$g->same($_, "$what: $_ is the same on all nodes") foreach @tables;
}

# All rows of some kinds change on a node.
my $turn = 0;

sub change
{
	my ($name) = @_;
	$turn++;
	$g->sql($name, <<"SQL") foreach 'wide', 'other';
UPDATE $_ SET v = v || '.$turn', n = n + 1 WHERE id % 7 = $turn % 7 AND id > 200;
UPDATE $_ SET id = id + 100000 * $turn WHERE id % 501 = $turn AND id BETWEEN 200 AND 20000;
DELETE FROM $_ WHERE id % 11 = $turn % 11 AND id > 200;
INSERT INTO $_ SELECT 10000000 * $turn + i, 'new $turn ' || i, i % 10, repeat('g', 400) FROM generate_series(1, 300) i;
DELETE FROM $_ WHERE id = 150 + $turn;
INSERT INTO $_ VALUES (150 + $turn, 'again $turn');
SQL
	$g->sql($name, <<"SQL");
DELETE FROM composite WHERE c % 13 = $turn;
UPDATE composite SET a = a || '$turn' WHERE c % 5 = 0;
UPDATE composite SET p = point($turn, c) WHERE c % 7 = 0;
UPDATE by_index SET v = v || '$turn', id = id + CASE WHEN id % 3 = 0 THEN 10000 * $turn ELSE 0 END WHERE id % 17 = $turn;
INSERT INTO keyless SELECT i, 'turn $turn' FROM generate_series(1, 50) i;
UPDATE claims SET u = 100000 * $turn + id WHERE id % 9 = $turn % 9;
UPDATE clocked SET v = 'turn $turn' WHERE id % 19 = $turn % 19;
SQL
}

sub marker
{
	my ($name, $point) = @_;
	return $g->node($name)->data_dir . "/replp2p/$point";
}

# Have a new node join by a; it stops or dies at a point.
sub join_until
{
	my ($name, $point, $conf) = @_;
	my $node = $g->add_cluster($name, conf => "replp2p.crash_point = '$point'\ndeadlock_timeout = 100ms\n$conf");
	my $invite = $g->sql('a', 'SELECT replp2p.create_invite()');
	$g->sql($name, sprintf("SELECT replp2p.join_group('%s', '%s', '%s')", $name, Replp2p::dsn($node), $invite));
	my $stops = $point =~ s/^stop://;
	my $file = marker($name, ($stops ? 'stopped' : 'crashed') . "_at_$point");
	ok($g->wait_until(sub { -e $file }), "$name comes to $point") or die;
}

# A process of ours that has stopped goes on.
sub go_on
{
	my ($name, $type) = @_;
	my $pid = $g->sql($name, "SELECT pid FROM pg_stat_activity WHERE backend_type = 'replp2p $type'");
	ok($g->wait_until(sub { slurp_file("/proc/$pid/stat") =~ /\) T / }), "the $type process of $name has stopped");
	kill CONT => $pid;
}

# How much a joiner took from others: by name.
sub others
{
	my ($name) = @_;
	my $log = slurp_file($g->node($name)->logfile);
	my %bytes = reverse $log =~ /tables of (\d+) bytes are copied from node "(\w+)"/g;
	return %bytes;
}

sub finish
{
	my ($name) = @_;
	$g->ready($name);
	push @{ $g->{names} }, $name;
}

#
# Three donors, and everything changes between their snapshots.
#

join_until('d', 'stop:join_between_snapshots', "replp2p.join_workers = 3\nreplp2p.join_donors = 3\n");
change($_) foreach 'a', 'b', 'c';
$g->sql_all('SELECT replp2p.pause_apply()');
change($_) foreach 'a', 'b', 'c', 'a';
$g->sql('c', 'DELETE FROM emptied WHERE id % 3 = 0');
$g->sql_all('SELECT replp2p.resume_apply()');
$g->sync;
my $script = "$PostgreSQL::Test::Utils::tmp_check/several.sql";
append_to_file($script, <<'SQL');
\set id random(121, 200)
\set other random(121, 200)
UPDATE wide SET n = n + 1, filler = repeat(chr(97 + n % 26), 300 + n % 200) WHERE id = :id;
DELETE FROM other WHERE id = :other;
INSERT INTO other VALUES (:other, 'v' || :other, 1) ON CONFLICT DO NOTHING;
SQL
my @load = map { $g->pgbench($_, '-T', 600, '-R', 50, '-f', $script) } 'a', 'b', 'c';
go_on('d', 'join');
finish('d');
ok($g->halt(@load), 'there was load on all of them');
whole('three donors');
my %others = others('d');
is(join(' ', sort keys %others), 'b c', 'd has copied from both others');
cmp_ok($others{$_}, '>', 1e6, "much of it from $_") foreach 'b', 'c';
like($g->sql('d', 'SELECT donors FROM replp2p.stat_join'), qr/^a, (b, c|c, b)$/, 'and shows them');
is($g->sql('d', 'SELECT phase FROM replp2p.stat_join'), 'ready', 'd is ready');

#
# Killed with a part of another's table, and while patching.
#

# c's writes of some keys are older than b's, of some newer, and nobody has seen them
$g->sql('c', 'SELECT replp2p.pause_apply()');
$g->sql($_, "SELECT replp2p.pause_apply('c')") foreach 'a', 'b', 'd';
$g->sql('c', "UPDATE $_ SET v = 'old c' WHERE id <= 50; DELETE FROM $_ WHERE id BETWEEN 51 AND 60") foreach 'wide', 'other';
$g->sql('b', "UPDATE $_ SET v = 'new b' WHERE id <= 100; DELETE FROM $_ WHERE id BETWEEN 101 AND 120") foreach 'wide', 'other';
$g->sql('c', "UPDATE $_ SET v = 'new c' WHERE id BETWEEN 61 AND 110") foreach 'wide', 'other';
my $token = $g->sql('b', 'SELECT replp2p.current_token()');
$g->sql($_, "SELECT replp2p.wait_for_token('$token')") foreach 'a', 'd';

sub start_again
{
	my ($name) = @_;
	my $node = $g->node($name);
	my $pid = $node->{_pid};
	ok($g->wait_until(sub { !kill(0, $pid) }), "$name is dead");
	delete $node->{_pid};
	$node->start;
}

join_until('e', 'join_after_other_piece', "replp2p.join_workers = 2\nreplp2p.join_donors = 2\n");
change('a');
change('b');
change('d');
$g->node('e')->append_conf('postgresql.conf', "replp2p.crash_point = 'join_before_patch'\n");
start_again('e');
ok($g->wait_until(sub { -e marker('e', 'crashed_at_join_before_patch') }), 'e is killed while it patches');
change('b');
$g->sql('a', "TRUNCATE emptied; INSERT INTO emptied SELECT i, repeat('z', 400) FROM generate_series(1, 700) i");
change('a');
start_again('e');
finish('e');
$g->sql('c', 'SELECT replp2p.resume_apply()');
$g->sql($_, "SELECT replp2p.resume_apply('c')") foreach 'a', 'b', 'd';
whole('killed twice');
my $log = slurp_file($g->node('e')->logfile);
like($log, qr/the join goes on where it was: [1-9]/, 'the join went on');
unlike($log, qr/begins anew/, 'and did not begin anew');
like($log, qr/table "emptied" is copied from the sponsor after all/, 'what was truncated is copied from the sponsor');
is( $g->sql('e', "SELECT count(*) FILTER (WHERE v = 'old c'), count(*) FILTER (WHERE v = 'new b'), count(*) FILTER (WHERE v = 'new c') FROM $_"),
	'0|60|50', "older writes lose to rows of $_ that were copied, newer ones win") foreach 'wide', 'other';

#
# The other donor dies.
#

join_until('f', 'stop:join_after_other_piece', "replp2p.join_workers = 2\nreplp2p.join_donors = 2\n");
my ($donor) = keys %{ { others('f') } };
ok($g->kill_postmaster($donor), "$donor, from which f copies, is killed");
change('a');
go_on('f', 'copier');
$g->ready('f');
$g->node($donor)->start;
$g->up($donor);
push @{ $g->{names} }, 'f';
whole('a donor lost');
like(slurp_file($g->node('f')->logfile), qr/table "\w+" is copied from the sponsor after all/, 'the sponsor has given the rest');

# and all go on
change($_) foreach $g->names;
whole('afterwards');

$g->stop;
done_testing();
