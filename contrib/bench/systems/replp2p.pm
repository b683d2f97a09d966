# replp2p. A group has no direction: what is measured as one way has every node ready to write.
package System::replp2p;

use strict;
use warnings;

use parent -norequire, 'Bench::Group';

sub extension { return 'replp2p' }
sub preload { return 'replp2p' }
sub store { return 'replp2p' }

sub prepare
{
	my ($self, $cluster) = @_;
	$cluster->sql('CREATE EXTENSION replp2p');
	$cluster->sql('GRANT EXECUTE ON PROCEDURE replp2p.exchange(bytea) TO peer');
}

sub ready
{
	my ($self, $cluster) = @_;
	$cluster->sql("SELECT replp2p.wait_for_ready('$Bench::Cluster::LIMIT s')");
}

sub set_up
{
	my ($self, $origin) = @_;
	$self->prepare($origin);
	$origin->sql(sprintf("SELECT replp2p.create_group('%s', '%s')", $origin->{name}, $origin->dsn));
	$self->ready($origin);
}

sub add_peer
{
	my ($self, $origin, $receiver) = @_;
	my $invite = $origin->sql('SELECT replp2p.create_invite()');

	$self->prepare($receiver);
	$receiver->sql(sprintf("SELECT replp2p.join_group('%s', '%s', '%s')", $receiver->{name}, $receiver->dsn,
		$invite));
	$self->ready($receiver);
}

sub role
{
	my ($self, $process) = @_;
	return 'session' if $process->{user} eq 'peer' && $process->{type} eq 'client backend';
	return $1 if $process->{type} =~ /^replp2p (\w+)/;
	return undef;
}

sub unreachable
{
	my ($receiver, $names) = @_;
	$receiver->sql("ALTER SYSTEM SET replp2p.unreachable_peers = '$names'");
	$receiver->sql('SELECT pg_reload_conf()');
	$receiver->poll("SELECT bool_and(cut) = ('$names' <> '') FROM replp2p.stat_links", 'links are not cut');
}

# Wait until the receiver has stored all that the origin has committed.
sub received
{
	my ($receiver, $origin) = @_;
	my $lsn = $origin->sql('SELECT pg_current_wal_flush_lsn()');

	$origin->poll("SELECT captured_lsn >= '$lsn' FROM replp2p.stat_capture", 'capture lags');
	my $seq = $origin->sql('SELECT seq FROM replp2p.stat_capture');
	$receiver->poll("SELECT stored_seq >= $seq FROM replp2p.stat_log WHERE origin = '$origin->{name}'",
		'not received');
}

# With apply paused everything is received, verified and stored: letting go shows apply alone.
sub ways
{
	return (
		[ '',
			sub { unreachable($_[0], others($_[0])) },
			sub { },
			sub { unreachable($_[0], '') } ],
		[ 'received',
			sub { $_[0]->sql('SELECT replp2p.pause_apply()') },
			\&received,
			sub { $_[0]->sql('SELECT replp2p.resume_apply()') } ]);
}

# All names but its own.
sub others
{
	my ($receiver) = @_;
	return $receiver->sql("SELECT string_agg(node_name, ',') FROM replp2p.stat_members WHERE NOT self");
}

1;
