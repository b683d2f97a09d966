# What local writes and displaced rows leave to be done ("follow-ups") is done later, and perhaps much later: while
# it fails, all that it needs may become stable. Nothing of that may be forgotten before it is done, over restarts, too.
#
#	a client inserts the key of a displaced row that has counted; on that node alone the sum cannot be
#	stored, until all have acknowledged what he wrote, and the server was restarted
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
SQL
$g->sql('a', "SELECT replp2p.set_column_merge('summed', 'n', 'counter')");
$g->sync;
$g->eventually($_, "SELECT count(*) = 0 FROM replp2p.table_handlers WHERE NOT settled") foreach $g->names;

# What stands in a table, and what is displaced.
sub state
{
	my ($name, $t) = @_;
	return $g->sql($name, <<"SQL");
SELECT coalesce(string_agg(concat_ws(' ', id, u, n), ', ' ORDER BY id), 'none') || ' | ' ||
	(SELECT coalesce(string_agg(concat_ws(' ', row ->> 'id', row ->> 'u', row ->> 'n'), ', ' ORDER BY key), 'none')
	 FROM replp2p.displaced WHERE relation = '$t'::regclass) FROM $t
SQL
}

# Wait until a node has this in a table.
sub has
{
	my ($name, $t, $expected) = @_;
	return $g->wait_until(sub { state($name, $t) eq $expected }) || diag("$name: " . state($name, $t)) && 0;
}

sub ends
{
	my ($t, $what, $expected) = @_;

	$g->sync;
	ok(has($_, $t, $expected), "$what: $_") foreach $g->names;
	return;
}

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
	ends('summed', $what, $restart ? '1 10 26, 3 30 28 | none' : '1 10 26 | none');
}

$g->stop;
done_testing();
