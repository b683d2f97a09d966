# What a disk or a crash can do to a change log. A torn tail is cut at the next start,
# and nothing is lost: a foreign log pulls it again, the own log decodes it again. A
# flipped bit in a foreign log is found at the next start, or by who reads it (apply, or
# a backend that serves a peer), and the log is cut there and pulled again, byte for byte. A
# flipped bit in the own log is never served and never silently dropped: an error in
# the log, CRITICAL in health(), and the other members help one another.
#
# Which bit flips is drawn by SEED.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Replp2p;

my $seed = $ENV{SEED} // int(rand(1_000_000));
note("seed $seed");
srand($seed);

# c gets what a writes from b as long as its link to a is cut
my $g = Replp2p->group([ 'a', 'b', 'c' ], schema => 'CREATE TABLE t (id int, v text)');
my $id = 0;
my ($a, $b, $c) = map { $g->node($_) } ('a', 'b', 'c');
my $own = $g->log_folder('a', 'a');
my $foreign = $g->log_folder('b', 'a');

sub last_segment { return Replp2p->last_segment($_[0]) }

sub content
{
	my ($file) = @_;
	return '' unless -e $file;	# it may be about to come again
	return Replp2p->log_records(scalar slurp_file($file));
}

sub size { return length content($_[0]) }

# Overwrite a place of a file, or cut it there if there is nothing to write.
sub spoil
{
	my ($file, $offset, $bytes) = @_;
	open(my $f, '+<:raw', $file) or die "$file: $!";
	if (defined $bytes)
	{
		seek($f, $offset, 0);
		print $f $bytes;
	}
	else
	{
		truncate($f, $offset);
	}
	close($f);
}

# Flip a bit somewhere in [from, to) of a file.
sub flip
{
	my ($file, $from, $to) = @_;
	my $offset = $from + int(rand($to - $from));
	my $bit = int(rand(8));
	my $size = size($file);

	spoil($file, $offset, chr(ord(substr(slurp_file($file), $offset, 1)) ^ (1 << $bit)));
	note("flipped bit $bit of byte $offset, of $size");
}

# Places [from, to) of the batches in a log file, from an offset on: see p2p_logrec.h.
sub batches
{
	my ($bytes, $from) = @_;
	my @places;

	for (my $at = 0; $at < length $bytes;)
	{
		my ($length, $crc, $type) = unpack('V V C', substr($bytes, $at, 12));
		push @places, [ $at, $at + 12 + $length ] if $type == 1 && $at >= $from;
		$at += 12 + $length;
	}
	return @places;
}

# Several transactions, in several batches.
sub write_on
{
	my ($name) = @_;
	foreach (1 .. 10)
	{
		$id++;
		$g->sql($name, "INSERT INTO t SELECT $id, md5(x::text) FROM generate_series(1, 20) x");
	}
}

# Wait until b has stored and applied everything of a.
sub b_has
{
	my $token = $g->sql('a', 'SELECT replp2p.current_token()');
	$g->sql('b', "SELECT replp2p.wait_for_token('$token', '1 minute')");
}

sub whole
{
	my ($what) = @_;
	$g->up($_) foreach $g->names;
	$g->sync;
	is($g->sql('c', "SELECT count(*) || ' ' || count(DISTINCT (id, v)) FROM t"), $id * 20 . ' ' . $id * 20, "$what: nothing is lost, nothing twice");
	$g->same('t', "$what: all nodes are the same");
}

# Count the findings of a check.
sub critical
{
	my ($name, $check) = @_;
	return $g->eventually($name, "SELECT count(*) > 0 FROM replp2p.health() WHERE status = 'CRITICAL' AND check_name = '$check'");
}

# Damage the stopped b's log of a, and see that it is as before once b has started.
sub offline_foreign
{
	my ($what, $damage) = @_;
	$b->stop('immediate');
	my $file = last_segment($foreign);
	my $before = content($file);
	my $offset = -s $b->logfile;
	$damage->($file);
	$b->start;
	$b->wait_for_log(qr/removed \d+ bytes from the end of change log/, $offset);
	ok($g->wait_until(sub { content($file) eq $before }), "$what: the log is the same again, byte for byte");
	write_on('a');
	whole($what);
}

