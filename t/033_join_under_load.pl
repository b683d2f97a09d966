# Nodes join while everything is written to, and end identical to the others.
#
# c joins a and b under pgbench, a storm on hot keys, and clients that write
# rows which nobody else touches: the last may not be conflicts anywhere, however
# a row came to a node. Then d joins by way of c, which is itself copied; this time
# b applies nothing for a while, nor do a and c apply what b writes: so rows
# are copied that are not stable, and later meet versions that are concurrent with
# them. Which row must come out is known, and how many conflicts.
#
# RP_SEED repeats the storm's choices.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Replp2p;

my $seed = $ENV{RP_SEED} // int(rand(2**31));
Replp2p::seed($seed);
my $rate = $ENV{RP_RATE} // 50;	# transactions per second of each kind of load on each node

my @conf = (conf => 'deadlock_timeout = 100ms');
my $g = Replp2p->group(['a'], @conf);
$g->pgbench_tables('a');
$g->sql('a', Replp2p->storm_schema . <<'SQL');
CREATE TABLE own (id int PRIMARY KEY, n int, v text);
INSERT INTO own SELECT i, 0, 'start' FROM generate_series(1, 6000) i;
CREATE TABLE crossed (id int PRIMARY KEY, v text, big text);
ALTER TABLE crossed ALTER big SET STORAGE EXTERNAL;
CREATE TABLE emptied (id int PRIMARY KEY, v text);
SQL
$g->add_cluster($_, @conf) foreach qw(b c d);
$g->join('b', 'a');

# Rows from :base + 1 to :base + 1000, which no other node writes.
my $own_script = "$PostgreSQL::Test::Utils::tmp_check/own.sql";
append_to_file($own_script, <<'SQL');
\set id :base + random(1, 1000)
\set other :base + random(1, 1000)
UPDATE own SET n = n + 1, v = 'updated' WHERE id = :id;
DELETE FROM own WHERE id = :other;
INSERT INTO own VALUES (:id, 0, 'inserted') ON CONFLICT (id) DO UPDATE SET n = own.n + 1;
SQL

my @load;
my %base = (a => 0, b => 1000, c => 2000, d => 3000);

# Load of all kinds on a node, until halted.
sub load
{
	my ($name) = @_;
	my @options = ('-T', 600, '-R', $rate, '--random-seed=' . ($seed + $base{$name}));
	push @load,
	  $g->pgbench($name, @options, '-c', 1),
	  $g->pgbench($name, @options, '-c', 2, '-f', Replp2p->storm_script),
	  $g->pgbench($name, @options, '-c', 1, '-f', $own_script, '-D', "base=$base{$name}");
}

my @tables = qw(pgbench_accounts pgbench_tellers pgbench_branches pgbench_history hot own);

sub seq { return $g->sql($_[0], 'SELECT seq FROM replp2p.stat_capture') }

# Have a node join by sponsor; tests that what is written on others goes on meanwhile.
sub join_loaded
{
	my ($name, $sponsor) = @_;
	my @others = $g->names;
	my %before = map { $_ => seq($_) } @others;

	$g->join($name, $sponsor);
	my %written = map { $_ => seq($_) - $before{$_} } @others;
	cmp_ok($written{$_}, '>', $rate, "$_ was written to while $name joined") foreach @others;
	Replp2p::figure("$name joined by $sponsor while " . join(', ', map { "$_ wrote $written{$_} transactions" } @others));
}

sub no_own_conflicts
{
	is($g->sql($_, "SELECT count(*) FROM replp2p.conflicts WHERE relation = 'own'::regclass"), 0,
		"what only one node writes is no conflict on $_")
	  foreach $g->names;
}

# Wait until the nodes in to have what those in from have written.
sub see
{
	my ($to, @from) = @_;
	foreach my $token (map { $g->sql($_, 'SELECT replp2p.current_token()') } @from)
	{
		$g->sql($_, "SELECT replp2p.wait_for_token('$token', '3 minutes')") foreach @$to;
	}
}

load($_) foreach qw(a b);
ok($g->eventually($_, "SELECT seq > $rate FROM replp2p.stat_capture"), "$_ is under load") foreach qw(a b);
join_loaded('c', 'a');
load('c');

