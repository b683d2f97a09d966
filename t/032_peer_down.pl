# A peer is down while a lot is written, and costs the others a change log and
# nothing else.
#
# The slot follows local decoding only: after each checkpoint its restart_lsn
# and catalog_xmin are near the present, and pg_wal stays as small as
# max_wal_size says. The log is kept, and stat_log says for whom. The
# peer comes back and catches up, and the log is trimmed.
#
# RP_DOWN_MB is how much is written meanwhile.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);
use Replp2p;

my $mb = $ENV{RP_DOWN_MB} // 150;
my $big_mb = 24;	# of them in one transaction, more than a segment of the log
my $wal_limit_mb = 112;	# max_wal_size, and what a checkpoint in progress adds
my $log_limit_mb = 40;	# a log that is trimmed: two segments of 16 MB, and a batch each
my $conf = "max_wal_size = 48MB\nmin_wal_size = 32MB\n";
die 'RP_DOWN_MB is too little to tell' if $mb <= $wal_limit_mb;

my $g = Replp2p->group([ 'a', 'b' ], conf => $conf, schema => <<'SQL');
CREATE TABLE filler (id int PRIMARY KEY, v bytea, n int DEFAULT 0);

-- n rows of 1 kB that can't be compressed, from id first on
CREATE FUNCTION fill(first int, n int) RETURNS void LANGUAGE sql AS $$
	INSERT INTO filler
	SELECT id, (SELECT string_agg(sha512(int4send(id) || int4send(x)), '') FROM generate_series(1, 16) x)
	FROM generate_series(first, first + n - 1) id
$$;
SQL

sub seq { return $g->sql('a', 'SELECT seq FROM replp2p.stat_capture') }

# One test: after a checkpoint the slot of name holds back neither WAL nor dead catalog rows.
sub nothing_is_held
{
	my ($name, $what) = @_;
	my $held;
	ok( $g->wait_until(
			sub {
				$g->sql($name, 'CHECKPOINT');
				$held = $g->sql($name, <<'SQL');
SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), s.restart_lsn) / 1024 / 1024, age(s.catalog_xmin),
	(SELECT sum(size) FROM pg_ls_waldir()) / 1024 / 1024
FROM pg_replication_slots s JOIN replp2p.stat_capture USING (slot_name)
SQL
				my ($wal, $age, $files) = split(/\|/, $held);
				return $wal < 1 && $age < 10 && $files <= $wal_limit_mb;
			}),
		"$what: the slot on $name holds nothing back")
	  or diag("MB behind|transactions behind|MB of WAL files: $held");
	my ($wal, $age, $files) = split(/\|/, $held);
	Replp2p::figure(sprintf('%s, on %s: slot %.2f MB behind, pg_wal %.0f MB', $what, $name, $wal, $files));
}

# Size of the log of origin a on a node, in MB, as the view and as the disk say.
sub log_mb
{
	my ($name) = @_;
	my $folder = $g->log_folder($name, 'a');
	my $bytes = 0;
	$bytes += -s "$folder/$_" foreach grep { -f "$folder/$_" } slurp_dir($folder);
	return ($g->sql($name, "SELECT log_bytes / 1024 / 1024 FROM replp2p.stat_log WHERE origin = 'a'"),
		$bytes / 1024 / 1024);
}

$g->sql('a', 'SELECT fill(1, 1000)');
$g->sync;
ok($g->eventually('a', "SELECT held_by IS NULL FROM replp2p.stat_log WHERE origin = 'a'"), 'b has acknowledged all');
my $first_seq = seq() + 1;
$g->node('b')->stop('fast');

my $start = time();
my $big_from = int(($mb - $big_mb) / 2);
my $sql = '';
foreach my $i (1 .. $mb - $big_mb)
{
	my $id = $i * 1000 + 1;
	$sql .= "SELECT fill($id, 1000);\n";
	$sql .= "UPDATE filler SET n = n + 1 WHERE id % 10 = 0 AND id BETWEEN $id - 2000 AND $id;\n"
	  . "DELETE FROM filler WHERE id BETWEEN $id - 1500 AND $id - 1400;\n" if $i % 10 == 0;
	$sql .= 'SELECT fill(' . $mb * 1000 . ", $big_mb * 1000);\n" if $i == $big_from;
}
$g->sql('a', "SET client_min_messages = error;\n$sql");
Replp2p::figure(sprintf('%d MB written in %.1f s', $mb, time() - $start));
$g->sql('a', "SELECT replp2p.wait_for_token(replp2p.current_token())");

nothing_is_held('a', 'b is down');
my ($viewed, $found) = log_mb('a');
cmp_ok($found, '>', $mb, 'the log of a keeps all of it');
cmp_ok(abs($found - $viewed), '<', 1, 'as stat_log says');
is($g->sql('a', "SELECT held_by FROM replp2p.stat_log WHERE origin = 'a'"), 'b', 'it says who holds it');
is($g->sql('a', "SELECT held_transactions FROM replp2p.stat_log WHERE origin = 'a'"), seq() - $first_seq + 1,
	'and by how many transactions');
is($g->sql('a', "SELECT oldest_seq <= $first_seq AND stable_seq < $first_seq AND stored_seq = " . seq()
		. " FROM replp2p.stat_log WHERE origin = 'a'"), 't', 'with what seqs');
ok($g->eventually('a', "SELECT state FROM replp2p.stat_members WHERE node_name = 'b'", 'unreachable'),
	'a says that b is unreachable');

$start = time();
$g->node('b')->start;
my $token = $g->sql('a', 'SELECT replp2p.current_token()');
$g->sql('b', "SELECT replp2p.wait_for_token('$token', '15 minutes')");
Replp2p::figure(sprintf('b has caught up with %d MB in %.1f s, from its start on', $mb, time() - $start));
$g->same('filler', 'b has caught up');

foreach my $name ('a', 'b')
{
	ok($g->eventually($name, "SELECT held_by IS NULL AND log_bytes < $log_limit_mb * 1024 * 1024
			FROM replp2p.stat_log WHERE origin = 'a'"), "the log is trimmed on $name");
	cmp_ok((log_mb($name))[1], '<', $log_limit_mb, 'on its disk, too');
	nothing_is_held($name, 'b is back');
}
is($g->sql($_, 'SELECT count(*) FROM replp2p.conflicts'), 0, "no conflict on $_") foreach $g->names;

$g->sql('b', "UPDATE filler SET n = -1 WHERE id = 1");
$g->sql('a', "UPDATE filler SET n = -2 WHERE id = 2");
$g->sync;
$g->same('filler', 'and it goes on both ways');

$g->stop;
done_testing();
