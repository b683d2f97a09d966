# A link is cut, and the third node carries what its ends write to one another.
#
# replp2p.unreachable_peers on a cuts the link between a and c. Each gets the
# other's changes by way of b, in the very bytes that their origin has sealed
# (the batches in the three change logs are compared); acks go that way, too, so
# that everything becomes stable and the logs are trimmed. When the link is
# healed, each asks the other directly again.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Replp2p;

use constant { HEADER_SIZE => 12, TYPE_BATCH => 1 };	# of a record of a change log

my $g = Replp2p->group([ 'a', 'b', 'c' ], schema => <<'SQL');
CREATE TABLE t (id int PRIMARY KEY, v text);
CREATE TABLE filler (id int PRIMARY KEY, b bytea);
ALTER TABLE filler ALTER b SET STORAGE EXTERNAL;
SQL

sub source_is
{
	my ($name, $origin, $source) = @_;
	return ok(
		$g->eventually($name, "SELECT source FROM replp2p.stat_lag WHERE origin = '$origin'", $source),
		"$name asks $source for the changes of $origin");
}

# Cut a's links to peers, and wait for what was under way on them: each asks
# b, if that is left, and no long poll waits for an answer any more.
sub cut
{
	my (@peers) = @_;

	$g->set('a', 'replp2p.unreachable_peers', join(', ', @peers));
	foreach my $peer (@peers)
	{
		ok($g->eventually('a', "SELECT NOT connected AND cut FROM replp2p.stat_links WHERE node_name = '$peer'") &&
			$g->eventually($peer, "SELECT NOT connected FROM replp2p.stat_links WHERE node_name = 'a'") &&
			$g->eventually('a', "SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = 'replp2p $peer' AND state = 'active'"),
			"the link between a and $peer is cut");
	}
}

# Batches that name has received from peer.
sub received
{
	my ($name, $peer) = @_;
	return $g->sql($name, "SELECT batches_received FROM replp2p.stat_links WHERE node_name = '$peer'");
}

# The batches that a node stores of an origin: "first seq.part" -> bytes.
sub batches
{
	my ($name, $origin) = @_;
	my $folder = $g->log_folder($name, $origin);
	my %batches;

	foreach my $segment (sort grep { /^[0-9a-f]{16}\.[0-9a-f]{8}$/ } slurp_dir($folder))
	{
		my $bytes = slurp_file("$folder/$segment");
		my $at = 0;

		while ($at + HEADER_SIZE <= length($bytes))
		{
			my ($length, $crc, $type) = unpack('V V C', substr($bytes, $at, HEADER_SIZE));
			my $payload = substr($bytes, $at + HEADER_SIZE, $length);

			$at += HEADER_SIZE + $length;
			next unless $type == TYPE_BATCH;
			my ($seq, $part) = unpack('x44 Q< x8 V', $payload);
			$batches{"$seq.$part"} = $payload;
		}
	}
	return \%batches;
}

