# A member that is gone for good is evicted. It had reached only one of the others
# with its last writes, and the one that evicts it lacks them; a third is down then.
#   - all that stay end with those writes, also the one that was down;
#   - the evicted node holds nothing any more: all becomes stable, logs are trimmed;
#   - when it comes back it is refused, says so, and keeps what it writes;
#   - it leaves, and joins anew under its old name;
#   - the sponsor's eviction voids no finished join; two halves that evict each other
#     stay apart.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Replp2p;

my $g = Replp2p->group([ 'a', 'b', 'c', 'd' ], conf => "replp2p.dead_after = 3s\n", schema => <<'SQL');
CREATE TABLE t (id int PRIMARY KEY, v text);
CREATE TABLE bulk (id int PRIMARY KEY, v text);
SQL
my %node = map { $_ => $g->node($_) } $g->names;

# One test: a call of evict_node() on a node fails, with this message.
sub refused
{
	my ($name, $victim, $message) = @_;
	my $err = '';
	isnt($node{$name}->psql('postgres', "SELECT replp2p.evict_node($victim)", stderr => \$err), 0, "evict_node($victim) on $name fails");
	like($err, $message, 'with a clear error');
}

# Cut some nodes from others, both ways, and wait until no link stands between them.
sub cut
{
	my ($here, $there) = @_;
	foreach my $pair ([ $here, $there ], [ $there, $here ])
	{
		my ($from, $to) = @$pair;
		$g->set($_, 'replp2p.unreachable_peers', join(', ', @$to)) foreach @$from;
	}
	foreach my $name (@$here)
	{
		ok($g->eventually($name, "SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = 'replp2p $_' AND state = 'active'") &&
			$g->eventually($_, "SELECT bool_and(NOT connected) FROM replp2p.stat_links WHERE node_name = '$name'"), "$name and $_ are cut from one another")
			foreach @$there;
	}
}

sub heal
{
	$g->set($_, 'replp2p.unreachable_peers', undef) foreach @_;
}

#
# d writes, reaches a alone, and is gone; c is down.
#

foreach my $name ($g->names)
{
	$g->sql($name, "INSERT INTO t VALUES (ascii('$name'), '$name')");
}
$g->sync;

cut([ 'a', 'd' ], [ 'b', 'c' ]);
$g->sql('d', "INSERT INTO t VALUES (1000, 'the last of d'); UPDATE t SET v = 'changed by d' WHERE id = ascii('b'); DELETE FROM t WHERE id = ascii('c')");
my $token = $g->sql('d', 'SELECT replp2p.current_token()');
$g->sql('a', "SELECT replp2p.wait_for_token('$token', '1 minute')");
$node{d}->stop('immediate');
$node{c}->stop;

refused('b', "'x'", qr/there is no member "x"/);
refused('b', "'b'", qr/"b" is this node itself.*HINT: .*leave_group/s);
refused('b', 'NULL', qr/node_name/);
my ($out, $notice) = ('', '');
is($node{b}->psql('postgres', "SELECT replp2p.evict_node('d')", stdout => \$out, stderr => \$notice), 0, 'b evicts d') or diag($notice);
like($notice, qr/NOTICE:  node "d" is a member no longer/, 'and says what that means');
refused('b', "'d'", qr/node "d" is evicted already/);
is($g->sql('b', "SELECT state FROM replp2p.stat_members WHERE node_name = 'd'"), 'evicted', 'b shows it');
is($g->sql('b', "SELECT count(*) FROM t WHERE id = 1000"), 0, 'b does not have its last writes');
ok($g->eventually('b', "SELECT count(*) > 0 FROM replp2p.health() WHERE check_name = 'evictions' AND status = 'WARNING' AND detail ~ '\"a\", \"c\"'"),
	'health() tells whose word is missing') or diag($g->sql('b', 'SELECT * FROM replp2p.health()'));