write_on('a');
write_on('b');
write_on('c');
whole('before');

offline_foreign('a foreign log with half a record at its end',
	sub { spoil($_[0], size($_[0]), substr(content($_[0]), 0, 150)) });
offline_foreign('a foreign log with a hole at its end', sub { spoil($_[0], size($_[0]), "\0" x 5000 . 'x') });
offline_foreign('a foreign log that has lost its end', sub { spoil($_[0], size($_[0]) - 7) });
offline_foreign('a foreign log with a flipped bit', sub { flip($_[0], 0, size($_[0])) });

offline_foreign('a foreign log whose first batch is damaged', sub { flip($_[0], 0, 100) });

# both logs have space prepared behind their records; that is no damage, and goes on being the end
{
	my $what = 'prepared space';
	ok($g->eventually($_, 'SELECT bool_and(durable_seq = stored_seq) FROM replp2p.stat_log'), "$what: all is durable on $_") foreach ('a', 'b');
	$_->stop('immediate') foreach ($a, $b);
	my @files = map { last_segment($_) } ($own, $foreign);
	my %offset = map { $_ => -s $_->logfile } ($a, $b);
	cmp_ok(-s $_, '>', size($_), "$what: there is some in $_") foreach @files;
	unlike(substr(slurp_file($_), size($_)), qr/[^\0]/, "$what: nothing is in it") foreach @files;
	$_->start foreach ($a, $b);
	write_on('a');
	whole($what);
	unlike(slurp_file($_->logfile, $offset{$_}), qr/removed \d+ bytes/, "$what: " . $_->name . ' has removed nothing')
	  foreach ($a, $b);
}

# found by apply, in a running server
{
	my $what = 'a flipped bit that apply meets';
	$g->sql('b', 'SELECT replp2p.pause_apply()');
	my $file = last_segment($foreign);
	my $size = size($file);
	write_on('a');
	my $known = $g->sql('a', "SELECT seq FROM replp2p.stat_capture");
	$g->eventually('b', "SELECT stored_seq >= $known FROM replp2p.stat_log WHERE origin = 'a'");
	my $before = content($file);
	my $offset = -s $b->logfile;
	flip($file, $size, size($file));
	# another apply process: this one may hold sound bytes in memory
	kill 'TERM', $g->pid('b', 'apply');
	$g->sql('b', 'SELECT replp2p.resume_apply()');
	$b->wait_for_log(qr/change log of origin "a" is damaged, and is checked as a whole/, $offset);
	ok($g->wait_until(sub { content($file) eq $before }), "$what: the log is the same again, byte for byte");
	whole($what);
}

# found by a backend that serves c, in a running server: anywhere, and where a batch says which
# transaction is its last: a batch that seems to reach beyond what is published is not to be waited for
foreach my $place ('', ' in the end of a span')
{
	my $what = "a flipped bit$place that a relay meets";
	$g->set('c', 'replp2p.unreachable_peers', 'a');
	$c->stop;
	my $file = last_segment($foreign);
	my $size = size($file);
	write_on('a');
	b_has();
	my $before = content($file);
	my $offset = -s $b->logfile;
	my ($batch) = batches($before, $size);
	# header of a record, then of a batch: see p2p_logrec.h, p2p_batch.h
	my ($from, $to) = $place ? ($batch->[0] + 12 + 53, $batch->[0] + 12 + 60) : ($size, size($file));
	flip($file, $from, $to);
	$c->start;
	$b->wait_for_log(qr/change log of origin "a" is damaged, and is checked as a whole/, $offset);
	ok($g->wait_until(sub { content($file) eq $before }), "$what: the log is the same again, byte for byte");
	whole($what);
	is($g->sql('c', "SELECT source FROM replp2p.stat_lag WHERE origin = 'a'"), 'b', "$what: c got it through b");
	is($g->sql('c', "SELECT refused_batches FROM replp2p.stat_server"), 0, "$what: nothing spoiled was sent");
}

