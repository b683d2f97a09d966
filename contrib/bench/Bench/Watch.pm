# Bench::Watch: what the processes that replicate use between two moments, on several clusters.
#
#   my $w = Bench::Watch->new($system, @clusters);
#   ... $w->look now and then ...
#   $w->end;
#   $w->cpu('a')      {role => microseconds of CPU} on cluster a
#   $w->clients('a')  microseconds of CPU of all processes of the cluster that have ended: pgbench's
#   $w->wire          bytes that all of these processes have sent over TCP, to one another
#   $w->wire_of('a')  ... that those of a have sent and received
#   $w->wal('a'), $w->stored('a')    bytes of WAL, and by which the files of its own store grew
#   $w->seconds_now('a', sub { $_[0] eq 'apply' })    seconds of CPU so far; cheap
#   $w->peak('a')     {role => kB}: the greatest private memory that was seen (look_memory)
#
# CPU comes from /proc/PID/schedstat: nanoseconds that were run, which utime and stime split into
# ticks. A process that comes meanwhile counts from its start; of one that goes, what is used after
# the last look is lost. Bytes come from the kernel's counters of each connection (ss -ti), the same
# for every system: payload of TCP, without headers. Nothing here asks a system about itself.
package Bench::Watch;

use strict;
use warnings;

use File::Find ();
use List::Util qw(sum0);
use POSIX ();