# One test: what holder stores of origin are the origin's own bytes; at least from seq on.
sub verbatim
{
	my ($origin, $holder, $seq) = @_;
	my $own = batches($origin, $origin);
	my $stored = batches($holder, $origin);
	my @keys = grep { $_ >= $seq } sort { $a <=> $b } keys %$own;
	my @different = grep { ($stored->{$_} // '') ne $own->{$_} } @keys;

	ok(@keys > 1 && !@different, "$holder stores the very bytes of $origin (" . @keys . ' batches)')
	  or diag("different: @different");
}

sub seq { return $g->sql($_[0], 'SELECT seq FROM replp2p.stat_capture') }

sub write_some
{
	my ($what) = @_;
	my $n = 0;
	foreach my $name ($g->names)
	{
		$n += 1000;
		$g->sql($name, "INSERT INTO t VALUES ($n + $_, '$what $_ $name') ON CONFLICT (id) DO UPDATE SET v = excluded.v")
		  foreach (1 .. 5);
		$g->sql($name, "INSERT INTO t VALUES (1, '$what $name') ON CONFLICT (id) DO UPDATE SET v = excluded.v");
	}
	$g->sync;
	$g->same('t', "$what: everything is everywhere");
}

source_is('a', 'c', 'c');
source_is('c', 'a', 'a');
write_some('before');
cmp_ok(received('c', 'a'), '<=', seq('a'), 'no batch was sent twice');

cut('c');
source_is('c', 'a', 'b');
source_is('a', 'c', 'b');
source_is('b', 'a', 'a');
source_is('b', 'c', 'c');

my %first_cut = map { $_ => seq($_) + 1 } $g->names;
my ($a_from_c, $c_from_a, $c_from_b) = (received('a', 'c'), received('c', 'a'), received('c', 'b'));
write_some('cut');
verbatim('a', 'b', $first_cut{a});
verbatim('a', 'c', $first_cut{a});
verbatim('c', 'b', $first_cut{c});
verbatim('c', 'a', $first_cut{c});

# more than the logs keep once it is stable: two segments of 16 MB and a bit
foreach my $origin ('a', 'c')
{
	my $shift = $origin eq 'a' ? 0 : 1000;
	$g->sql($origin, join('', map {
		my $id = $_ + $shift;
		"INSERT INTO filler SELECT $id, string_agg(sha512('$id:' || x::text::bytea), '') FROM generate_series(1, 16384) x;\n"
	} (1 .. 36)));
}
my %end = map { $_ => seq($_) } $g->names;
$g->sync;
$g->same('filler', 'cut: so is what is large');
foreach my $name ($g->names)
{
	foreach my $origin ($g->names)
	{
		ok($g->eventually($name, "SELECT stable_seq >= $end{$origin} FROM replp2p.stat_log WHERE origin = '$origin'"),
			"cut: the changes of $origin become stable on $name");
	}
	foreach my $origin ('a', 'c')
	{
		ok($g->eventually($name, "SELECT oldest_seq > $first_cut{$origin} AND log_bytes < 34 * 1024 * 1024
				FROM replp2p.stat_log WHERE origin = '$origin'"),
			"cut: the log of $origin is trimmed on $name");
	}
}
is(received('a', 'c'), $a_from_c, 'cut: a has received no batch from c');
is(received('c', 'a'), $c_from_a, 'nor c from a');
cmp_ok(received('c', 'b'), '>=', $c_from_b + 36, 'but c from b');
source_is('c', 'a', 'b');
source_is('a', 'c', 'b');

# a node that only relays has no say in what it relays
is($g->sql('b', "SELECT sum(refused_batches) FROM replp2p.stat_server"), 0, 'no batch was refused on b');
is($g->sql('c', "SELECT sum(refused_batches) FROM replp2p.stat_server"), 0, 'nor on c');

$g->set('a', 'replp2p.unreachable_peers', undef);
source_is('c', 'a', 'a');
source_is('a', 'c', 'c');
my %first_healed = map { $_ => seq($_) + 1 } $g->names;
write_some('healed');
verbatim('a', 'c', $first_healed{a});
verbatim('c', 'a', $first_healed{c});
cmp_ok(received('c', 'a'), '>', $c_from_a, 'healed: c receives from a again');
# c has had something from b since it asks a, so what it had asked b for before is over
$c_from_b = received('c', 'b');
foreach my $id (6001 .. 6005)
{
	$g->sql('a', "INSERT INTO t VALUES ($id, 'healed')");
	$g->sync('a');
}
is(received('c', 'b'), $c_from_b, 'healed: and no more of its changes from b');
is($g->sql('c', "SELECT string_agg(node_name || ' ' || connected, ',' ORDER BY node_name) FROM replp2p.stat_links"),
	'a true,b true', 'healed: c is connected to both');

# The only way is cut off as well: a is alone until one link is back. Settings count at once, not when the
# next exchange of state is due.
$g->set('a', 'replp2p.gossip_interval', '10min');
cut('b', 'c');
$g->sql('a', "INSERT INTO t VALUES (5001, 'alone')");
$g->sql('c', "INSERT INTO t VALUES (5002, 'without a')");
ok($g->eventually('b', "SELECT count(*) = 1 FROM t WHERE id = 5002"), 'b and c go on without a');
source_is('c', 'a', 'b');
is($g->sql('c', 'SELECT count(*) FROM t WHERE id = 5001'), 0, 'nothing of a comes through');
$g->set('a', 'replp2p.unreachable_peers', 'c');
ok($g->eventually('a', 'SELECT count(*) = 1 FROM t WHERE id = 5002'), 'a has the link as soon as it is allowed');
$g->set('a', 'replp2p.gossip_interval', undef);
$g->sync;
$g->same('t', 'one link back, and everything is everywhere');

$g->stop;
done_testing();