# the own log: a crash between write and fsync leaves a torn tail
{
	my $what = 'a torn tail of the own log';
	my $offset = -s $a->logfile;
	my $pid = $a->{_pid};
	# the server may be gone before it has answered, even this: capture notes its position now and then
	eval { $g->set('a', 'replp2p.crash_point', 'log_after_write') };
	$a->wait_for_log(qr/parameter "replp2p.crash_point" changed/, $offset);
	$id++;
	eval { $a->psql('postgres', "INSERT INTO t SELECT $id, md5(x::text) FROM generate_series(1, 20) x", stderr => \my $stderr) };
	ok($g->wait_until(sub { !kill(0, $pid) }), "$what: the server died in the middle");
	$a->_update_pid(-1);
	my $file = last_segment($own);
	spoil($file, size($file) - 5);
	$a->start;
	$a->wait_for_log(qr/removed \d+ bytes from the end of change log/, $offset);
	$g->set('a', 'replp2p.crash_point', undef);
	$g->up('a');
	# whether the transaction itself was committed is for the WAL to say
	$id-- if $g->sql('a', "SELECT count(*) FROM t WHERE id = $id") eq '0';
	write_on('a');
	whole($what);
}

# the own log: a bit flips in what only a and b have
{
	my $what = 'a flipped bit in the own log';
	$g->set('c', 'replp2p.unreachable_peers', 'b');
	$c->stop;
	my $file = last_segment($own);
	my $size = size($file);
	write_on('a');
	b_has();
	my $seq = $g->sql('a', 'SELECT seq FROM replp2p.stat_capture');
	my $before = content($file);
	my $offset = -s $a->logfile;
	# a batch that has others, with their positions, behind it
	my @batches = batches($before, $size);
	my ($from, $to) = @{ $batches[ int(rand(@batches / 2)) ] };
	flip($file, $from, $to);
	$c->start;
	$a->wait_for_log(qr/change log ".*" is damaged/, $offset);
	ok($g->eventually('c', "SELECT count(*) > 0 FROM replp2p.stat_links WHERE node_name = 'a' AND last_error LIKE '%damaged on this disk'"),
		"$what: who asks for it is told");
	ok(critical('a', 'own_log'), "$what: health() is CRITICAL");
	is($g->sql('c', "SELECT stored_seq < $seq FROM replp2p.stat_log WHERE origin = 'a'"), 't', "$what: it is not served");
	is($g->sql('c', 'SELECT refused_batches FROM replp2p.stat_server'), 0, "$what: nothing spoiled was sent");

	$g->set('c', 'replp2p.unreachable_peers', undef);
	write_on('a');
	whole("$what: the others help one another");

	$offset = -s $a->logfile;
	$a->restart;
	$a->wait_for_log(qr/change log segment ".*" is damaged at byte/, $offset);
	ok(critical('a', 'workers'), "$what: a start refuses to go on, health() is CRITICAL");
	$g->sql('a', 'INSERT INTO t SELECT ' . ++$id . ', md5(x::text) FROM generate_series(1, 20) x');

	# "restore the file from a backup"
	$a->stop;
	spoil($file, $from, substr($before, $from, $to - $from));
	$a->start;
	$g->up('a');
	whole("$what: with the file restored");
	is($g->sql('a', "SELECT count(*) FROM replp2p.health() WHERE status = 'CRITICAL'"), 0, "$what: nothing is critical any more");
}

# the own log: what was durable, and confirmed to the slot, is gone
{
	my $what = 'an own log that has lost its end';
	my $file = last_segment($own);
	my $size = size($file);
	write_on('a');
	b_has();
	my $lsn = $g->sql('a', 'SELECT pg_current_wal_flush_lsn()');
	$g->sql('a', "SELECT pg_logical_emit_message(true, 'test', 'so that the slot moves')");
	$g->eventually('a', "SELECT confirmed_lsn >= '$lsn' FROM replp2p.stat_capture");
	$a->stop('immediate');
	my $before = content($file);
	my $offset = -s $a->logfile;
	spoil($file, $size);
	$a->start;
	$a->wait_for_log(qr/the change log of this node has lost its end/, $offset);
	ok(critical('a', 'workers'), "$what: health() is CRITICAL");
	$a->stop;
	spoil($file, 0, $before);
	$a->start;
	$g->up('a');
	write_on('a');
	whole("$what: with the file restored");
}

$g->stop;
done_testing();
