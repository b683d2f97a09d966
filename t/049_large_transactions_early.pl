# A large transaction comes in parts, and apply begins with the first (src/pg/apply_early.c): nobody
# sees anything of it before it is whole. While it waits for parts it gives way: to a client, to
# another origin, to an operator, or when nothing comes. Then it leaves no trace, and is applied when
# all is here. That its origin or its receiver dies in the midst harms nobody.
#
# The transfer is stopped where b asks a for further parts: a's backend stops there
# (crash point serve_further_parts). Apply on b stops when it first waits for a part
# (apply_early_wait), so that all that is to happen meanwhile can happen. c gets what
# a has by b.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Replp2p;

# of 1.4 kB each, that don't compress: several replies to pulls
my $rows = 6000;

my $g = Replp2p->group([ 'a', 'b', 'c' ], schema => <<'SQL',
CREATE TABLE t (id int PRIMARY KEY, v text);
CREATE TABLE once (id int);
CREATE TABLE hot (id int PRIMARY KEY, v text);
CREATE TABLE emptied (id int PRIMARY KEY);
CREATE DOMAIN small AS int;
CREATE TABLE limited (id int PRIMARY KEY, n small);
INSERT INTO hot VALUES (1, 'start'), (2, 'start');
INSERT INTO emptied VALUES (1);
SQL
	options => { a => { conf => "replp2p.batch_max_size = 64kB\n" }, b => { conf => "log_min_messages = debug1\n" } });
my ($a, $b) = ($g->node('a'), $g->node('b'));
$g->set($_, 'replp2p.connect_timeout', '10min') foreach 'a', 'b', 'c';    # what is stopped is not given up
$g->set('c', 'replp2p.unreachable_peers', 'a');
$g->eventually('c', "SELECT bool_and(cut = (node_name = 'a')) FROM replp2p.stat_links");
$g->sync;

# Has apply on b an open transaction that writes?
my $applying = <<'SQL';
SELECT count(*) > 0 FROM pg_locks JOIN pg_stat_activity USING (pid)
WHERE backend_type = 'replp2p apply' AND locktype = 'transactionid'
SQL
my ($log_start, $errors);
my $next = 1;

sub marker
{
	my ($name) = @_;
	return $g->node($name)->data_dir . '/replp2p/stopped_at_' . ($name eq 'a' ? 'serve_further_parts' : 'apply_early_wait');
}

# From now on the next one who comes by the point stops.
sub arm
{
	foreach my $name (@_)
	{
		my $point = $name eq 'a' ? 'stop:serve_further_parts' : 'stop:apply_early_wait';

		unlink marker($name);
		$g->set($name, 'replp2p.crash_point', $point);
		# whoever is asked this was started after all others have been told
		$g->eventually($name, "SELECT current_setting('replp2p.crash_point') = '$point'");
	}
	$log_start = -s $b->logfile;
	$errors = errors();
}

sub errors { return $g->sql('b', 'SELECT errors FROM replp2p.stat_apply') }

# What stands before the large part of a transaction, and that.
sub large
{
	my ($first) = @_;
	my $from = $next;

	$next += $rows;
	return "BEGIN; INSERT INTO once VALUES ($from); $first; INSERT INTO t SELECT x," .
		" (SELECT string_agg(md5(x || '.' || y), '') FROM generate_series(1, 45) y)" .
		" FROM generate_series($from, $from + $rows - 1) x; COMMIT";
}

sub go_on
{
	my ($name) = @_;
	kill 'CONT', split /\n/, $g->sql($name, $name eq 'b' ? "SELECT pid FROM pg_stat_activity WHERE backend_type = 'replp2p apply'"
		: "SELECT pid FROM pg_stat_activity WHERE query ~* '^call replp2p.exchange'");
}

# A client of b that is at this statement, and may have to wait.
sub client
{
	my ($sql) = @_;
	my $client = $b->background_psql('postgres', on_error_stop => 1);

	$client->query_until(qr/begins/, "\\echo begins\n$sql;\n");
	return $client;
}

