# A node whose clock is an hour ahead: the others hold what it writes, name it
# and its offset, and go on with everything else; it is told that it is the one,
# and holds nobody. What is held is applied when time has passed, or when the
# operator accepts it; then all goes on, whoever has seen what was accepted.
#
# All three clocks are faked, so that "time has passed" is a step of all three.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Replp2p;

my $HOUR = 3600;
my @names = ('a', 'b', 'fast');
my $g = Replp2p->group(\@names,
	options => { map { $_ => { Replp2p->faked_clock($_) } } @names },
	schema => 'CREATE TABLE t (id int PRIMARY KEY, v text)');

# Wait until a node sees the clocks of others this far from its own, in seconds.
sub offsets_seen
{
	my ($name, %offsets) = @_;
	my $wanted = join(' AND ', map { "abs(extract(epoch FROM max(clock_offset) FILTER (WHERE node_name = '$_')) - $offsets{$_}) < 60" } grep { $_ ne $name } sort keys %offsets);
	return $g->eventually($name, "SELECT $wanted FROM replp2p.stat_members");
}

# Rows of the table on a node, as text.
sub rows { return $g->sql($_[0], "SELECT string_agg(id || v, ' ' ORDER BY id) FROM t") }

sub states
{
	my ($name) = @_;
	return $g->sql($name, "SELECT string_agg(origin || ' ' || state, ', ' ORDER BY origin) FROM replp2p.stat_lag WHERE state IN ('held', 'error')");
}

# Wait until what one has committed is visible on others.
sub reaches
{
	my ($from, @to) = @_;
	my $token = $g->sql($from, 'SELECT replp2p.current_token()');
	$g->sql($_, "SELECT replp2p.wait_for_token('$token', '1 minute')") foreach @to;
}

ok(offsets_seen($_, map { $_ => 0 } @names), "$_ sees that all clocks agree") foreach @names;
$g->sql('fast', "INSERT INTO t VALUES (1, ' before')");
reaches('fast', 'a', 'b');

