# Torture::Group: the clusters of a run as one group of replp2p, and what is asked of all.
package Torture::Group;

use strict;
use warnings;

use Time::HiRes qw(sleep time);

use Torture::Cluster;
use Torture::Links;

# Make clusters and group. Options: work, bin, tools (folder of compiled helpers), nodes
# (their number), schema (SQL), faked_clock (the library, if the servers' clocks are to be set), disks (folder
# of small file systems for their change logs), conf (lines of their configuration).
sub new
{
	my ($class, %option) = @_;
	my $self = bless {%option}, $class;
	my @names = ('a' .. 'z')[ 0 .. $option{nodes} - 1 ];

	mkdir "$self->{work}/nodes" or die "$self->{work}/nodes: $!\n";
	$self->{clusters} = [ map { $self->cluster_new($_) } @names ];
	$self->{by_name} = { map { $_->name => $_ } @{ $self->{clusters} } };
	$_->make($self->conf) foreach $self->clusters;
	$self->{links} = Torture::Links->new("$self->{tools}/links", $self->{clusters});
	$self->grow($_) foreach $self->clusters;
	$self->link_all;
	return $self;
}

sub clusters { return @{ $_[0]{clusters} } }
sub cluster { return $_[0]{by_name}{ $_[1] } }
sub names { return map { $_->name } $_[0]->clusters }
sub links { return $_[0]{links} }

