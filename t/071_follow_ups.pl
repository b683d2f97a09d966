# What local writes and displaced rows leave to be done ("follow-ups") is done later, and perhaps much later: while
# it fails, all that it needs may become stable. Nothing of that may be forgotten before it is done, over restarts, too.
#
#	a client inserts the key of a displaced row that has counted; on that node alone the sum cannot be
#	stored, until all have acknowledged what he wrote, and the server was restarted
#	a counter is set, and the key of a displaced row inserted, between two looks of apply at what it is to do
#	a displaced row has beaten greater stamps by a change of the handler, which is long settled: neither
#	what is left of the logs, nor tombstones, may have it go
#	a joiner reads such a row's version from the logs: not the greater stamp that it has beaten
#	a row made of two versions is displaced when the greater of them is forgotten as stable: that one, which
#	still is in the own log, may not have it go after a restart
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Replp2p;

my $g = Replp2p->group([ 'a', 'b', 'c' ], schema => <<'SQL');
CREATE TABLE summed (id int PRIMARY KEY, u int UNIQUE, n int NOT NULL DEFAULT 0);
CREATE FUNCTION fine(n int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN n; END';
CREATE INDEX ON summed (fine(n));
CREATE TABLE later (LIKE summed INCLUDING INDEXES INCLUDING DEFAULTS);
CREATE TABLE made (id int PRIMARY KEY, u int UNIQUE, n int NOT NULL DEFAULT 0);
CREATE FUNCTION older(older made, newer made, conflict replp2p.conflict) RETURNS made LANGUAGE sql IMMUTABLE RETURN older;
CREATE TABLE two (id int PRIMARY KEY, u int UNIQUE, w int UNIQUE, n int NOT NULL DEFAULT 0);
CREATE TABLE ruled (id int PRIMARY KEY, u int UNIQUE, n int NOT NULL DEFAULT 0);
SQL
$g->sql('a', "SELECT replp2p.set_column_merge('summed', 'n', 'counter')");
$g->sql('a', "SELECT replp2p.set_conflict_handler('made', 'custom', 'older(made, made, replp2p.conflict)')");
$g->sync;
$g->eventually($_, "SELECT count(*) = 0 FROM replp2p.table_handlers WHERE NOT settled") foreach $g->names;

# Two rows of one value, the first of them displaced.
sub displace
{
	my ($t, $first, $second) = @_;

	$g->sync;
	$g->sql_all('SELECT replp2p.pause_apply()');
	$g->sql('a', "INSERT INTO $t VALUES ($first)");
	$g->sql('b', "INSERT INTO $t VALUES ($second)");
	$g->sql_all('SELECT replp2p.resume_apply()');
	return;
}

# Wait until all that a node has written is stable on it.
sub stable
{
	my ($name) = @_;
	return $g->eventually($name, "SELECT l.stable_seq >= (SELECT seq FROM replp2p.stat_capture) FROM replp2p.stat_log l WHERE l.origin = '$name'");
}

# Have a row with this n be refused on a, or no more.
sub refuse
{
	my ($n) = @_;
	my $body = defined $n ? "IF n = $n THEN RAISE 'not $n'; END IF; RETURN n;" : 'RETURN n;';
	return $g->sql('a', "CREATE OR REPLACE FUNCTION fine(n int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS \$f\$BEGIN $body END\$f\$");
}

# Wait until apply has failed for it on a, as the server's log tells.
sub refused
{
	my ($n) = @_;
	return $g->wait_until(sub { slurp_file($g->node('a')->logfile) =~ /ERROR:  not $n/ });
}

foreach my $restart (0, 1)
{
	my ($one, $two) = $restart ? (3, 4) : (1, 2);
	my ($u, $sum) = ($one * 10, 25 + $one);
	my $what = $restart ? 'restarted meanwhile' : 'all is stable meanwhile';

	displace('summed', "$one, $u, 5", "$two, $u, 7");
	$g->sync;
	ok($g->eventually($_, "SELECT count(*) = 1 FROM replp2p.displaced"), "$what: a row is displaced on $_") foreach $g->names;
	refuse($sum);
	$g->sql('a', "BEGIN; DELETE FROM summed WHERE id = $two; INSERT INTO summed VALUES ($one, $u, 20 + $one); COMMIT");
	ok(refused($sum), "$what: the sum is refused");
	$g->sync('a');
	ok(stable('a'), "$what: what the client wrote is stable");
	if ($restart)
	{
		$g->node('a')->restart;
		$g->up('a');
		ok(stable('a'), "$what: and again");
	}
	refuse(undef);
	$g->ends('summed', $what, $restart ? '1 10 26, 3 30 28 | none' : '1 10 26 | none');
}

# Apply learns of the counter before it judges what was written with it. It has read changes of the table before, and
# need not look at the table again: old values are logged all the time.
$g->sql_all('ALTER TABLE later REPLICA IDENTITY FULL');
displace('later', '1, 10, 5', '2, 10, 7');
$g->ends('later', 'no counter yet', '2 10 7 | 1 10 5');
my $stopped = $g->node('a')->data_dir . '/replp2p/stopped_at_displaced_before_follow';
my $pid = $g->pid('a', 'apply');
$g->set('a', 'replp2p.crash_point', 'stop:displaced_before_follow');
foreach my $round (1, 2)
{
	$g->sql('a', "UPDATE later SET n = n + 1 WHERE id = 2");
	ok($g->wait_until(sub { -e $stopped }), 'apply is about to look');
	next if $round == 2;
	unlink $stopped;
	kill 'CONT', $pid;
}
$g->sql('a', "SELECT replp2p.set_column_merge('later', 'n', 'counter')");
$g->sql('a', "INSERT INTO later VALUES (1, 11, 20)");
$g->captured('a');
kill 'CONT', $pid;
$g->set('a', 'replp2p.crash_point', undef);
$g->ends('later', 'a counter was set meanwhile', '1 11 25, 2 10 9 | none');

# Of two concurrent versions the one that has seen a change of the handler wins, though its stamp be less. When the change is
# settled, and the table no longer tracked, nothing tells of that but what stands there, or is displaced.
sub handlers_settled
{
	ok($g->eventually($_, 'SELECT count(*) = 0 FROM replp2p.table_handlers WHERE NOT settled'), "settled on $_") foreach $g->names;
	return;
}

$g->sql('a', "SELECT replp2p.set_conflict_handler('ruled', 'vector_clock')");
$g->sync;
handlers_settled();
$g->sql('a', "INSERT INTO ruled VALUES (1, 1), (3, 3), (5, 5)");
$g->sync;
$g->sql_all('SELECT replp2p.pause_apply()');
$g->sql('b', "SELECT replp2p.set_conflict_handler('ruled', 'last_writer_wins')");
$g->sql('b', "UPDATE ruled SET u = id * 10");
$g->sql('a', "UPDATE ruled SET n = 1 WHERE id = 1; DELETE FROM ruled WHERE id = 3; DELETE FROM ruled WHERE id = 5");
$g->sql('a', "INSERT INTO ruled VALUES (2, 10), (4, 30), (6, 50)");
$g->sql_all('SELECT replp2p.resume_apply()');
$g->ends('ruled', 'displaced, after they beat greater stamps', '2 10 0, 4 30 0, 6 50 0 | 1 10 0, 3 30 0, 5 50 0');
handlers_settled();
$g->sql('b', "DELETE FROM ruled WHERE id = 4");
$g->ends('ruled', 'one comes back', '2 10 0, 3 30 0, 6 50 0 | 1 10 0, 5 50 0');
$g->node('a')->restart;
$g->up('a');
$g->sql('b', "DELETE FROM ruled WHERE id = 6");
$g->ends('ruled', 'another one, after a restart', '2 10 0, 3 30 0, 5 50 0 | 1 10 0');
$g->sql('b', "DELETE FROM ruled WHERE id = 2");
$g->ends('ruled', 'and one whose key had been written here', '1 10 0, 3 30 0, 5 50 0 | none');

# c has not seen what a wrote: so that stays, and what b wrote goes from b's memory when apply starts anew.
sub apply_anew
{
	my ($name) = @_;
	my $pid = $g->pid($name, 'apply');

	$g->sql($name, "SELECT pg_terminate_backend($pid)");
	return $g->eventually($name, "SELECT pid <> $pid FROM replp2p.stat_apply WHERE pid IS NOT NULL");
}

$g->sync;
$g->sql('c', "SELECT replp2p.pause_apply('a')");
$g->sql('b', "SELECT replp2p.pause_apply()");
$g->sql('a', "INSERT INTO made VALUES (1, 70)");
$g->sql('b', "INSERT INTO made VALUES (1, 71)");
$g->sql('b', "SELECT replp2p.resume_apply()");
ok($g->has($_, 'made', $_ eq 'c' ? '1 71 0 | none' : '1 70 0 | none'), "made of two versions: $_") foreach $g->names;
ok(stable('b'), 'the greater of them is stable');
ok(apply_anew('b'), 'and forgotten');
$g->sql('c', "INSERT INTO made VALUES (2, 70)");
ok($g->has('b', 'made', '2 70 0 | 1 70 0'), 'the row is displaced');
$g->sql('c', "SELECT replp2p.resume_apply('a')");
$g->ends('made', 'everywhere', '2 70 0 | 1 70 0');
$g->node('b')->restart;
$g->up('b');
$g->sql('c', "DELETE FROM made WHERE id = 2");
$g->ends('made', 'it comes back after a restart', '1 70 0 | none');

# Row 1 has beaten a greater stamp, between which and its own is that of row 8: it is less than that, which row 9 displaces.
$g->sql('a', "SELECT replp2p.set_conflict_handler('two', 'vector_clock')");
$g->sync;
handlers_settled();
$g->sql('a', "INSERT INTO two VALUES (1)");
$g->sync;
$g->sql_all('SELECT replp2p.pause_apply()');
$g->sql('b', "SELECT replp2p.set_conflict_handler('two', 'last_writer_wins')");
$g->sql('b', "UPDATE two SET u = 80 WHERE id = 1");
$g->sql('c', "INSERT INTO two VALUES (8, 80, 90)");
$g->sql('a', "UPDATE two SET n = 1 WHERE id = 1; INSERT INTO two VALUES (9, NULL, 90)");
$g->sql_all('SELECT replp2p.resume_apply()');
$g->ends('two', 'not in the way of who is displaced', '1 80 0, 9 0 | 8 80 0');
handlers_settled();
$g->add_cluster('d');
$g->join('d', 'a');
$g->ends('two', 'the same on a joiner', '1 80 0, 9 0 | 8 80 0');
$g->sql('b', "DELETE FROM two WHERE id = 9");
$g->ends('two', 'who comes back displaces it', '8 80 0 | 1 80 0');

$g->stop;
done_testing();
