# PgSession: a connection to a server on loopback, in the simple query protocol
# and with trust authentication. The benchmark needs round trips that are short
# and equal for all; this has no process and no module of Debian's in between.
#
#   my $s = PgSession->new($port, $user, $database);
#   my @rows = $s->query('SELECT 1, 2');    ([1, 2]); dies on an error
#   $s->{sqlstate}                          of that error; undef: the session is lost, and
#                                           nobody knows what has become of the query
package PgSession;

use strict;
use warnings;

use Errno;
use IO::Socket::INET;
use Socket qw(IPPROTO_TCP TCP_NODELAY);

sub new
{
	my ($class, $port, $user, $database) = @_;
	my $socket = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port, Proto => 'tcp')
		or die "cannot connect to port $port: $!\n";
	my $self = bless { socket => $socket, buffer => '' }, $class;

	setsockopt($socket, IPPROTO_TCP, TCP_NODELAY, 1);
	binmode($socket);
	$self->send_bytes(with_length(pack('N', 3 << 16) . "user\0$user\0database\0$database\0\0"));
	$self->read_until_ready;
	return $self;
}

# Run one or more statements; the rows of all of them as arrays, NULL as undef.
sub query
{
	my ($self, $sql) = @_;
	$self->send_bytes('Q' . with_length("$sql\0"));
	return $self->read_until_ready;
}

# The first column of the first row.
sub value
{
	my ($self, $sql) = @_;
	my ($row) = $self->query($sql);
	return $row ? $row->[0] : undef;
}

# A message's length counts itself.
sub with_length
{
	return pack('N', 4 + length $_[0]) . $_[0];
}

sub send_bytes
{
	my ($self, $bytes) = @_;
	while (length $bytes)
	{
		my $n = syswrite($self->{socket}, $bytes);
		next if !defined $n && $!{EINTR};
		die "connection lost: $!\n" unless defined $n;
		substr($bytes, 0, $n, '');
	}
}

# Have at least so many bytes in the buffer, and take them.
sub take
{
	my ($self, $count) = @_;
	while (length $self->{buffer} < $count)
	{
		my $n = sysread($self->{socket}, $self->{buffer}, 65536, length $self->{buffer});
		next if !defined $n && $!{EINTR};
		die "connection lost\n" unless $n;
	}
	return substr($self->{buffer}, 0, $count, '');
}

# Read messages up to ReadyForQuery; return the rows among them.
sub read_until_ready
{
	my ($self) = @_;
	my ($error, $sqlstate, @rows);

	$self->{sqlstate} = undef;
	while (1)
	{
		my ($type, $length) = unpack('aN', $self->take(5));
		my $body = $self->take($length - 4);
		if ($type eq 'D')
		{
			push @rows, row($body);
		}
		elsif ($type eq 'E')
		{
			my %field = map { substr($_, 0, 1) => substr($_, 1) } grep { length } split /\0/, $body;
			($error, $sqlstate) = @field{qw(M C)};
			# before the first ReadyForQuery the server hangs up
			die "$error\n" if $field{S} eq 'FATAL';
		}
		elsif ($type eq 'Z')
		{
			$self->{sqlstate} = $sqlstate;
			die "$error\n" if defined $error;
			return @rows;
		}
	}
}

# Take a DataRow apart.
sub row
{
	my ($body) = @_;
	my $count = unpack('n', substr($body, 0, 2, ''));
	my @values;

	foreach (1 .. $count)
	{
		my $length = unpack('l>', substr($body, 0, 4, ''));
		push @values, $length < 0 ? undef : substr($body, 0, $length, '');
	}
	return \@values;
}

1;