sub new
{
	my ($class, $system, @clusters) = @_;
	my $self = bless { system => $system, clusters => \@clusters }, $class;

	foreach my $cluster (@clusters)
	{
		my $seen = $self->{ $cluster->{name} } = { cluster => $cluster };
		find_roles($self, $seen);
		$seen->{first} = { map { $_ => cpu_ns($_) // 0 } keys %{ $seen->{role} } };
		$seen->{last} = { %{ $seen->{first} } };
		$seen->{clients} = ended_us($cluster->{postmaster});
		$seen->{lsn} = $cluster->sql('SELECT pg_current_wal_insert_lsn()');
		$seen->{files} = store_sizes($system, $cluster);
		$seen->{stored} = 0;
		$seen->{peak} = {};
	}
	$self->{wire_first} = sockets();
	$self->{wire_last} = {};
	return $self;
}

# pid → role of whatever replicates on a cluster; roles of the past are kept.
sub find_roles
{
	my ($self, $seen) = @_;
	foreach my $row ($seen->{cluster}{session}->query(
		'SELECT pid, backend_type, usename, application_name FROM pg_stat_activity'))
	{
		my ($pid, @rest) = map { $_ // '' } @$row;
		my %process;
		@process{qw(type user application)} = @rest;
		my $role = $self->{system}->role(\%process);
		$seen->{role}{$pid} = $role if defined $role;
	}
}

sub roles
{
	my ($class, $system, $cluster) = @_;
	my $seen = { cluster => $cluster, role => {} };
	find_roles({ system => $system }, $seen);
	return $seen->{role};
}

# Nanoseconds of CPU that a process has used; undef if it is gone.
sub cpu_ns
{
	my ($pid) = @_;
	if (open my $file, '<', "/proc/$pid/schedstat")
	{
		my ($ns) = split ' ', <$file> // '';
		return $ns;
	}
	my @fields = stat_fields($pid) or return undef;
	return ($fields[11] + $fields[12]) * 1e9 / POSIX::sysconf(POSIX::_SC_CLK_TCK());
}

# What children of a process have used that have ended and were waited for.
sub ended_us
{
	my ($pid) = @_;
	my @fields = stat_fields($pid) or return 0;
	return ($fields[13] + $fields[14]) * 1e6 / POSIX::sysconf(POSIX::_SC_CLK_TCK());
}

# The fields of /proc/PID/stat from the state on.
sub stat_fields
{
	my ($pid) = @_;
	open my $file, '<', "/proc/$pid/stat" or return;
	my $line = <$file> // return;
	return split ' ', $line =~ s/^.*\) //r;
}

# Connections of processes: "pid local peer" → [sent, received]. A process sees its own user's.
sub sockets
{
	my %found;
	open my $ss, '-|', 'ss', '-tinpHO', 'state', 'established' or return \%found;
	while (my $line = <$ss>)
	{
		my ($local, $peer) = $line =~ /^\s*\d+\s+\d+\s+(\S+)\s+(\S+)/ or next;
		my ($pid) = $line =~ /pid=(\d+)/ or next;
		my ($sent) = $line =~ /bytes_acked:(\d+)/;
		my ($received) = $line =~ /bytes_received:(\d+)/;
		$found{"$pid $local $peer"} = [ $sent // 0, $received // 0 ];
	}
	close $ss;
	return \%found;
}

sub store_sizes
{
	my ($system, $cluster) = @_;
	my $store = $system->store // return {};
	my %size;

	File::Find::find({ no_chdir => 1, wanted => sub { $size{$_} = -s _ if -f $_ } }, "$cluster->{data}/$store")
		if -d "$cluster->{data}/$store";
	return \%size;
}

# Look at everything. Cheap enough for twice a second.
sub look
{
	my ($self) = @_;
	foreach my $cluster (@{ $self->{clusters} })
	{
		my $seen = $self->{ $cluster->{name} };
		find_roles($self, $seen);
		foreach my $pid (keys %{ $seen->{role} })
		{
			my $ns = cpu_ns($pid);
			$seen->{last}{$pid} = $ns if defined $ns;
		}
		my $files = store_sizes($self->{system}, $cluster);
		$seen->{stored} += sum0(map { $files->{$_} > ($seen->{files}{$_} // 0) ? $files->{$_} - ($seen->{files}{$_} // 0) : 0 }
			keys %$files);
		$seen->{files} = $files;
	}
	my $sockets = sockets();
	$self->{wire_last}{$_} = $sockets->{$_} foreach keys %$sockets;
}

# Private memory of each process now; cheap enough for fifty times a second.
sub look_memory
{
	my ($self) = @_;
	foreach my $seen (map { $self->{ $_->{name} } } @{ $self->{clusters} })
	{
		while (my ($pid, $role) = each %{ $seen->{role} })
		{
			my $kb = proc_kb("/proc/$pid/status", 'RssAnon') // next;
			$seen->{peak}{$role} = $kb if $kb > ($seen->{peak}{$role} // 0);
		}
	}
}

# A line of a file of /proc that is given in kB.
sub proc_kb
{
	my ($path, $what) = @_;
	open my $file, '<', $path or return undef;
	while (my $line = <$file>)
	{
		return $1 if $line =~ /^\Q$what\E:\s+(\d+) kB/;
	}
	return undef;
}

# [role, Pss in kB, private part of it] of each process of a cluster that replicates.
sub memory
{
	my ($class, $system, $cluster) = @_;
	my $role = $class->roles($system, $cluster);
	my @found;

	foreach my $pid (sort { $a <=> $b } keys %$role)
	{
		my ($pss, $private) = map { proc_kb("/proc/$pid/smaps_rollup", $_) } 'Pss', 'Pss_Anon';
		push @found, [ $role->{$pid}, $pss, $private ] if defined $pss && defined $private;
	}
	return @found;
}

sub end
{
	my ($self) = @_;
	$self->look;
	foreach my $cluster (@{ $self->{clusters} })
	{
		my $seen = $self->{ $cluster->{name} };
		$seen->{wal} = $cluster->sql("SELECT pg_current_wal_insert_lsn() - '$seen->{lsn}'::pg_lsn");
		$seen->{clients} = ended_us($cluster->{postmaster}) - $seen->{clients};
	}
}

sub cpu
{
	my ($self, $name) = @_;
	my $seen = $self->{$name};
	my %cpu;

	foreach my $pid (keys %{ $seen->{last} })
	{
		$cpu{ $seen->{role}{$pid} } += ($seen->{last}{$pid} - ($seen->{first}{$pid} // 0)) / 1000;
	}
	return \%cpu;
}

# Seconds of CPU that a role has used on a cluster by now, of processes that are known.
sub seconds_now
{
	my ($self, $name, $is_role) = @_;
	my $seen = $self->{$name};
	my @pids = grep { $is_role->($seen->{role}{$_}) } keys %{ $seen->{role} };
	return sum0(map { (cpu_ns($_) // 0) - ($seen->{first}{$_} // 0) } @pids) / 1e9;
}

sub clients { return $_[0]{ $_[1] }{clients} }
sub wal { return $_[0]{ $_[1] }{wal} }
sub stored { return $_[0]{ $_[1] }{stored} }
sub peak { return $_[0]{ $_[1] }{peak} }

# (sent, received) of the processes of one cluster.
sub wire_of
{
	my ($self, $name) = @_;
	my @bytes = (0, 0);

	while (my ($key, $now) = each %{ $self->{wire_last} })
	{
		my ($pid) = split ' ', $key;
		next unless exists $self->{$name}{role}{$pid};
		$bytes[$_] += $now->[$_] - ($self->{wire_first}{$key} // [ 0, 0 ])->[$_] foreach 0, 1;
	}
	return @bytes;
}

sub wire
{
	my ($self) = @_;
	return sum0(map { ($self->wire_of($_->{name}))[0] } @{ $self->{clusters} });
}

1;
