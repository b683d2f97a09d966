# Batches of one small transaction go to peers before they are durable in their origin's log, many of
# them, since their origin, should it lose them with its power, makes the very same of the same WAL again:
#   - b has them, applied and visible, while a's capture has not synced them;
#   - a loses them (own_tail_lost: the log's unsynced tail is cut off, the WAL stays), starts again, and
#     nobody notices: no batch is refused, the logs hold the same bytes, changes flow both ways;
#   - also when a had applied a transaction with a stamp far ahead meanwhile: the stamps that are given
#     again know only what stands in front of them in the WAL;
#   - what might come out differently is not served before it is durable;
#   - a capture that is told to end leaves nothing behind that is not durable;
#   - and all of this again and again, with random writes on both sides.
# A third node's clock is faked, to be ahead.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Replp2p;

my $ROUNDS = 20;
my $AHEAD = 300;				# seconds; less than max_clock_skew
my $seed = $ENV{SEED} // time;
srand($seed);
Replp2p->seed($seed);

my $g = Replp2p->group([ 'a', 'b', 'c' ],
	conf => "restart_after_crash = on\nmax_prepared_transactions = 2\nreplp2p.poll_timeout = 100ms\n",
	options => { c => { Replp2p->faked_clock('c') } }, schema => <<'SQL');
CREATE TABLE t (id int PRIMARY KEY, v text);
CREATE TABLE toasted (id int PRIMARY KEY, n int, v text);
ALTER TABLE toasted ALTER v SET STORAGE EXTERNAL;
CREATE TABLE as_text (id int PRIMARY KEY, c regclass);
CREATE TABLE once (id int PRIMARY KEY, author text);
INSERT INTO t SELECT x, 'start' FROM generate_series(1, 20) x;
INSERT INTO toasted VALUES (1, 0, repeat('x', 3000));
SQL
my $data = $g->node('a')->data_dir . '/replp2p';
my $stopped;					# the marker of the point at which capture stops now
my $crashed = "$data/crashed_at_own_tail_lost";
my $next_id = 1000;
my $MANY = 30;					# requests: who has made so many has had what there is

plan skip_all => 'no test build'
	if $g->sql('a', "SELECT count(*) FROM pg_settings WHERE name = 'replp2p.crash_point'") eq '0';

# Have capture on a stop at this point, each time that somebody has removed the marker; sql makes it come by.
sub stop_at
{
	my ($point, $sql) = @_;

	$stopped = "$data/stopped_at_$point";
	$g->set('a', 'replp2p.crash_point', "stop:$point,own_tail_lost");
	$g->wait_until(sub { $g->sql('a', $sql); -e $stopped }) or die 'capture does not come by';
	kill 'CONT', $g->pid('a', 'capture');
	return $g->sql('a', 'SELECT replp2p.current_token()');
}

# Stop a's capture before it makes the batch of this durable, which nobody has yet.
sub stop_before_sync
{
	my (@sql) = @_;
	my $pid = $g->pid('a', 'capture');

	kill 'STOP', $pid if @sql > 1;
	unlink $stopped;
	$g->sql('a', $_) foreach @sql;
	kill 'CONT', $pid if @sql > 1;
	die 'capture has not come by' unless $g->wait_until(sub { -e $stopped });
	return $pid;
}

# Update this row on a, again and again, until capture stops at its next sync, and b has the last one. What else
# goes on (an autovacuum that changes the catalogs meanwhile) can make any batch one that is not served.
sub stop_served
{
	my ($id) = @_;
	my $pid = $g->pid('a', 'capture');

	foreach my $try (1 .. 20)
	{
		my ($n, $has) = (0, 0);

		unlink $stopped;
		while (!-e $stopped)
		{
			my $v = "by a, $try." . ++$n;
			$g->sql('a', "UPDATE t SET v = '$v' WHERE id = $id");
			$g->wait_until(sub { ($has = $g->sql('b', "SELECT v = '$v' FROM t WHERE id = $id") eq 't') || -e $stopped });
		}
		return $pid if $has && $n > 1;
		kill 'CONT', $pid;
		$g->sql('a', 'SELECT replp2p.current_token()');
	}
	die 'no batch was served before it was durable';
}

# Have the stopped capture go on, to lose what is not durable and die; the server recovers.
sub lose_tail
{
	my ($pid) = @_;

	unlink $crashed;
	kill 'CONT', $pid;
	$g->wait_until(sub { -e $crashed && $g->is_gone($pid) });
	$g->up('a');
}