# It has got through.
sub done
{
	my ($client) = @_;
	my $answer = $client->query_safe('SELECT 1');

	$client->quit;
	return $answer eq '1';
}

# Kill all processes of a node, also those that are stopped; true when they have gone.
sub killed
{
	my ($name) = @_;
	my @pids = split /\n/, $g->sql($name, 'SELECT pid FROM pg_stat_activity');
	my $postmaster = $g->node($name)->{_pid};

	$g->node($name)->kill9;
	kill 'KILL', @pids;
	return $g->wait_until(sub { !kill(0, $postmaster) && !grep { !$g->is_gone($_) } @pids });
}

# How often an attempt ended, and why.
sub reasons
{
	return join '; ', slurp_file($b->logfile, $log_start) =~ /are applied when all is here: (.*)/g;
}

sub rows_on_b { return $g->sql('b', "SELECT (SELECT count(*) FROM t) || ' ' || (SELECT count(*) FROM once)") }

sub complete
{
	my ($what) = @_;
	my $n = ($next - 1) / $rows;

	$g->sync;
	is(rows_on_b(), ($next - 1) . " $n", "$what: it is there, once");
	my @different = grep { my $t = $_; grep { $g->digest($_, $t) ne $g->digest('a', $t) } 'b', 'c' }
		't', 'once', 'hot', 'emptied', 'limited';
	is("@different", '', "$what: all nodes are the same");
	is($g->sql('b', "SELECT count(*) FROM replp2p.failed_changes"), 0, "$what: nothing has failed");
}