# Rows that d is to meet as copies which are not stable. Each key has a history: steps "node
# what", in order of time; what is put (the whole row), gone (a delete, whatever is seen), or touch (an update
# that leaves the out-of-line value unchanged). Two steps before d's copy, by a, b or c, two after it. What
# b does and what the others do is concurrent, the last step wins.
my @before = ([qw(b a)], [qw(a b)], [qw(b c)], [qw(c b)], [qw(a c)], [qw(b)], [qw(a)], [qw(c)]);
my @after = ([], ['b'], ['d'], ['a'], [qw(b d)], [qw(d b)], [qw(c d)], [qw(d a)], [qw(b a)]);
my $key = 0;
my %history;
my @steps = ({}, {}, {}, {});

foreach my $early (@before)
{
	foreach my $late (@after)
	{
		foreach my $choice (0 .. 15)
		{
			my @who = (@$early, (undef) x (2 - @$early), @$late, (undef) x (2 - @$late));
			next if grep { !defined $who[$_] && $choice >> $_ & 1 } (0 .. 3);
			$key++;
			foreach my $i (grep { defined $who[$_] } (0 .. 3))
			{
				my $what = $choice >> $i & 1 ? 'gone' : $key % 3 == 0 && !$choice ? 'touch' : 'put';
				my $v = "$who[$i]$i";
				push @{ $history{$key} }, "$v $what";
				$steps[$i]{ $who[$i] } .=
				    $what eq 'put'
				  ? "INSERT INTO crossed VALUES ($key, '$v', repeat('$v', 5000)) ON CONFLICT (id) DO UPDATE SET v = excluded.v, big = excluded.big;\n"
				  : $what eq 'touch' ? "UPDATE crossed SET v = '$v' WHERE id = $key;\n"
				  : "BEGIN; INSERT INTO crossed VALUES ($key, '$v') ON CONFLICT DO NOTHING; DELETE FROM crossed WHERE id = $key; COMMIT;\n";
			}
		}
	}
}
$g->sql('a', "INSERT INTO crossed SELECT i, 'start', repeat('start', 2000) FROM generate_series(1, $key) i;
	INSERT INTO emptied SELECT i, 'start' FROM generate_series(1, 10) i");
$g->sync;

# b sees nobody and nobody sees b; a and c have seen the same of it, else they would wait for
# one another
ok($g->halt(grep { $_->{name} eq 'b' } @load), 'b was under load all the time');
@load = grep { $_->{name} ne 'b' } @load;
$g->sync;
$g->sql('b', 'SELECT replp2p.pause_apply()');
$g->sql($_, "SELECT replp2p.pause_apply('b')") foreach qw(a c);
load('b');
foreach my $step (@steps[ 0, 1 ])
{
	$g->sql($_, $step->{$_}) foreach sort keys %$step;
	see([qw(a c)], qw(a c));
}
$g->sql('b', "UPDATE emptied SET v = 'b early' WHERE id <= 5");
$g->sql('a', 'TRUNCATE emptied');
$g->sql('a', "INSERT INTO emptied VALUES (1, 'a')");
see(['c'], 'a');
join_loaded('d', 'c');
see(['d'], 'b');	# it has what c had not when it was copied
load('d');
foreach my $step (@steps[ 2, 3 ])
{
	$g->sql($_, $step->{$_}) foreach sort keys %$step;
	see([qw(a c)], qw(a c));
	see(['d'], qw(a b c));
}
$g->sql('b', "UPDATE emptied SET v = 'b late' WHERE id IN (1, 9)");

$g->sql($_, 'SELECT replp2p.resume_apply()') foreach qw(a b c);
ok($g->halt(@load), 'the load went on to the end');
$g->sync;

$g->same($_) foreach (@tables, 'crossed', 'emptied');
no_own_conflicts();
is($g->sql('d', "SELECT string_agg(id || v, ' ' ORDER BY id) FROM emptied"), '1b late 9b late',
	'a TRUNCATE that was copied with the rows takes what is earlier');

my %found = split(/[|\n]/, $g->sql('d', 'SELECT id, v FROM crossed'));
my @wrong = grep {
	my ($v, $what) = split(/ /, $history{$_}[-1]);
	($found{$_} // 'none') ne ($what eq 'gone' ? 'none' : $v)
} sort { $a <=> $b } keys %history;
is(scalar(@wrong), 0, 'the last step stands in each of ' . keys(%history) . ' histories')
  or diag(map { "$_ (@{ $history{$_} }): " . ($found{$_} // 'none') . "\n" } @wrong[ 0 .. ($#wrong > 9 ? 9 : $#wrong) ]);

# Conflicts: none where each step saw those before it (a and c see one another, d sees all, b
# sees nobody); one on each node where b and one other met once.
my (@seen, @met, @met_copy);
foreach my $key (keys %history)
{
	my $who = join('', map { substr($_, 0, 1) } @{ $history{$key} });
	push @seen, $key if $who =~ /^([ac]*|b*)d?$/;
	push @met, $key if $who =~ /^(b[ac]|[ac]b)$/ && "@{ $history{$key} }" !~ /gone/;
	push @met_copy, $key if "@{ $history{$key} }" =~ /^(b0 put [ac]1 put|[ac]0 put b1 put)$/;
}
my $count = 'SELECT count(*), count(DISTINCT key) FROM replp2p.conflicts'
  . " WHERE relation = 'crossed'::regclass AND (key ->> 'id')::int IN (%s)";
foreach my $name ($g->names)
{
	is($g->sql($name, sprintf($count, join(',', @seen))), '0|0', 'no conflict where each saw the one before, on ' . $name);
	is($g->sql($name, sprintf($count, join(',', @met))), @met . '|' . @met, "one where two met, on $name");
}
is( $g->sql('d', "SELECT count(*), string_agg(DISTINCT local_origin || ' ' || remote_origin, ',') FROM replp2p.conflicts
		WHERE relation = 'crossed'::regclass AND (key ->> 'id')::int IN (" . join(',', @met_copy) . ')'),
	@met_copy . '|a b,c b', 'on d they tell from whom the copied row was');

# what was copied is ordinary by now: everybody writes everything, having seen it
$g->sql_all('DELETE FROM replp2p.conflict_history');
foreach my $name (qw(d b c a))
{
	$g->sql($name, "UPDATE own SET n = n + 1, v = '$name'; UPDATE pgbench_tellers SET filler = '$name'; DELETE FROM own WHERE id % 7 = ascii('$name') % 7");
	$g->sync;
}
$g->same($_, "$_ is the same on all nodes, when each has written it") foreach qw(own pgbench_tellers);
is($g->sql($_, 'SELECT count(*) FROM replp2p.conflicts'), 0, "and no conflict of it on $_") foreach $g->names;

# The version of a copied row is not stable where it was copied, but elsewhere it is, and
# trimmed there: x of a and y of b have not seen one another, and all but c know both. c, whose
# copy e gets, does not know y, and is the only one that still has x in its log.
my $x_key = 1000001;
$g->sql('a', "INSERT INTO crossed VALUES ($x_key, 'start')");
$g->sync;
$g->sql('b', 'SELECT replp2p.pause_apply()');
$g->sql($_, "SELECT replp2p.pause_apply('b')") foreach qw(a c);
$g->sql('b', "UPDATE crossed SET v = 'y' WHERE id = $x_key");
$g->sql('a', "UPDATE crossed SET v = 'x' WHERE id = $x_key");
my $x_seq = seq('a');
$g->sql('a', join('', map {
	"INSERT INTO crossed SELECT $x_key + $_, 'filler', string_agg(md5($_ || ':' || x), '') FROM generate_series(1, 65536) x;\n"
} (1 .. 24)));
my $filled_seq = seq('a');
$g->sql($_, 'SELECT replp2p.resume_apply()') foreach qw(a b);
ok($g->eventually('a', "SELECT oldest_seq > $x_seq AND stable_seq >= $filled_seq FROM replp2p.stat_log WHERE origin = 'a'"),
	'a has trimmed x from its log');
is($g->sql('c', "SELECT oldest_seq <= $x_seq AND stable_seq < $x_seq FROM replp2p.stat_log WHERE origin = 'a'"), 't',
	'c has not');
$g->add_cluster('e', @conf);
$g->join('e', 'c');
see(['e'], qw(a b d));
is($g->sql('e', "SELECT v FROM crossed WHERE id = $x_key"), 'x', 'e knows the version of what it has copied');
$g->sql('c', 'SELECT replp2p.resume_apply()');
$g->sync;
$g->same('crossed', 'with e, too, all are the same');

$g->stop;
done_testing();