sub conf
{
	my ($self) = @_;
	# a step of the clock would bring a checkpoint
	my $checkpoints = $self->{faked_clock} ? '1d' : '30s';

	return <<"CONF" . ($self->{conf} // '') . "\n";
checkpoint_timeout = $checkpoints
replp2p.gossip_interval = 200ms
replp2p.connect_timeout = 2s
replp2p.dead_after = 3s
CONF
}

sub cluster_new
{
	my ($self, $name) = @_;
	my %environment;

	if ($self->{faked_clock})
	{
		# see t/unfaked_waits.c; a process looks at the file whenever it asks for the time
		%environment = (
			LD_PRELOAD => "$self->{tools}/unfaked_waits.so:$self->{faked_clock}",
			FAKETIME_TIMESTAMP_FILE => $self->clock_file($name),
			FAKETIME_NO_CACHE => 1,
			FAKETIME_DONT_FAKE_MONOTONIC => 1,
			NO_FAKE_STAT => 1);
		$self->set_clock($name, 0);
	}
	return Torture::Cluster->new(work => $self->{work}, bin => $self->{bin}, name => $name,
		environment => \%environment);
}

sub clock_file { return "$_[0]{work}/clock_$_[1]" }

# Set a faked clock this many seconds off the real one.
sub set_clock
{
	my ($self, $name, $seconds) = @_;
	my $path = $self->clock_file($name);

	open my $file, '>', "$path.new" or die "$path.new: $!\n";
	printf $file "%+f\n", $seconds;
	close $file or die "$path.new: $!\n";
	rename "$path.new", $path or die "$path: $!\n";
}

# Start a cluster and have it make the group, or join it.
sub grow
{
	my ($self, $cluster) = @_;
	my ($first) = $self->clusters;
	my $name = $cluster->name;

	# the folder of the change logs, on a file system that the nemesis "disk" fills
	!$self->{disks} || symlink "$self->{disks}/$name", "$cluster->{data}/replp2p" or die "symlink: $!\n";
	$cluster->start or die "node $name does not start: see $cluster->{log}\n";
	PgSession->new($cluster->{port}, $Torture::Cluster::USER, 'postgres')
		->query("CREATE DATABASE $Torture::Cluster::DATABASE");
	$cluster->query($_) foreach 'CREATE EXTENSION replp2p', "CREATE ROLE $Torture::Cluster::PEER LOGIN",
		"GRANT EXECUTE ON PROCEDURE replp2p.exchange(bytea) TO $Torture::Cluster::PEER";
	my $dsn = $cluster->dsn;
	if ($cluster == $first)
	{
		$cluster->query($self->{schema});
		$cluster->query("SELECT replp2p.create_group('$name', '$dsn')");
	}
	else
	{
		my $invite = $first->value('SELECT replp2p.create_invite()');
		$cluster->query("SELECT replp2p.join_group('$name', '$dsn', '$invite')");
	}
	$cluster->query("SELECT replp2p.wait_for_ready('3 minutes')");
}

# Have each node reach each other by a link of their own, from now on.
sub link_all
{
	my ($self) = @_;

	$self->sync(60);
	foreach ($self->links->pairs)
	{
		my ($from, $to) = @$_;
		my $dsn = $self->cluster($to)->dsn($self->links->port($from, $to));
		$self->cluster($from)->query("SELECT replp2p.set_node_dsn('$to', '$dsn')");
	}
	my $deadline = time + 60;
	until ($self->linked)
	{
		die "the nodes do not find each other by their links\n" if time > $deadline;
		sleep 0.1;
	}
	$self->{node_id}{ $_->name } = $_->value('SELECT node_id FROM replp2p.stat_members WHERE self') foreach $self->clusters;
}

# Does each link carry something, and does each node see all others?
sub linked
{
	my ($self) = @_;

	foreach ($self->links->pairs)
	{
		return 0 if $self->links->command("count @$_") =~ /^0 /;
	}
	foreach my $cluster ($self->clusters)
	{
		return 0 if $cluster->value('SELECT NOT bool_and(connected) FROM replp2p.stat_links') eq 't';
	}
	return 1;
}

# Wait until every node has applied what every other has committed by now; dies if one
# has not after so many seconds.
sub sync
{
	my ($self, $seconds) = @_;
	my $deadline = time + $seconds;
	my %token = map { $_->name => $self->insist($_, 'SELECT replp2p.current_token()', $deadline) } $self->clusters;

	foreach my $cluster ($self->clusters)
	{
		foreach my $from (grep { $_ ne $cluster->name } sort keys %token)
		{
			my $left = int($deadline - time) + 1;
			eval { $cluster->query("SELECT replp2p.wait_for_token('$token{$from}', '$left s')"); 1 }
				or die "after $seconds s node " . $cluster->name . " lacks what $from has committed: $@";
		}
	}
}

# Is there a function or view of this name in this version of replp2p?
sub offers
{
	my ($self, $name) = @_;
	my ($first) = $self->clusters;
	return $first->value("SELECT (SELECT count(*) FROM pg_proc WHERE proname = '$name' AND pronamespace = 'replp2p'::regnamespace)"
		. " + (SELECT count(*) FROM pg_class WHERE relname = '$name' AND relnamespace = 'replp2p'::regnamespace)");
}

# Wait until changes of handlers and merges are in force everywhere.
sub settle_handlers
{
	my ($self) = @_;
	my $deadline = time + 60;

	return unless $self->offers('handler_changes');
	$self->sync(60);
	foreach my $cluster ($self->clusters)
	{
		until ($cluster->value('SELECT (SELECT count(*) FROM replp2p.get_table_handlers() WHERE settled) >= (SELECT count(*) FROM replp2p.handler_changes)') eq 't')
		{
			die 'changes of handlers do not settle on ' . $cluster->name . "\n" if time > $deadline;
			sleep 0.1;
		}
	}
}

# The value of a query on a node that may be starting.
sub insist
{
	my ($self, $cluster, $sql, $deadline) = @_;
	my $value;

	until (defined($value = eval { $cluster->value($sql) }))
	{
		die 'node ' . $cluster->name . " does not answer: $@" if time > $deadline;
		sleep 0.1;
	}
	return $value;
}

# Start what should run and does not: a server may give up by itself when it is shot while it
# recovers. Returns the names of those.
sub keep_running
{
	my ($self) = @_;
	my @started;

	foreach my $cluster ($self->clusters)
	{
		$cluster->locked_now(sub {
			return if $cluster->postmaster;
			$cluster->start_again;
			push @started, $cluster->name;
		});
	}
	return @started;
}

# Tables whose content differs between nodes, as "table on b".
sub differences
{
	my ($self) = @_;
	my ($first, @rest) = $self->clusters;
	my @different;

	foreach my $table (map { $_->[0] } $first->query(
		"SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' ORDER BY 1"))
	{
		my $expected = digest($first, $table);
		push @different, map { [ $table, $_->name ] } grep { digest($_, $table) ne $expected } @rest;
	}
	return @different;
}

# A digest of a table's content, independent of order.
sub digest
{
	my ($cluster, $table) = @_;
	return $cluster->value("SELECT count(*) || ' ' || coalesce(sum(('x' || left(d, 16))::bit(64)::bigint::numeric)::text, '') || ' '"
		. " || coalesce(sum(('x' || right(d, 16))::bit(64)::bigint::numeric)::text, '') FROM (SELECT md5(t::text) AS d FROM $table t) x");
}

# What is not well with a node, in words: what a human looks at first when a run fails.
sub complaints
{
	my ($self) = @_;
	my @found;

	foreach my $cluster ($self->clusters)
	{
		my @rows = eval { $cluster->query(<<'SQL') };
SELECT check_name || ' ' || status || ': ' || detail FROM replp2p.health() WHERE status = 'CRITICAL'
UNION ALL
SELECT origin || ' is ' || state || ', ' || lag_transactions || ' behind' || coalesce(': ' || last_error, '')
FROM replp2p.stat_lag WHERE lag_transactions > 0 OR state = 'error'
SQL
		push @found, map { $cluster->name . ": $_" } $@ ? "does not answer: $@" : map { $_->[0] } @rows;
	}
	return @found;
}

# What the servers' logs say of errors in the code: failed assertions, crashes that no nemesis made.
sub crashes
{
	my ($self) = @_;
	my @found;

	foreach my $cluster ($self->clusters)
	{
		open my $file, '<', $cluster->{log} or next;
		while (my $line = <$file>)
		{
			chomp $line;
			push @found, $cluster->name . ": $line" if $line =~ /TRAP: |PANIC: |terminated by signal (?!9:)|XX000/;
		}
	}
	return @found;
}

# End everything, at once; fast: keep what a human may want to look at.
sub stop
{
	my ($self) = @_;

	foreach my $cluster ($self->clusters)
	{
		next unless -d $cluster->{data};
		my %title = $cluster->processes;
		kill 'CONT', keys %title;
		$cluster->stop('fast') if %title;
		# nothing may be left, whatever it is
		kill 'KILL', keys %{ { $cluster->processes } };
	}
	$self->{links}->stop if $self->{links};
	# what libfaketime in a killed process has left
	unlink grep { /_(\d+)$/ && !-d "/proc/$1" } glob '/dev/shm/{faketime_shm,sem.faketime_sem}_*';
}

# Keep change logs that are in a file system which ends with us.
sub keep
{
	my ($self) = @_;

	foreach my $cluster ($self->{disks} ? $self->clusters : ())
	{
		my $folder = "$cluster->{data}/replp2p";
		unlink $folder;
		system('cp', '-a', "$self->{disks}/" . $cluster->name, $folder);
	}
}

1;
