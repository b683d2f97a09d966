# Several transactions in one local commit. Apply is paused until many are queued, so that
# groups arise when it goes on (stat_apply counts commits and transactions). Then:
#   - they leave what one by one would have left, also where they build on one another;
#   - each row has exactly the version of its own transaction: what a third node, or a client
#     here, wrote between two members of a group loses to the later and wins over the
#     earlier one, whichever comes first, also when the server was restarted or
#     killed in between, and so read the versions back from its WAL;
#   - a death before the commit of a group leaves nothing of it;
#   - what cannot be in a group is applied alone, an error stops at its own transaction, and
#     whoever is in the way of a group does not stop it for good.
# One version for a whole group (the last one's, say) makes the second fail.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Replp2p;

my $g = Replp2p->group([ 'a', 'b', 'c' ], conf => "restart_after_crash = on\n", schema => <<'SQL');
CREATE TABLE t (id int PRIMARY KEY, v text);
CREATE TABLE other (id int PRIMARY KEY, v text);
CREATE TABLE log (id serial, v text);
CREATE TABLE u (id int PRIMARY KEY, v text UNIQUE);
CREATE TABLE lonely (id int PRIMARY KEY, v text);
INSERT INTO t SELECT x, 'start' FROM generate_series(1, 1000) x;
SQL
$g->sync;

sub pause { my ($name, @origins) = @_; $g->sql($name, "SELECT replp2p.pause_apply('$_')") foreach @origins }
sub resume { my ($name, @origins) = @_; $g->sql($name, "SELECT replp2p.resume_apply('$_')") foreach @origins }

# [ transactions, commits ] that apply has done on a node
sub applied
{
	return [ split /\|/, $g->sql($_[0], 'SELECT transactions_applied, commits_applied FROM replp2p.stat_apply') ];
}

# Wait until a node has stored all that another one has committed.
sub stored
{
	my ($name, $origin) = @_;
	my $seq = $g->sql($origin, 'SELECT replp2p.current_token() IS NOT NULL; SELECT seq FROM replp2p.stat_capture');
	$seq =~ s/.*\n//s;
	return $g->eventually($name, "SELECT stored_seq >= $seq FROM replp2p.stat_log WHERE origin = '$origin'");
}

# ... and applied.
sub caught_up
{
	my ($name, $origin) = @_;
	my $seq = $g->sql($origin, 'SELECT replp2p.current_token() IS NOT NULL; SELECT seq FROM replp2p.stat_capture');
	$seq =~ s/.*\n//s;
	return $g->eventually($name, "SELECT applied_seq >= $seq FROM replp2p.stat_lag WHERE origin = '$origin'");
}