# The batches that a node has of a's, as they are on its disk.
sub batches_of_a
{
	my ($name) = @_;
	my $bytes = Replp2p->log_records(slurp_file(Replp2p->last_segment($g->log_folder($name, 'a'))));
	my @batches;

	for (my $at = 0; $at < length $bytes;)
	{
		my $size = 12 + unpack('V', substr($bytes, $at, 4));
		push @batches, substr($bytes, $at, $size) if substr($bytes, $at + 12, 4) eq 'P2PB';
		$at += $size;
	}
	return @batches;
}

# After all have applied all: they are the same, and nothing has been refused.
sub all_is_well
{
	my ($what) = @_;

	$g->sql('a', 'INSERT INTO once VALUES (' . ++$next_id . ", 'a')");
	$g->sql('b', 'INSERT INTO once VALUES (' . ++$next_id . ", 'b')");
	$g->sync;
	$g->same($_, "$what: $_ is the same everywhere") foreach ('t', 'toasted', 'as_text', 'once');
	is($g->sql($_, 'SELECT refused_batches FROM replp2p.stat_server'), 0, "$what: $_ has refused no batch")
		foreach ('b', 'c');
	my %own = map { $_ => 1 } batches_of_a('a');
	is(scalar(grep { !$own{$_} } map { batches_of_a($_) } ('b', 'c')), 0,
		"$what: what the others have of a's log is what it has itself");
	is($g->sql('a', "SELECT string_agg(detail, '; ') FROM replp2p.health() WHERE status = 'CRITICAL'"), '',
		"$what: no alarm");
	is($g->sql('a', 'SELECT count(*) FROM replp2p.stat_log WHERE held_transactions < 0'), 0, "$what: nothing is negative");
}

sub requests_served { return $g->sql('a', 'SELECT requests_served FROM replp2p.stat_server') }

# Wait until the polls of its peers have been answered by a many times over.
sub polls_answered
{
	my $before = requests_served();
	return $g->wait_until(sub { requests_served() > $before + $MANY });
}

# Only who has removed a marker wants to die there.
append_to_file($crashed, '');
stop_at('capture_after_append', 'UPDATE t SET v = v WHERE id = 19');
my $syncs = $g->sql('a', 'SELECT log_syncs FROM replp2p.stat_capture');
my $pid = stop_served(20);
is($g->sql('a', 'SELECT log_syncs FROM replp2p.stat_capture'), $syncs, 'b has updates, and none is synced');
ok($g->eventually($_, "SELECT v LIKE 'by a%' FROM t WHERE id = 20"), "$_ has it all the same") foreach ('b', 'c');
is($g->sql('a', "SELECT string_agg(lag_transactions::text, ' ') FROM replp2p.stat_lag"), '0 0 0', 'nobody is behind');
is($g->sql('a', "SELECT string_agg(detail, '; ') FROM replp2p.health() WHERE status <> 'OK' AND check_name = 'log'"), '',
	'that others have it is no alarm');
lose_tail($pid);
like($g->sql('a', 'SELECT v FROM t WHERE id = 20'), qr/^by a/, 'a has lost batches, not the row');
all_is_well('lost');

# b builds on what a then loses
$pid = stop_served(1);
$g->sql('b', "UPDATE t SET v = v || ', and by b' WHERE id = 1");
lose_tail($pid);
all_is_well('built upon');
like($g->sql('a', 'SELECT v FROM t WHERE id = 1'), qr/^by a, [\d.]+, and by b$/, 'both updates stand');
is($g->sql('b', 'SELECT count(*) FROM replp2p.conflicts'), 0, 'no conflict');

# a stamp far ahead comes to a behind its own commit; from c, which has not seen that, else it would
# be applied on a after it
$g->sql('c', "SELECT replp2p.pause_apply('a')");
Replp2p->set_clock('c', $AHEAD);
$pid = stop_served(6);
$g->sql('c', "INSERT INTO t VALUES (102, 'ahead')");
ok($g->eventually('a', 'SELECT count(*) = 1 FROM t WHERE id = 102'), 'a has a stamp far ahead');
$g->sql('a', 'CHECKPOINT');		# and its WAL on disk
lose_tail($pid);
$g->sql('c', "SELECT replp2p.resume_apply('a')");
all_is_well('far ahead');
cmp_ok($g->sql('a', 'SELECT extract(epoch FROM last_stamp - now()) FROM replp2p.stat_capture'), '>', $AHEAD / 2,
	'what a wrote then has a greater stamp');
