# Bench::Cluster: a PostgreSQL cluster of the bench, with one session of ours on it.
#
#   my $c = Bench::Cluster->make(name => 'a', work => ..., bin => ..., conf => 'lines', ...);
#   $c->start; $c->sql('SELECT 1'); $c->poll('SELECT true', 'why'); $c->remove;
#
# Every wait has a limit, and dies when it is over: what hangs is reported and not waited for.
# All clusters that run are in %running, so that whoever ends can stop them.
package Bench::Cluster;

use strict;
use warnings;

use Time::HiRes qw(clock_gettime sleep CLOCK_MONOTONIC);

use PgSession;
use Program;

our %running;
our $LIMIT = 300;     # seconds that anything may take

my $USER = 'bench';
my $DATABASE = 'bench';
my $PEER = 'peer';    # peers connect as it

# The tables of all measures. Those of pgbench come beside them.
our $TABLES = <<'SQL';
CREATE TABLE item (id bigint PRIMARY KEY, v text);
CREATE SEQUENCE item_id CACHE 100;
CREATE TABLE bulk (id bigint PRIMARY KEY, v text);
CREATE TABLE probe (id bigint PRIMARY KEY);
CREATE TABLE marker (id bigint PRIMARY KEY);
SQL

sub now { return clock_gettime(CLOCK_MONOTONIC) }

# Options: name, work, bin, folder (of the data, in work), preload, buffers_mb, conf; from: a
# data directory of a stopped cluster to copy instead of making a new one.
sub make
{
	my ($class, %option) = @_;
	my $self = bless {%option}, $class;

	$self->{data} = "$self->{work}/$self->{folder}";
	$self->{log} = "$self->{data}.log";
	$self->{port} = Program::free_port();
	if ($self->{from})
	{
		$self->run('cp', '-a', $self->{from}, $self->{data});
		$self->{made} = 1;
	}
	else
	{
		$self->copy_fresh;
	}
	$self->configure;
	return $self;
}

# As initdb makes it, but much faster: a copy of the first one, with a system identifier of its own,
# by which a node knows itself. It stands first in pg_control, and pg_resetwal mends the checksum
# and begins a WAL with the same.
sub copy_fresh
{
	my ($self) = @_;
	my $first = "$self->{work}/fresh";

	$self->run("$self->{bin}/initdb", '-D', $first, '-U', $USER, '--auth=trust', '--encoding=UTF8', '--locale=C',
		'--no-sync') if !-d $first;
	$self->run('cp', '-a', $first, $self->{data});
	open my $control, '+<:raw', "$self->{data}/global/pg_control" or die "pg_control: $!\n";
	print $control pack('Q', int(now() * 1e6) << 12 | $$ & 0xfff);
	close $control or die "pg_control: $!\n";
	$self->run("$self->{bin}/pg_resetwal", '-f', $self->{data});
}

# The last of several values for a setting counts.
sub configure
{
	my ($self) = @_;
	open my $file, '>>', "$self->{data}/postgresql.conf" or die "postgresql.conf: $!\n";
	print $file <<"CONF", $self->{conf} // '';
port = $self->{port}
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
shared_preload_libraries = '$self->{preload}'
wal_level = logical
fsync = on
synchronous_commit = on
shared_buffers = $self->{buffers_mb}MB
max_wal_size = 8GB
checkpoint_timeout = 1h
autovacuum = off
max_connections = 100
max_wal_senders = 40
max_replication_slots = 40
max_worker_processes = 40
wal_retrieve_retry_interval = 100ms
log_min_messages = warning
log_line_prefix = '%m [%p] %b '
CONF
	close $file or die "postgresql.conf: $!\n";
}

# Run a program to its end; its output goes to the log.
sub run
{
	my ($self, @command) = @_;
	Program::run("$self->{work}/run.log", {}, @command)
		or die "$self->{name}: failed (see run.log): @command\n";
}

