# Built-in logical replication, one way, as it comes: one publication, and a subscription with
# default options on each receiver.
package System::native;

use strict;
use warnings;

use parent -norequire, 'Bench::System';

my $READY = <<'SQL';
SELECT count(*) > 0 AND bool_and(srsubstate = 'r') FROM pg_subscription_rel
SQL

# options of CREATE SUBSCRIPTION
sub options { return '' }

sub set_up
{
	my ($self, $origin) = @_;
	$origin->sql('CREATE PUBLICATION everything FOR ALL TABLES');
	$origin->sql('GRANT pg_read_all_data TO peer');
}

sub add_peer
{
	my ($self, $origin, $receiver) = @_;
	my $options = $self->options;

	$receiver->schema_from($origin);
	$receiver->sql(sprintf("CREATE SUBSCRIPTION from_a_to_%s CONNECTION '%s' PUBLICATION everything%s",
		$receiver->{name}, $origin->dsn, $options && " WITH ($options)"));
	$receiver->poll($READY, 'initial copy');
}

sub no_mesh { return 'PostgreSQL 15 has no origin = none: both ways would go round for ever (16 has)' }

sub role
{
	my ($self, $process) = @_;
	return 'walsender' if $process->{type} eq 'walsender';
	return 'launcher' if $process->{type} eq 'logical replication launcher';
	return 'apply' if $process->{type} eq 'logical replication worker';
	return undef;
}

sub ways
{
	return [ '',
		sub { $_[0]->sql("ALTER SUBSCRIPTION from_a_to_$_[0]{name} DISABLE"); idle($_[1]) },
		sub { },
		sub { $_[0]->sql("ALTER SUBSCRIPTION from_a_to_$_[0]{name} ENABLE") } ];
}

# A disabled subscription's worker ends at its leisure.
sub idle
{
	my ($origin) = @_;
	$origin->poll('SELECT NOT EXISTS (SELECT FROM pg_stat_replication)', 'the walsender goes on');
}

1;
