# A small batch is applied while gossip still syncs it to its log: it stands in the WAL
# in front of the commit. If the log then loses it, it is put back from there.
#
#   - what is written and not synced is visible; the slot keeps its WAL until it is durable
#   - the log loses it, the local commit stays, and its origin is gone for good: the batch is
#     in the log again, and reaches who lacks it
#   - the log loses it, and so does the WAL: it comes again, once
#   - its origin is evicted meanwhile: nobody ends with more than the others
#   - again and again, under writes
#
# Gossip on b is stopped between write and sync (stop:gossip_after_write). When it goes on, it
# cuts off what is not synced and dies (foreign_tail_lost), as after a loss of power; WAL stays.
# That large batches are not visible so early is shown by 046_early_apply.pl.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Replp2p;

my $g = Replp2p->group([ 'a', 'b', 'c' ],
	conf => "restart_after_crash = on\nreplp2p.dead_after = 3s\nwal_writer_delay = 10s\n",
	schema => <<'SQL');
CREATE TABLE once (id int, by text);
CREATE TABLE t (id int PRIMARY KEY, v text);
SQL
my $b = $g->node('b');
my $last_id = 0;

sub marker { return $b->data_dir . "/replp2p/$_[0]" }

# Is SQL done on a node, which may be crashing?
sub attempt
{
	my ($name, $sql) = @_;
	my $status = eval { $g->node($name)->psql('postgres', $sql, on_error_stop => 1, stderr => \my $stderr) };
	return defined $status && $status == 0;
}

# Write on a node, whatever it says; returns the id.
sub write_on
{
	my ($name) = @_;
	my $id = ++$last_id;
	my $row = $id % 20;

	# one transaction: several in a batch are synced first
	attempt($name, "BEGIN; INSERT INTO once VALUES ($id, '$name');" .
		" INSERT INTO t VALUES ($row, '$name $id') ON CONFLICT (id) DO UPDATE SET v = excluded.v; COMMIT");
	return $id;
}

sub arm
{
	my ($points) = @_;
	unlink marker('stopped_at_gossip_after_write'), marker('crashed_at_foreign_tail_lost');
	eval { $g->set('b', 'replp2p.crash_point', $points) };	# who is armed already may be dying
}

# Have gossip on b stop between write and sync, and there is something of a's; returns its pid, and an id.
sub hold
{
	my ($points) = @_;
	my $gossip = $g->pid('b', 'gossip');
	my $id;

	arm("stop:gossip_after_write$points");
	# the setting takes effect after one batch or another
	$g->wait_until(sub { $id = write_on('a'); -e marker('stopped_at_gossip_after_write') })
		or BAIL_OUT('gossip on b has not stopped');
	# of what came last, something may be applied; nothing more comes
	return ($gossip, $id);
}

# The greatest id of a's that is visible on b, once that has applied all that is written there.
sub visible
{
	my $has = "SELECT coalesce(max(id), 0) FROM once WHERE by = 'a'";
	my $stored = "SELECT stored_seq FROM replp2p.stat_log WHERE origin = 'a'";
	my $applied = "SELECT applied_seq FROM replp2p.stat_lag WHERE origin = 'a'";

	$g->eventually('b', "SELECT ($applied) > ($stored)") or return;
	return $g->sql('b', $has);
}

sub crash
{
	my ($gossip) = @_;
	my $offset = -s $b->logfile;

	kill 'CONT', $gossip;
	$b->wait_for_log(qr/replp2p: crash point foreign_tail_lost\n/, $offset);
	$b->wait_for_log(qr/all server processes terminated; reinitializing/, $offset);
	$g->up('b');
	return $offset;
}

sub disarm
{
	$g->set('b', 'replp2p.crash_point', undef);
}

# All that was written is on all nodes, once; and they are the same.
sub same
{
	my ($what) = @_;

	$g->sync;
	foreach my $name ($g->names)
	{
		is($g->sql($name, 'SELECT count(*) - count(DISTINCT id) FROM once'), 0, "$what: nothing is twice on $name");
		is($g->sql($name, 'SELECT refused_batches FROM replp2p.stat_server'), 0, "$what: $name has refused nothing");
	}
	$g->same($_, "$what: $_") foreach 'once', 't';
}

write_on($_) foreach 'a', 'b', 'c';
$g->sync;

#
# Visible before it is durable; and the slot waits for that.
#