# kept for whoever may lack it, as long as the eviction is not at its end
$g->sql('b', "INSERT INTO bulk SELECT x, (SELECT string_agg(md5(x || ' ' || y), '') FROM generate_series(1, 32) y) FROM generate_series(1, 40000) x");
# a cannot say its part while a transaction there has changed membership; it does all else
my $open = $node{a}->background_psql('postgres');
$open->query_safe("BEGIN; SELECT replp2p.set_node_dsn('a', '" . Replp2p::dsn($node{a}) . "')");
heal('a', 'b');
ok($g->eventually('a', "SELECT state = 'evicted' FROM replp2p.stat_members WHERE node_name = 'd'"), 'a hears of it');
ok($g->eventually('b', "SELECT count(*) = 1 FROM t WHERE id = 1000"), 'the last writes come to b by way of a');
is($g->sql('b', "SELECT string_agg(v, ', ' ORDER BY id) FROM t"), "a, changed by d, d, the last of d", 'all of them');
like($g->sql('b', "SELECT detail FROM replp2p.health() WHERE check_name = 'evictions'"), qr/the word of "a", "c"$/, 'whose word is still missing');
$open->query_safe('ROLLBACK');
$open->quit;
ok($g->eventually('b', "SELECT detail ~ 'the word of \"c\"\$' FROM replp2p.health() WHERE check_name = 'evictions'"), 'now c is missing alone')
	or diag($g->sql('b', 'SELECT * FROM replp2p.health()'));
cmp_ok($g->sql('b', "SELECT log_bytes FROM replp2p.stat_log WHERE origin = 'b'"), '>', 30e6, 'until then logs are kept');
is($g->sql('b', "SELECT left_seq IS NULL FROM replp2p.stat_members WHERE node_name = 'd'"), 't', 'and where d ends is not known');

$g->set('b', 'replp2p.unreachable_peers', undef);
$node{c}->append_conf('postgresql.conf', "replp2p.unreachable_peers = ''\n");
unlink $node{c}->data_dir . '/postgresql.auto.conf';
$node{c}->start;
@{ $g->{names} } = ('a', 'b', 'c');
$g->sql($_, "INSERT INTO t VALUES (2000 + ascii('$_'), 'without d')") foreach $g->names;
$g->sync;
$g->same($_, "$_: all that stay") foreach 't', 'bulk';
is($g->sql('c', "SELECT v FROM t WHERE id = 1000"), 'the last of d', 'c, too, has the last writes of d');

#
# It holds nothing any more.
#

foreach my $name ($g->names)
{
	ok($g->eventually($name, "SELECT state = 'evicted' AND left_seq > 0 FROM replp2p.stat_members WHERE node_name = 'd'"), "$name: where d ends is known");
	ok($g->eventually($name, "SELECT status = 'OK' FROM replp2p.health() WHERE check_name = 'evictions'"), "$name: the eviction is at its end");
	ok($g->eventually($name, "SELECT bool_and(stable_seq >= stored_seq AND held_by IS NULL) FROM replp2p.stat_log"), "$name: all becomes stable")
		or diag($g->sql($name, 'TABLE replp2p.stat_log'));
	ok($g->eventually($name, "SELECT log_bytes < 20e6 FROM replp2p.stat_log WHERE origin = 'b'"), "$name: logs are trimmed")
		or diag($g->sql($name, 'TABLE replp2p.stat_log'));
}
is($g->sql('a', "SELECT count(DISTINCT left_seq) FROM replp2p.stat_members WHERE node_name = 'd'"), 1, 'd has one end');
is($g->sql($_, "SELECT count(*) FROM replp2p.stat_lag WHERE origin = 'd'"), 0, "$_ expects nothing of d") foreach $g->names;

#
# It comes back.
#

$node{d}->append_conf('postgresql.conf', "replp2p.unreachable_peers = ''\n");
unlink $node{d}->data_dir . '/postgresql.auto.conf';
$node{d}->start;
ok($g->eventually('d', "SELECT state = 'evicted' FROM replp2p.stat_members WHERE self"), 'd hears that it was evicted');
ok($g->eventually('d', "SELECT status = 'CRITICAL' AND detail ~ 'evicted' AND hint ~ 'leave_group' FROM replp2p.health() WHERE check_name = 'ready'"),
	'health() tells, and what to do');
