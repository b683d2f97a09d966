# pglogical 2, Debian's package. As default but for the filter of origins, which a mesh needs and
# which spares one way nothing but a look at each commit.
package System::pglogical;

use strict;
use warnings;

use parent -norequire, 'Bench::System';

sub packages { my ($self, $major) = @_; return "postgresql-$major-pglogical" }
sub extension { return 'pglogical' }
sub preload { return 'pglogical' }

# a mesh has to tell who wrote last
sub conf
{
	my ($self) = @_;
	return "track_commit_timestamp = on\npglogical.conflict_resolution = last_update_wins\n"
		. $self->output_plugin('pglogical_output');
}

sub node_make
{
	my ($self, $cluster) = @_;
	$cluster->sql('CREATE EXTENSION pglogical');
	$cluster->sql(sprintf("SELECT pglogical.create_node('%s', '%s')", $cluster->{name}, $cluster->dsn('bench')));
	$cluster->sql("SELECT pglogical.replication_set_add_all_tables('default', ARRAY['public'])");
}

# copy: are the rows that there are copied?
sub subscribe
{
	my ($self, $from, $to, $copy) = @_;
	my $name = "from_$from->{name}_to_$to->{name}";

	$to->sql(sprintf("SELECT pglogical.create_subscription('%s', '%s',"
		. " synchronize_structure := false, synchronize_data := %s, forward_origins := '{}')",
		$name, $from->dsn('bench'), $copy ? 'true' : 'false'));
	$to->poll("SELECT EXISTS (SELECT FROM pglogical.show_subscription_status('$name') WHERE status = 'replicating')"
		. " AND NOT EXISTS (SELECT FROM pglogical.local_sync_status WHERE sync_status NOT IN ('r', 'y'))",
		'initial copy');
}

sub set_up
{
	my ($self, $origin) = @_;
	$self->node_make($origin);
}

sub add_peer
{
	my ($self, $origin, $receiver) = @_;
	$receiver->schema_from($origin);
	$self->node_make($receiver);
	$self->subscribe($origin, $receiver, 1);
}

sub mesh
{
	my ($self, @clusters) = @_;
	$self->node_make($_) foreach @clusters;
	foreach my $to (@clusters)
	{
		$self->subscribe($_, $to, 0) foreach grep { $_ != $to } @clusters;
	}
}

sub role
{
	my ($self, $process) = @_;
	return 'walsender' if $process->{type} eq 'walsender';
	return $1 if $process->{type} =~ /^pglogical (\w+)/;
	return undef;
}

sub ways
{
	return [ '',
		sub
		{
			$_[0]->sql("SELECT pglogical.alter_subscription_disable('from_a_to_$_[0]{name}', true)");
			$_[1]->poll('SELECT NOT EXISTS (SELECT FROM pg_stat_replication)', 'the walsender goes on');
		},
		sub { },
		sub { $_[0]->sql("SELECT pglogical.alter_subscription_enable('from_a_to_$_[0]{name}', true)") } ];
}

1;
