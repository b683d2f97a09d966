# pgactive: no Debian package; it takes part where its extension is installed. Always a mesh.
package System::pgactive;

use strict;
use warnings;

use parent -norequire, 'Bench::Group';

sub extension { return 'pgactive' }
sub preload { return 'pgactive' }
sub conf { my ($self) = @_; return "track_commit_timestamp = on\n" . $self->output_plugin('pgactive') }

sub node_ready
{
	my ($self, $cluster) = @_;
	$cluster->sql('SELECT pgactive.pgactive_wait_for_node_ready()');
}

sub set_up
{
	my ($self, $origin) = @_;
	$origin->sql('CREATE EXTENSION pgactive');
	$origin->sql(sprintf("SELECT pgactive.pgactive_create_group('%s', '%s')", $origin->{name},
		$origin->dsn('bench')));
	$self->node_ready($origin);
}

sub add_peer
{
	my ($self, $origin, $receiver) = @_;
	$receiver->sql('CREATE EXTENSION pgactive');
	$receiver->sql(sprintf("SELECT pgactive.pgactive_join_group('%s', '%s', '%s')", $receiver->{name},
		$receiver->dsn('bench'), $origin->dsn('bench')));
	$self->node_ready($receiver);
}

sub role
{
	my ($self, $process) = @_;
	return 'walsender' if $process->{type} eq 'walsender';
	return 'apply' if "$process->{type} $process->{application}" =~ /pgactive.*apply/;
	return 'other' if $process->{type} =~ /^pgactive/;
	return undef;
}

# Its workers go on receiving; what is received is not applied.
sub ways
{
	return [ '',
		sub { $_[0]->sql('SELECT pgactive.pgactive_apply_pause()') },
		sub { },
		sub { $_[0]->sql('SELECT pgactive.pgactive_apply_resume()') } ];
}

1;
