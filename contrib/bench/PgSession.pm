# PgSession: a connection to a server on loopback, in the simple query protocol
# and with trust authentication. The benchmark needs round trips that are short
# and equal for all; this has no process and no module of Debian's in between.
#
#   my $s = PgSession->new($port, $user, $database);
#   my @rows = $s->query('SELECT 1, 2');    ([1, 2]); dies on an error
#   $s->prepare('p', 'SELECT $1::int');     a named statement, and its rows for one value:
#   my @rows = $s->execute('p', 1);         no parsing and no planning in the server
#   $s->start('SELECT 1');                  as query(), but without waiting:
#   @rows = $s->finish if $s->answered(1);  is there an answer within so many seconds?
#   $s->limit(60);                          from now on a server that is silent for so many
#                                           seconds counts as lost
#   $s->{sqlstate}                          of that error; undef: the session is lost, and
#                                           nobody knows what has become of the query
package PgSession;

use strict;
use warnings;

use Errno;
use IO::Socket::INET;
use Socket qw(IPPROTO_TCP SOL_SOCKET SO_RCVTIMEO TCP_NODELAY);

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
	$self->start($sql);
	return $self->finish;
}

sub start
{
	my ($self, $sql) = @_;
	$self->send_bytes('Q' . with_length("$sql\0"));
}

# Has the server begun to answer, or does it within so many seconds?
sub answered
{
	my ($self, $seconds) = @_;
	vec(my $ready = '', fileno($self->{socket}), 1) = 1;
	return length $self->{buffer} || select($ready, undef, undef, $seconds) > 0;
}

sub finish { return $_[0]->read_until_ready }

# The first column of the first row.
sub value
{
	my ($self, $sql) = @_;
	my ($row) = $self->query($sql);
	return $row ? $row->[0] : undef;
}

sub prepare
{
	my ($self, $name, $sql) = @_;
	$self->send_bytes('P' . with_length("$name\0$sql\0\0\0") . 'S' . with_length(''));
	return $self->read_until_ready;
}

# Run a prepared statement with its values as text.
sub execute
{
	my ($self, $name, @values) = @_;
	my $bind = pack('Z*Z*nn', '', $name, 0, scalar @values)
		. join('', map { pack('N/a*', $_) } @values) . pack('n', 0);
	$self->send_bytes('B' . with_length($bind) . 'E' . with_length(pack('Z*N', '', 0))
		. 'S' . with_length(''));
	return $self->read_until_ready;
}

sub limit
{
	my ($self, $seconds) = @_;
	setsockopt($self->{socket}, SOL_SOCKET, SO_RCVTIMEO, pack('l!l!', $seconds, 0))
		or die "cannot limit a connection: $!\n";
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