# An hour ahead
Replp2p->set_clock('fast', $HOUR);
ok(offsets_seen($_, fast => $HOUR), "$_ sees that one is ahead") foreach ('a', 'b');
ok(offsets_seen('fast', a => -$HOUR, b => -$HOUR), 'fast sees the others behind');
$g->sql('fast', "INSERT INTO t VALUES (2, ' ahead'); UPDATE t SET v = ' ahead' WHERE id = 1");
foreach my $name ('a', 'b')
{
	ok($g->eventually($name, "SELECT state = 'held' FROM replp2p.stat_lag WHERE origin = 'fast'"), "$name holds it");
	is(rows($name), '1 before', "$name shows nothing of what it wrote");
	like($g->sql($name, "SELECT status || ': ' || detail || '; ' || hint FROM replp2p.health() WHERE check_name = 'apply' AND status <> 'OK'"),
		qr/^CRITICAL: the changes of node "fast" are held: its stamps are up to \S*(00:59:[0-9.]+|01:00:[0-9.]+|1 h|59 min|60 min|3[56]\d\d).* ahead of group time, its clock differs.*accept_stamps\('fast'\)/,
		"the alarm on $name names the node, the offset and the cure");
	is($g->sql($name, "SELECT count(*) FROM replp2p.health() WHERE check_name = 'clock' AND detail LIKE '%own clock%'"),
		0, "$name doesn't think that it is wrong itself");
	is(states($name), 'fast held', "$name holds nobody else");
}
like($g->sql('fast', "SELECT status || ': ' || detail FROM replp2p.health() WHERE check_name = 'clock' AND detail LIKE '%own clock%'"),
	qr/^CRITICAL: this node's own clock is the one that is wrong/, 'its own health() says that it is the one');

# Others flow: between them, and to it.
$g->sql('a', "INSERT INTO t VALUES (3, ' of a')");
$g->sql('b', "INSERT INTO t VALUES (4, ' of b')");
reaches('a', 'b', 'fast');
reaches('b', 'a', 'fast');
is(rows('a'), '1 before 3 of a 4 of b', 'what others write flows to a');
is(rows('b'), '1 before 3 of a 4 of b', 'and to b');
is(rows('fast'), '1 ahead 2 ahead 3 of a 4 of b', 'and to the node that is ahead');
is(states('fast'), '', 'which holds nobody');
is(states('a'), 'fast held', 'while a holds it');

# Time passes for all, so that group time comes to what was held; what it writes now is held in turn.
Replp2p->set_clock('fast', 2 * $HOUR);
Replp2p->set_clock($_, $HOUR) foreach ('a', 'b');
foreach my $name ('a', 'b')
{
	ok($g->eventually($name, "SELECT state = 'idle' AND lag_transactions = 0 FROM replp2p.stat_lag WHERE origin = 'fast'"),
		"when time has passed, $name applies what it held");
}
$g->same('t', 'all nodes are the same when time has passed');
is(rows('a'), '1 ahead 2 ahead 3 of a 4 of b', 'with all writes');

ok(offsets_seen($_, fast => $HOUR), "$_ sees that it is still ahead") foreach ('a', 'b');
$g->sql('fast', "UPDATE t SET v = ' held' WHERE id = 2");
ok($g->eventually($_, "SELECT state = 'held' FROM replp2p.stat_lag WHERE origin = 'fast'"), "$_ holds what it writes now")
	foreach ('a', 'b');

# The operator accepts it on a: a has it; b, that has not accepted, holds it still, and what depends on it.
$g->sql('a', "SELECT replp2p.accept_stamps('fast')");
reaches('fast', 'a');
is($g->sql('a', 'SELECT v FROM t WHERE id = 2'), ' held', 'a has it once it is accepted there');
$g->sql('a', "UPDATE t SET v = ' seen' WHERE id = 2");
ok($g->eventually('b', "SELECT state IN ('held', 'waiting') FROM replp2p.stat_lag WHERE origin = 'a'"),
	'b holds what depends on it, too');
is($g->sql('b', 'SELECT v FROM t WHERE id = 2'), ' ahead', 'and shows nothing of it');
$g->sql('b', "INSERT INTO t VALUES (5, ' of b')");
reaches('b', 'a', 'fast');
is($g->sql('a', 'SELECT v FROM t WHERE id = 5'), ' of b', 'while b itself flows');

# And on b: one call is enough for all that follows from it.
$g->sql('b', "SELECT replp2p.accept_stamps('fast')");
reaches('fast', 'b');
reaches('a', 'b', 'fast');
is($g->sql('b', 'SELECT v FROM t WHERE id = 2'), ' seen', 'b has it once it is accepted there');
$g->same('t', 'all nodes are the same when it is accepted');
foreach my $round (1 .. 3)
{
	foreach my $name ('a', 'b')
	{
		$g->sql($name, "UPDATE t SET v = ' $name$round' WHERE id = 1");
		reaches($name, @names);
	}
}
$g->same('t', 'who has seen what was accepted is not held for it');

# With its clock set right it goes on, too.
Replp2p->set_clock('fast', $HOUR);
ok(offsets_seen($_, map { $_ => 0 } @names), "$_ sees that all clocks agree again") foreach @names;
$g->sql('fast', "UPDATE t SET v = ' right' WHERE id = 1");
reaches('fast', 'a', 'b');
$g->sql('b', "UPDATE t SET v = v || ' again' WHERE id = 1");
$g->sync;
$g->same('t', 'all nodes are the same when its clock is right');
is($g->sql('a', 'SELECT v FROM t WHERE id = 1'), ' right again', 'with the last write');
is(states($_), '', "$_ holds nobody") foreach @names;
is($g->sql($_, 'SELECT count(*) FROM replp2p.conflicts'), 0, "no conflict on $_") foreach @names;
is($g->sql($_, "SELECT count(*) FROM replp2p.health() WHERE check_name = 'clock' AND status <> 'OK'"), 0,
	"health() on $_ is content with the clocks") foreach @names;

# But somebody who goes ahead of even that is held.
Replp2p->set_clock('fast', 5 * $HOUR);
$g->sql('fast', "UPDATE t SET v = ' too far' WHERE id = 1");
ok($g->eventually($_, "SELECT state = 'held' FROM replp2p.stat_lag WHERE origin = 'fast'"), "$_ holds what is further ahead than was accepted")
	foreach ('a', 'b');

$g->stop;
done_testing();