sub start
{
	my ($self) = @_;
	$running{ $self->{data} } = $self;
	$self->run("$self->{bin}/pg_ctl", '-D', $self->{data}, '-l', $self->{log}, '-w', '-s', 'start');
	open my $file, '<', "$self->{data}/postmaster.pid" or die "postmaster.pid: $!\n";
	chomp($self->{postmaster} = <$file>);
	if (!$self->{made}++)
	{
		my $session = $self->connect('template1');
		$session->query("CREATE DATABASE $DATABASE");
		$session->query("CREATE ROLE $PEER LOGIN REPLICATION");
	}
	$self->{session} = $self->connect;
}

sub connect
{
	my ($self, $database) = @_;
	my $session = PgSession->new($self->{port}, $USER, $database // $DATABASE);
	$session->limit($LIMIT + 30);
	return $session;
}

# mode: of pg_ctl stop
sub stop
{
	my ($self, $mode) = @_;
	delete $self->{session};
	$self->run("$self->{bin}/pg_ctl", '-D', $self->{data}, '-m', $mode, '-w', '-s', 'stop');
	delete $running{ $self->{data} };
}

# Stop it if it runs, and remove all of it.
sub remove
{
	my ($self) = @_;
	$self->stop('immediate') if $running{ $self->{data} };
	$self->run('rm', '-rf', $self->{data}, $self->{log});
}

# The last lines in which the server complains.
sub complaints
{
	my ($self) = @_;
	open my $file, '<', $self->{log} or return ();
	my @lines = grep { /(?:WARNING|ERROR|FATAL|PANIC): / } <$file>;
	splice @lines, 0, @lines - 3 if @lines > 3;
	return @lines;
}

sub sql
{
	my ($self, $sql) = @_;
	return $self->{session}->value($sql);
}

# Wait until a query gives t. meanwhile: called at each look.
sub poll
{
	my ($self, $sql, $what, $meanwhile) = @_;
	my $end = now() + $LIMIT;

	until ((eval { $self->sql($sql) } // ($@ ? die "$self->{name}: $@" : '')) eq 't')
	{
		die "$self->{name}: $what: not within $LIMIT s\n" if now() > $end;
		$meanwhile->() if $meanwhile;
		sleep 0.002;
	}
}

sub name { return $_[0]{name} }

# How peers reach it: over a wire, if there is one.
sub dsn
{
	my ($self, $user) = @_;
	my $port = $self->{wire_port} // $self->{port};
	return "host=127.0.0.1 port=$port dbname=$DATABASE user=" . ($user // $PEER);
}

sub target
{
	my ($self) = @_;
	return ('-h', '127.0.0.1', '-p', $self->{port}, '-U', $USER, $DATABASE);
}

# pgbench's tables; its history gets a key, without which nobody can tell its rows apart.
sub pgbench_tables
{
	my ($self, $steps, $scale) = @_;
	$self->run("$self->{bin}/pgbench", '-i', '-q', '-I', $steps, '-s', $scale, $self->target);
	$self->sql('ALTER TABLE pgbench_history ADD id uuid PRIMARY KEY DEFAULT gen_random_uuid()');
}

# The tables of another cluster, empty, with all of their indexes.
sub schema_from
{
	my ($self, $other) = @_;
	my $file = "$self->{work}/schema.sql";
	my ($host, $h, $port, $p, $user, $u, $database) = $other->target;

	$self->run("$self->{bin}/pg_dump", '-s', '-t', 'public.*', '-f', $file, $host, $h, $port, $p, $user, $u,
		$database);
	$self->run("$self->{bin}/psql", '-q', '-X', '-v', 'ON_ERROR_STOP=1', '-f', $file, $self->target);
}

# Stop whatever runs, whatever happens.
sub stop_all
{
	foreach my $cluster (values %running)
	{
		eval { $cluster->stop('immediate') };
	}
}

1;