like(slurp_file($node{d}->logfile), qr/WARNING:  this node was evicted from its replp2p group/, 'so does the log');
$g->sql('d', "INSERT INTO t VALUES (3000, 'stays on d')");
$g->sql('a', "INSERT INTO t VALUES (3001, 'does not come to d')");
$g->sync;
is($g->sql('a', 'SELECT count(*) FROM t WHERE id = 3000'), 0, 'what it writes stays there');
is($g->sql('d', 'SELECT count(*) FROM t WHERE id = 3001'), 0, 'and nothing comes');
foreach my $call ("evict_node('a')", 'create_invite()', "wait_for_ready('1 minute')")
{
	my $err = '';
	isnt($node{d}->psql('postgres', "SELECT replp2p.$call", stderr => \$err), 0, "$call is refused there");
	like($err, qr/ERROR: .*(?:not active|was evicted).*HINT: /s, 'with a hint');
}
$node{d}->restart;
ok($g->eventually('d', "SELECT state = 'evicted' FROM replp2p.stat_members WHERE self"), 'it knows after a restart, too');

my $old_id = $g->sql('d', 'SELECT node_id FROM replp2p.stat_members WHERE self');
$g->sql('d', 'SELECT replp2p.leave_group()');
ok($g->eventually('d', 'SELECT count(*) = 0 FROM replp2p.stat_members'), 'it leaves at once');
is($g->sql('d', 'SELECT v FROM t WHERE id = 3000'), 'stays on d', 'its data stays');
$g->sql('d', 'DROP TABLE t, bulk');
$g->join('d', 'c');
isnt($g->sql('d', 'SELECT node_id FROM replp2p.stat_members WHERE self'), $old_id, 'it joins under its old name, as another node');
$g->sql($_, "INSERT INTO t VALUES (4000 + ascii('$_'), 'with d')") foreach $g->names;
$g->sync;
$g->same($_, "$_: with d") foreach 't', 'bulk';
is($g->sql($_, "SELECT string_agg(state, ' ' ORDER BY state) FROM replp2p.stat_members WHERE node_name = 'd'"), 'active evicted', "$_ knows both")
	foreach $g->names;
ok($g->eventually($_, "SELECT bool_and(stable_seq >= stored_seq) FROM replp2p.stat_log"), "$_: all becomes stable") foreach $g->names;

#
# Two halves evict each other: a and b stay together, c and d do.
#

cut([ 'a', 'b' ], [ 'c', 'd' ]);
$g->sql('a', "SELECT replp2p.evict_node('c'), replp2p.evict_node('d')");
$g->sql('c', "SELECT replp2p.evict_node('a'), replp2p.evict_node('b')");
foreach my $half ([ 'a', 'b', 'c', 'd' ], [ 'b', 'a', 'c', 'd' ], [ 'c', 'd', 'a', 'b' ], [ 'd', 'c', 'a', 'b' ])
{
	my ($name, $other, @gone) = @$half;
	ok($g->eventually($name, "SELECT string_agg(node_name, ' ' ORDER BY node_name = '$other') FROM replp2p.stat_members WHERE state <> 'evicted'", "$name $other"),
		"$name goes on with $other alone");
}
heal('a', 'b', 'c', 'd');
$g->sql($_, "INSERT INTO t VALUES (5000 + ascii('$_'), 'half')") foreach 'a', 'b', 'c', 'd';
foreach my $half ([ 'a', 'b' ], [ 'c', 'd' ])
{
	@{ $g->{names} } = @$half;
	$g->sync;
	$g->same('t', "the half of @$half");
	is($g->sql($half->[0], "SELECT string_agg(chr(id - 5000), ' ' ORDER BY id) FROM t WHERE v = 'half'"), "@$half", 'has nothing of the other');
	ok($g->eventually($_, "SELECT bool_and(stable_seq >= stored_seq) FROM replp2p.stat_log"), "$_: all becomes stable") foreach @$half;
}

foreach my $name ('a', 'b', 'c', 'd')
{
	unlike(slurp_file($node{$name}->logfile), qr/\b(?:PANIC|TRAP):|terminated by signal/, "$name: no accident");
}
done_testing();
