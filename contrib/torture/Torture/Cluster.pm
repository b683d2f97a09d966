# Torture::Cluster: one PostgreSQL cluster, which may be dead at any moment.
#
# Everything is asked of the operating system and nothing of the server, since that may
# be stopped, starting or gone: a process belongs to a cluster if it works in its data
# directory, and its title says what it is.
#
# Several processes handle the same clusters. Who stops one, or kills its postmaster,
# holds its lock until it runs again (locked); killing a worker needs no lock.
package Torture::Cluster;

use strict;
use warnings;

use Fcntl qw(LOCK_EX LOCK_NB);
use Time::HiRes qw(sleep time);

use PgSession;
use Program;

our $USER = 'torture';
our $DATABASE = 'torture';
our $PEER = 'peer';

# What the title of a process says, by kind. Kinds that are not here are never killed
# alone: without its startup process a server gives up for good, as it should.
our %KIND = (
	capture => qr/^postgres: replp2p capture/,
	gossip => qr/^postgres: replp2p gossip/,
	apply => qr/^postgres: replp2p apply/,
	launcher => qr/^postgres: replp2p launcher/,
	exchange => qr/^postgres: $PEER $DATABASE /,
	client => qr/^postgres: $USER $DATABASE /,
	server => qr/^postgres: (?:checkpointer|background writer|walwriter|autovacuum)/);

# Options: work (folder), bin, name, fsync, environment (hash ref).
sub new
{
	my ($class, %option) = @_;
	my $self = bless {%option}, $class;

	$self->{data} = "$self->{work}/nodes/$self->{name}";
	$self->{log} = "$self->{data}.log";
	$self->{environment} //= {};
	return $self;
}

sub name { return $_[0]{name} }

# Make it; conf: further lines of its configuration.
sub make
{
	my ($self, $conf) = @_;

	$self->{port} = Program::free_port();
	$self->run("$self->{bin}/initdb", '-D', $self->{data}, '-U', $USER, '--auth=trust',
		'--encoding=UTF8', '--locale=C', '--no-sync') or die "initdb failed: see $self->{log}\n";
	open my $file, '>>', "$self->{data}/postgresql.conf" or die "postgresql.conf: $!\n";
	print $file <<"CONF", $conf;
port = $self->{port}
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
shared_preload_libraries = 'replp2p'
wal_level = logical
shared_buffers = 32MB
max_connections = 100
max_worker_processes = 24
max_replication_slots = 20
restart_after_crash = on
autovacuum_naptime = 5s
deadlock_timeout = 200ms
log_line_prefix = '%m [%p] %b '
log_min_messages = warning
replp2p.conflict_history_rows = 10000000
include_if_exists = 'crash_point.conf'
CONF
	close $file or die "postgresql.conf: $!\n";
}

# Run a program to its end with output to a log beside the cluster's; did it succeed?
sub run
{
	my ($self, @command) = @_;
	return Program::run("$self->{log}.run", {}, @command);
}

# Start it and wait until it takes connections; did it? Not by pg_ctl: with -w that compares times of day, and
# waits in vain if the server's clock steps back meanwhile; without, it takes away at its end what libfaketime
# in it had made for its children, which may not have opened it yet. So the server alone gets the environment.
sub start
{
	my ($self) = @_;
	my $begun = time;

	Program::run($self->{log}, {}, 'sh', '-c', 'setsid env "$@" &', 'sh',
		(map { "$_=$self->{environment}{$_}" } sort keys %{ $self->{environment} }),
		"$self->{bin}/postgres", '-D', $self->{data}) or return 0;
	until ($self->is_ready)
	{
		# at first it does not work in its folder yet
		return 0 if time > $begun + 60 || (time > $begun + 5 && !$self->processes);
		sleep 0.05;
	}
	return 1;
}