# Begin a transfer that stops in the midst, apply in the midst of what has come of it.
sub begin
{
	my ($what, $first) = @_;
	my $before = rows_on_b();

	arm('a', 'b');
	$g->sql('a', large($first // 'SELECT 1'));
	ok($g->wait_until(sub { -e marker('a') }), "$what: the transfer stops in the midst");
	ok($g->wait_until(sub { -e marker('b') }), "$what: apply waits for a part");
	is($g->sql('b', $applying), 't', "$what: it has begun");
	is(rows_on_b(), $before, "$what: but nobody sees anything");
}

# The attempt that begin() saw has ended for this reason, and has left nothing.
sub ended
{
	my ($what, $why) = @_;

	ok($g->wait_until(sub { reasons() ne '' }), "$what: apply gives way");
	is(reasons(), $why, "$what: for that reason");
	ok($g->eventually('b', "SELECT NOT ($applying)"), "$what: its locks are gone");
	is($g->sql('b', "SELECT (SELECT count(*) FROM replp2p.failed_changes), (SELECT state = 'error' FROM replp2p.stat_lag WHERE origin = 'a')"),
		'0|f', "$what: nothing has failed");
	is(errors(), $errors, "$what: and there is no error");
}

# nothing more comes
begin('silence');
go_on('b');
ended('silence', 'no further part has come for a while');
arm('b');
unlink marker('a');
go_on('a');
ok($g->wait_until(sub { -e marker('a') }), 'more has come, and is not all');
$g->sql('c', "UPDATE hot SET v = 'c' WHERE id = 2");
ok($g->eventually('b', "SELECT v = 'c' FROM hot WHERE id = 2"), 'apply has looked at it');
is(reasons(), '', 'but has not begun early again');
ok(!-e marker('b'), 'nor waited');
go_on('a');
complete('silence');

# a client wants a row
begin('a client', "UPDATE hot SET v = 'a' WHERE id = 1");
my $client = client("UPDATE hot SET v = 'client' WHERE id = 1");
ok($g->eventually('b', "SELECT count(*) > 0 FROM pg_locks WHERE locktype = 'transactionid' AND NOT granted"), 'a client waits');
go_on('b');
ok(done($client), 'and gets on');
ended('a client', 'somebody waits for a lock');
go_on('a');
complete('a client');
is($g->sql('b', 'SELECT v FROM hot WHERE id = 1'), 'client', 'it has written after what it could not see');

# a client wants a table
begin('DDL');
$client = client('BEGIN; LOCK TABLE t IN ACCESS EXCLUSIVE MODE; COMMIT');
ok($g->eventually('b', "SELECT count(*) > 0 FROM pg_locks WHERE locktype = 'relation' AND NOT granted"), 'a client waits for a table');
go_on('b');
ok(done($client), 'and gets it');
ended('DDL', 'somebody waits for a lock');
go_on('a');
complete('DDL');

# a client has a row
{
	my $s = $b->background_psql('postgres', on_error_stop => 1);

	arm('a', 'b');
	$s->query_safe("BEGIN; UPDATE hot SET v = 'busy' WHERE id = 1");
	$g->sql('a', large("UPDATE hot SET v = 'a' WHERE id = 1"));
	ok($g->wait_until(sub { -e marker('a') }), 'busy: the transfer stops in the midst');
	ended('busy', 'a local transaction has table "public.hot", or a row of it, in work');
	$s->query_safe('COMMIT');
	$s->quit;
	go_on('a');
	complete('busy');
}

# another origin has something
begin('another origin');
$g->sql('c', "UPDATE hot SET v = 'other' WHERE id = 2");
my $seq = $g->sql('c', 'SELECT seq FROM replp2p.stat_capture');
ok($g->eventually('b', "SELECT stored_seq >= $seq FROM replp2p.stat_log WHERE origin = 'c'"), 'another origin has something');
go_on('b');
ok($g->eventually('b', "SELECT v = 'other' FROM hot WHERE id = 2"), 'it is applied');
ended('another origin', 'another origin has something to be applied');
go_on('a');
complete('another origin');

# an operator
begin('pause');
$g->sql('b', "SELECT replp2p.pause_apply('a')");
go_on('b');
ended('pause', 'membership or what is wanted of apply has changed');
go_on('a');
$g->sql('b', "SELECT replp2p.resume_apply('a')");
complete('pause');

# what is applied alone
arm('a');
$g->sql('a', large('TRUNCATE emptied'));
ok($g->wait_until(sub { -e marker('a') }), 'truncate: the transfer stops in the midst');
ended('truncate', 'the transaction has to be applied alone');
go_on('a');
complete('truncate');

# what fails is a failure once all of it is here
$g->sql('b', 'ALTER DOMAIN small ADD CONSTRAINT little CHECK (VALUE < 100)');
arm('a');
$g->sql('a', large('INSERT INTO limited VALUES (1, 1000)'));
ok($g->wait_until(sub { -e marker('a') }), 'failure: the transfer stops in the midst');
ended('failure', 'value for domain public.small violates check constraint "little"');
go_on('a');
ok($g->eventually('b', "SELECT count(*) = 1 AND min(error_message) ~ 'little' FROM replp2p.failed_changes"), 'it fails when it is here');
$g->sql('b', 'ALTER DOMAIN small DROP CONSTRAINT little; SELECT replp2p.retry_failed(id) FROM replp2p.failed_changes');
complete('failure');

# the origin dies in the midst
begin('origin killed');
ok(killed('a'), 'origin killed: it is gone');
go_on('b');
ended('origin killed', 'no further part has come for a while');
$a->start;
$g->up('a');
complete('origin killed');

# the receiver dies in the midst
begin('receiver killed');
ok(killed('b'), 'receiver killed: it is gone');
$b->adjust_conf('postgresql.conf', 'shared_preload_libraries', "''");	# so nothing comes yet
$b->start;
is(rows_on_b(), ($next - 1 - $rows) . ' ' . (($next - 1) / $rows - 1), 'receiver killed: nothing of it is there');
$b->stop;
$b->adjust_conf('postgresql.conf', 'shared_preload_libraries', "'replp2p'");
$b->start;
$g->up('b');
go_on('a');
complete('receiver killed');

$g->stop;
done_testing();
