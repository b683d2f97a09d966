# Torture::Client: a client of one workload, which survives what happens to servers.
#
# It is a process of its own. What it does it writes to its journal, for the checker, each
# line in one write(): "? id" before a transaction is sent; then
#
#	+ id	the server has acknowledged it
#	- id	the server has refused it: it may be nowhere
#
# A transaction with neither is unknown: the session was lost, or this process was killed.
# It is everywhere or nowhere. Beside that
#
#	= key value		a note for the checker; the last one of a key holds
#	! text			what no client may ever see
package Torture::Client;

use strict;
use warnings;

use Time::HiRes qw(sleep);

use Torture::Cluster;

# Milliseconds of thought between two steps, at most: clients are many and the machine is small.
our $PAUSE_MS = 60;

# Make a client; to be called in its own process. Options: workload, group, home (a node's name),
# number (from 0, unique in its workload), count (of clients of this workload), seed, journal (path).
sub new
{
	my ($class, %option) = @_;
	my $self = bless { %option, sessions => {}, step => 0 }, $class;

	$self->{id} = "$self->{home}$self->{number}";
	srand($self->{seed});
	open $self->{file}, '>>', $self->{journal} or die "$self->{journal}: $!\n";
	return $self;
}

# Take steps until TERM comes or the conductor is gone.
sub run
{
	my ($self) = @_;
	my $parent = getppid();
	my $over = 0;
	local $SIG{TERM} = sub { $over = 1 };

	until ($over || getppid() != $parent)
	{
		$self->{step}++;
		$self->{workload}->step($self);
		sleep rand($PAUSE_MS) / 1000;
	}
}

# The names of all nodes but one.
sub others
{
	my ($self, $name) = @_;
	return grep { $_ ne $name } $self->{group}->names;
}

# A session with a node, made if need be; undef if it takes none now.
sub session
{
	my ($self, $name) = @_;

	$self->{sessions}{$name} //= eval { $self->{group}->cluster($name)->session };
	sleep 0.05 unless $self->{sessions}{$name};
	return $self->{sessions}{$name};
}

# Run SQL, which is one transaction, under an id that is used for no other: ok, failed, unknown,
# or '' if it could not even be sent. What it returned is in {rows}, or in {error} and {sqlstate}.
sub transact
{
	my ($self, $name, $id, $sql) = @_;

	@$self{qw(rows error sqlstate)} = ();
	my $session = $self->session($name) or return '';
	$self->note("? $id");
	my $outcome = $self->query($name, $session, $sql);
	$self->note("+ $id") if $outcome eq 'ok';
	$self->note("- $id") if $outcome eq 'failed';
	return $outcome;
}

# Run SQL that changes nothing: its rows, or undef.
sub read
{
	my ($self, $name, $sql) = @_;
	my $session = $self->session($name) or return undef;

	return $self->query($name, $session, $sql) eq 'ok' ? $self->{rows} : undef;
}

sub query
{
	my ($self, $name, $session, $sql) = @_;

	@$self{qw(rows error sqlstate)} = ();
	$self->{rows} = eval { [ $session->query($sql) ] };
	return 'ok' unless $@;
	chomp($self->{error} = $@);
	$self->{sqlstate} = $session->{sqlstate};
	return 'failed' if defined $self->{sqlstate};
	delete $self->{sessions}{$name};
	return 'unknown';
}

# Write a line to the journal.
sub note
{
	my ($self, $line) = @_;
	syswrite($self->{file}, "$line\n") // die "$self->{journal}: $!\n";
}

# What no client may see.
sub violation
{
	my ($self, $text) = @_;
	$self->note("! client $self->{id}: $text");
}

#
# What checkers read.
#

# Read journals: { ok, failed, unknown: lists of ids; notes: hash; violations: list }.
sub journals
{
	my (@paths) = @_;
	my %found = (ok => [], failed => [], unknown => [], notes => {}, violations => []);

	foreach my $path (@paths)
	{
		open my $file, '<', $path or next;
		my %open;
		while (my $line = <$file>)
		{
			next unless $line =~ /\n\z/ && $line =~ /^(\S) (\S+) ?(.*)$/;
			if ($1 eq '?') { $open{$2} = 1 }
			elsif ($1 eq '+') { push @{ $found{ok} }, $2; delete $open{$2} }
			elsif ($1 eq '-') { push @{ $found{failed} }, $2; delete $open{$2} }
			elsif ($1 eq '=') { $found{notes}{$2} = $3 }
			elsif ($1 eq '!') { push @{ $found{violations} }, "$2 $3" }
		}
		push @{ $found{unknown} }, keys %open;
	}
	return \%found;
}

1;