Replp2p->set_clock('c', 0);

# what is not made again the same for sure
stop_at('capture_before_sync', 'UPDATE toasted SET n = n + 1');
foreach my $case (
	[ 'two transactions', "UPDATE t SET v = 'first' WHERE id = 2", "UPDATE t SET v = 'second' WHERE id = 2" ],
	[ 'a TOAST value that is not in the WAL', 'UPDATE toasted SET n = n + 1' ],
	[ 'a value sent as text', "INSERT INTO as_text VALUES (1, 't')" ],
	[ 'a large row', "UPDATE t SET v = repeat('y', 5000) WHERE id = 3" ],
	[ 'a change of catalogs', "BEGIN; CREATE TEMP TABLE mine (i int); UPDATE t SET v = 'with mine' WHERE id = 4; COMMIT" ],
	[ 'catalogs that changed while it ran', "BEGIN; UPDATE t SET v = 'prepared' WHERE id = 7; PREPARE TRANSACTION 'p'; CREATE TABLE aside (i int); COMMIT PREPARED 'p'" ],
	[ 'an origin of its own', "SELECT pg_replication_origin_create('strange'); SELECT pg_replication_origin_session_setup('strange'); UPDATE t SET v = 'strange' WHERE id = 5" ])
{
	my ($what, @sql) = @$case;
	my @tables = ('t', 'toasted', 'as_text');

	$g->sync('a');
	my @before = map { $g->digest('b', $_) } @tables;
	$pid = stop_before_sync(@sql);
	polls_answered();
	is_deeply([ map { $g->digest('b', $_) } @tables ], \@before, "$what: not served before it is durable");
	kill 'CONT', $pid;
	$g->sync;
	isnt($g->digest('b', $_->[0]), $_->[1], "$what: and then it is")
		foreach grep { $g->digest('a', $_->[0]) ne $_->[1] } map { [ $tables[$_], $before[$_] ] } (0 .. 2);
}
all_is_well('what is not repeatable');

# told to end, capture makes durable what is published
$g->set('a', 'replp2p.crash_point', undef);
my $log_end = -s $g->node('a')->logfile;
foreach my $n (1 .. 5)
{
	$pid = $g->pid('a', 'capture');
	$g->sql('a', "UPDATE t SET v = 'ended $n' WHERE id = 8");
	$g->eventually('b', "SELECT v = 'ended $n' FROM t WHERE id = 8");
	kill 'TERM', $pid;
	$g->wait_until(sub { $g->is_gone($pid) && $g->sql('a', q{SELECT pid IS NOT NULL AND ready FROM replp2p.stat_capture}) eq 't' });
}
unlike(slurp_file($g->node('a')->logfile, $log_end), qr/removed \d+ bytes from the end of change log/, 'told to end, capture leaves nothing that is not durable');
all_is_well('ended');
append_to_file($crashed, '');
$g->set('a', 'replp2p.crash_point', 'own_tail_lost');

# small transactions on both sides, while a loses its tail again and again
sub random_write
{
	my ($name) = @_;
	my $id = 1 + int rand 20;
	my @kinds = (
		"UPDATE t SET v = '$name ' || " . int(rand 1e6) . " WHERE id = $id",
		"DELETE FROM t WHERE id = $id",
		"INSERT INTO t VALUES ($id, '$name') ON CONFLICT (id) DO UPDATE SET v = t.v || '+'",
		'INSERT INTO once VALUES (' . ++$next_id . ", '$name')",
		"BEGIN; SAVEPOINT s; DELETE FROM t; ROLLBACK TO s; INSERT INTO once VALUES (" . ++$next_id . ", '$name'); COMMIT");
	my $status = eval {
		$g->node($name)->psql('postgres', $kinds[ rand @kinds ], on_error_stop => 1, stderr => \my $stderr)
	};
	return;
}

my $lost = 0;
foreach my $round (1 .. $ROUNDS)
{
	unlink $crashed;
	random_write('b') foreach 1 .. int rand 3;
	$g->wait_until(sub {
		random_write('a');
		random_write('b') if rand() < 0.5;
		return -e $crashed;
	});
	$lost++ if -e $crashed;
	random_write('b') foreach 1 .. int rand 3;
	$g->up('a');
}
is($lost, $ROUNDS, "a has lost its tail $ROUNDS times");
all_is_well('random writes');

$g->stop;
done_testing();