# Have b apply all that a has queued for it; were there groups, but for so many?
sub goes_in_groups
{
	my ($what, $singly) = @_;
	stored('b', 'a');
	my $before = applied('b');
	resume('b', 'a');
	ok(caught_up('b', 'a'), "$what: applied");
	my $after = applied('b');
	my ($transactions, $commits) = map { $after->[$_] - $before->[$_] } 0, 1;
	ok(($commits - ($singly // 0)) * 5 < $transactions, "$what: in groups");
	note("figure $what: $transactions transactions, $commits commits");
}

# 60 transactions that change nothing which matters.
sub filler { return map { "INSERT INTO log (v) VALUES ('filler $_');\n" } 1 .. $_[0] }

# Members that build on one another.
pause('b', 'a', 'c');
$g->sql('a', join '', map { my $k = 2000 + $_; (
	"INSERT INTO t VALUES ($k, 'new');\n",
	"UPDATE t SET v = v || ' changed' WHERE id = $k;\n",
	$_ % 2 ? "DELETE FROM t WHERE id = $k;\n" : "UPDATE t SET id = id + 1000 WHERE id = $k;\n",
	"BEGIN; INSERT INTO t VALUES ($k, 'again') ON CONFLICT (id) DO UPDATE SET v = 'both'; UPDATE other SET v = 'x'; COMMIT;\n",
	"INSERT INTO other VALUES ($k, 'one'); \n",
	"UPDATE t SET v = v || ' ' || $k WHERE id % 100 = $_ % 100;\n") } 1 .. 40);
goes_in_groups('building on one another');
resume('b', 'c');
$g->sync;
$g->same($_, "building on one another: the same") foreach 't', 'other';
is($g->sql('b', 'SELECT count(*) FROM log'), $g->sql('a', 'SELECT count(*) FROM log'), 'each once');

# Versions. Of each set of keys: written by a before and after who else writes between.
my $base = 10000;

sub versions
{
	my ($what, $between) = @_;
	my ($from, $to) = ($base += 1000, $base + 20);
	my $rows = sub { join '', map { "INSERT INTO t VALUES ($_, '$_[0]') ON CONFLICT (id) DO UPDATE SET v = '$_[0]';\n" } $from .. $to };

	$g->sync;
	# even: there before, so that all update it; odd: everybody inserts it
	$g->sql('a', "INSERT INTO t SELECT x, 'start' FROM generate_series($from, $to) x WHERE x % 2 = 0");
	$g->sync;
	pause('a', 'b', 'c');
	pause('b', 'a', 'c');
	pause('c', 'a', 'b');
	$g->sql('a', $rows->('a early'));
	$between->($from, $to, $rows);
	# later members of the same group: half of the keys, and some more
	$g->sql('a', join '', filler(20), (map { "UPDATE t SET v = 'a late' WHERE id = $_;\n" } $from .. $from + 10), filler(20));
	return ($from, $to);
}

sub judge
{
	my ($what, $from, $to, $middle) = @_;
	resume('a', 'b', 'c');
	resume('c', 'a', 'b');
	resume('b', 'c');
	resume('b', 'a');
	$g->sync;
	$g->same('t', "$what: the same everywhere");
	is($g->sql('b', "SELECT string_agg(DISTINCT v, ',') FROM t WHERE id BETWEEN $from AND $from + 10"),
		'a late', "$what: who is after it in the group wins over it");
	is($g->sql('b', "SELECT string_agg(DISTINCT v, ',') FROM t WHERE id BETWEEN $from + 11 AND $to"),
		$middle, "$what: who is before it in the group loses to it");
}

my $by_c = sub { my ($from, $to, $rows) = @_; $g->sql('c', $rows->('c between')) };
my $by_b = sub { my ($from, $to, $rows) = @_; $g->sql('b', $rows->('b between')) };

my @keys = versions('group first', $by_c);
goes_in_groups('group first');
judge('group first', @keys, 'c between');

@keys = versions('group last', $by_c);
stored('b', 'c');
resume('b', 'c');
caught_up('b', 'c');
goes_in_groups('group last');
judge('group last', @keys, 'c between');

@keys = versions('a client here', $by_b);
goes_in_groups('a client here');
judge('a client here', @keys, 'b between');

# The same, with b's memory and version index lost in between.
foreach my $how ('fast', 'immediate')
{
	@keys = versions("$how restart", $by_c);
	goes_in_groups("$how restart");
	$g->node('b')->stop($how);
	$g->node('b')->start;
	$g->up('b');
	judge("$how restart", @keys, 'c between');
}

# Death right before the commit: nothing of the group is there, and all of it afterwards.
@keys = versions('death', $by_c);
stored('b', 'a');
my $log = $g->sql('b', 'SELECT count(*) FROM log');
my $offset = -s $g->node('b')->logfile;
$g->set('b', 'replp2p.crash_point', 'apply_group_before_commit');
$g->node('b')->wait_for_log(qr/parameter "replp2p.crash_point" changed/, $offset);
eval { resume('b', 'a') };	# apply may come by before that has answered
$g->node('b')->wait_for_log(qr/crash point apply_group_before_commit\n/, $offset);
$g->up('b');
$g->set('b', 'replp2p.crash_point', undef);
ok(caught_up('b', 'a'), 'death: it goes on by itself');
is($g->sql('b', "SELECT count(*) = $log + 40 FROM log"), 't', 'death: each once');
judge('death', @keys, 'c between');

# What cannot be in a group: in the middle of what can.
$g->sync;
pause('b', 'a');
$g->sql('a', join '', filler(30), "TRUNCATE other;\n", filler(30),
	"INSERT INTO u VALUES (1, 'value');\n", filler(30));
goes_in_groups('a truncate in between', 60);
is($g->sql('b', 'SELECT count(*) FROM other'), 0, 'it was carried out');
pause('b', 'a');
pause('a', 'b');
$g->sql('b', "INSERT INTO u VALUES (100, 'twice')");
$g->sql('a', join '', filler(30), "INSERT INTO u VALUES (2, 'twice');\n", filler(70));
goes_in_groups('a clash of a second unique key in between', 60);
resume('a', 'b');
$g->sync;
$g->same('u', 'it is resolved the same everywhere');

# An error: what comes before it is there, what comes behind it waits for the operator.
pause('b', 'a');
$g->sql('a', join '', filler(30), "INSERT INTO lonely VALUES (1, 'no table on b');\n", filler(30));
$g->sql('b', 'DROP TABLE lonely');
stored('b', 'a');
$log = $g->sql('b', 'SELECT count(*) FROM log');
resume('b', 'a');
ok($g->eventually('b', "SELECT count(*) = 1 FROM replp2p.failed_changes WHERE error_message ~ 'lonely'"),
	'an error is listed as that of its own transaction');
is($g->sql('b', "SELECT count(*) = $log + 30 FROM log"), 't', 'what is before it is there');
$g->sql('b', 'CREATE TABLE lonely (id int PRIMARY KEY, v text)');
$g->sql('b', 'SELECT replp2p.retry_failed(id) FROM replp2p.failed_changes');
$g->sync;
is($g->sql('b', "SELECT count(*) = $log + 60 FROM log"), 't', 'and what is behind it, each once');
$g->same('lonely', 'and itself');

# A client has a row of a later member locked: apply waits for it alone, nobody deadlocks.
pause('b', 'a');
$g->sql('a', join '', map { "UPDATE t SET v = 'wait' WHERE id = $_;\n" } 1 .. 40);
stored('b', 'a');
my $client = $g->node('b')->background_psql('postgres');
$client->query_safe("BEGIN; UPDATE t SET v = 'client' WHERE id = 30");
resume('b', 'a');
ok($g->eventually('b', "SELECT count(*) > 0 FROM pg_locks l JOIN pg_stat_activity a USING (pid) WHERE NOT granted AND application_name = 'replp2p apply'"),
	'apply waits for a client');
$client->query_safe("UPDATE t SET v = 'client' WHERE id = 29; COMMIT");
$client->quit;
$g->sync;
$g->same('t', 'a client in the way: the same everywhere');
is($g->sql('b', "SELECT string_agg(v, ',') FROM t WHERE id IN (29, 30)"), 'client,client', 'he was later');
is($g->sql('b', 'SELECT sum(deadlocks) FROM pg_stat_database'), 0, 'no deadlock');

$g->stop;
done_testing();