my ($gossip, $id) = hold('');
ok(defined visible(), 'what is not durable in its log is visible');
my $after = $g->sql('b', 'SELECT pg_current_wal_lsn()');
foreach (1 .. 3)
{
	write_on('b');
	$g->sql('b', 'SELECT pg_switch_wal()');	# far enough for the slot to be confirmed
	$g->captured('b');
}
cmp_ok($g->sql('b', "SELECT captured_lsn - '$after' FROM replp2p.stat_capture"), '>', 2 * 16e6, 'there is much to be confirmed');
is($g->sql('b', "SELECT confirmed_lsn < '$after' FROM replp2p.stat_capture"), 't', 'the slot is not confirmed past it');
is($g->sql('b', "SELECT confirmed_flush_lsn < '$after' FROM pg_replication_slots"), 't', 'as the server says, too');
disarm();
kill 'CONT', $gossip;
ok($g->eventually('b', "SELECT confirmed_lsn > '$after' FROM replp2p.stat_capture"), 'durable, it lets the slot go on');
same('visible');

#
# The log loses what is committed, and nobody else has it.
#

$g->node('c')->stop;
($gossip, $id) = hold(',foreign_tail_lost');
my $seen = visible();
ok(defined $seen, 'a row of a is visible on b');
my $seq = $g->sql('b', "SELECT applied_seq FROM replp2p.stat_lag WHERE origin = 'a'");
write_on('b');	# makes the WAL durable
$g->node('a')->stop('immediate');
my $offset = crash($gossip);
disarm();
is($g->sql('b', "SELECT max(id) FROM once WHERE by = 'a'"), $seen, 'after the loss it is there still');
ok($g->eventually('b', "SELECT stored_seq >= $seq FROM replp2p.stat_log WHERE origin = 'a'"), 'and in the log again');
$b->wait_for_log(qr/put \d+ batch(es)? from the WAL back/, $offset);
$g->node('c')->start;
ok($g->eventually('c', "SELECT count(*) = 1 FROM once WHERE id = $seen"), 'c gets it from b');
$g->node('a')->start;
same('lost by the log');

#
# The WAL loses the commit, too.
#

# neither capture nor the WAL writer makes it durable
kill 'STOP', $g->pid('b', 'capture'), $g->sql('b', "SELECT pid FROM pg_stat_activity WHERE backend_type = 'walwriter'");
($gossip, $id) = hold(',foreign_tail_lost');
ok(defined visible(), 'another row is visible');
crash($gossip);
disarm();
same('lost by both');

#
# Its origin is evicted.
#

$g->node('c')->stop;
($gossip, $id) = hold(',foreign_tail_lost');
$seen = visible();
ok(defined $seen, 'a row of a is visible on b alone');
$g->node('a')->stop('immediate');
$g->node('c')->append_conf('postgresql.conf', "replp2p.unreachable_peers = 'b'");	# which relays what it has written
$g->node('c')->start;
$g->up('c');
is($g->sql('c', "SELECT count(*) FROM once WHERE id = $seen"), 0, 'c does not have it');
$g->sql('c', "SELECT replp2p.evict_node('a')");
$g->set('c', 'replp2p.unreachable_peers', '');
write_on('b');
crash($gossip);
disarm();
@{ $g->{names} } = ('b', 'c');
ok($g->eventually('c', "SELECT count(*) = 1 FROM once WHERE id = $seen"), 'c gets it by way of the eviction');
foreach my $name ('b', 'c')
{
	ok($g->eventually($name, "SELECT left_seq IS NOT NULL FROM replp2p.stat_members WHERE node_name = 'a'"), "$name knows where a ends");
	cmp_ok($g->sql($name, "SELECT left_seq FROM replp2p.stat_members WHERE node_name = 'a'"), '>=',
		$g->sql('b', "SELECT applied_seq FROM replp2p.stat_lag WHERE origin = 'a'") || 0, 'not before what b has applied');
}
same('evicted');

#
# Again and again; it is c that b hears of now.
#

foreach my $round (1 .. 20)
{
	my $from = -s $b->logfile;

	arm('foreign_tail_lost');
	$g->wait_until(sub { write_on('c'); write_on('b'); -e marker('crashed_at_foreign_tail_lost') })
		or BAIL_OUT('nothing is lost on b');
	$b->wait_for_log(qr/all server processes terminated; reinitializing/, $from);
	$g->up('b');
	$round % 5 and next;
	disarm();
	same("round $round");
}
foreach my $name ($g->names)
{
	is($g->sql($name, 'SELECT count(*) FROM replp2p.failed_changes'), 0, "nothing has failed on $name");
}

$g->stop;
done_testing();