# Does it take connections, as its postmaster says?
sub is_ready
{
	my ($self) = @_;
	open my $file, '<', "$self->{data}/postmaster.pid" or return 0;
	my @lines = <$file>;
	return defined $self->postmaster && ($lines[7] // '') =~ /^ready/;
}

# Start it though whatever ran before died a violent death; dies if it does not come up.
sub start_again
{
	my ($self) = @_;

	foreach my $try (1 .. 5)
	{
		$self->await_gone;
		# the process id of a dead postmaster may be somebody else's by now
		unlink "$self->{data}/postmaster.pid";
		return if $self->start;
		sleep 0.2;
	}
	die "node $self->{name} does not start: see $self->{log}\n";
}

# Stop it: fast, immediate. One that does not run is no error.
sub stop
{
	my ($self, $mode) = @_;
	$self->run("$self->{bin}/pg_ctl", '-D', $self->{data}, '-m', $mode, '-w', '-t', 60, '-s', 'stop');
}

# Its processes, pid => title.
sub processes
{
	my ($self) = @_;
	my %title;

	opendir my $proc, '/proc' or die "/proc: $!\n";
	foreach my $pid (grep { /^\d+$/ } readdir $proc)
	{
		next unless (readlink("/proc/$pid/cwd") // '') eq $self->{data};
		open my $file, '<', "/proc/$pid/cmdline" or next;
		my $title = <$file> // next;
		$title =~ tr/\0/ /;
		$title{$pid} = $title;
	}
	return %title;
}

# Process ids of one kind.
sub pids
{
	my ($self, $kind) = @_;
	my %title = $self->processes;
	return grep { $title{$_} =~ $KIND{$kind} } keys %title;
}

# Process id of its postmaster; undef if it does not run. Titles don't tell: a process that the
# postmaster has just forked still has that of its parent.
sub postmaster
{
	my ($self) = @_;
	open my $file, '<', "$self->{data}/postmaster.pid" or return undef;
	my ($pid) = (<$file> // '') =~ /^(\d+)$/;
	return defined $pid && (readlink("/proc/$pid/cwd") // '') eq $self->{data} ? $pid : undef;
}

# Wait until nothing of it is left; dies if somebody outlives the postmaster by far.
sub await_gone
{
	my ($self) = @_;
	my $deadline = time + 60;

	while (my %title = $self->processes)
	{
		die "node $self->{name}: these outlive their postmaster: " . join(', ', %title) . "\n"
			if time > $deadline;
		sleep 0.05;
	}
}

# Have the lock of these clusters while sub runs, in an order that all keep.
sub locked
{
	my ($code, @clusters) = @_;
	my @held;

	foreach my $cluster (sort { $a->{name} cmp $b->{name} } @clusters)
	{
		push @held, $cluster->lock_file;
		1 until flock($held[-1], LOCK_EX) || !$!{EINTR};
	}
	return $code->();
}

# Run sub with the lock of this one if nobody has it now.
sub locked_now
{
	my ($self, $code) = @_;
	my $file = $self->lock_file;
	return flock($file, LOCK_EX | LOCK_NB) ? $code->() : undef;
}

sub lock_file
{
	my ($self) = @_;
	open my $file, '>>', "$self->{data}.lock" or die "$self->{data}.lock: $!\n";
	return $file;
}

# A session of a client; dies if the server takes none.
sub session
{
	my ($self) = @_;
	return PgSession->new($self->{port}, $USER, $DATABASE);
}

# Run SQL in a session of its own; the rows.
sub query
{
	my ($self, $sql) = @_;
	return $self->session->query($sql);
}

sub value
{
	my ($self, $sql) = @_;
	return $self->session->value($sql);
}

# Have the next process that comes by this crash point die there (crashpoint.h); undef: none. The
# server need not be up for it.
sub crash_at
{
	my ($self, $point) = @_;
	my $path = "$self->{data}/crash_point.conf";
	my $pid = $self->postmaster;

	unlink $path;
	if (defined $point)
	{
		open my $file, '>', $path or die "$path: $!\n";
		print $file "replp2p.crash_point = '$point'\n";
		close $file or die "$path: $!\n";
	}
	kill 'HUP', $pid if $pid;
}

# How its peers reach it; by way of another port, that of a link.
sub dsn
{
	my ($self, $port) = @_;
	return sprintf('host=127.0.0.1 port=%d dbname=%s user=%s', $port // $self->{port}, $DATABASE, $PEER);
}

# The folders of the change logs that it keeps: of which origin (node id and epoch) => path.
sub log_folders
{
	my ($self) = @_;
	return map { (m{([^/]+)$})[0] => $_ } glob "$self->{data}/replp2p/*/log/*";
}

1;
