# Replp2p: groups of clusters for the TAP tests.
#
#   my $g = Replp2p->group(['a', 'b', 'c']);   three clusters, one group, ready
#   $g->node('a')->safe_psql('postgres', ...)  a PostgreSQL::Test::Cluster
#   $g->sync;                                  all have applied what all have written
#   $g->same('pgbench_accounts');              is() on the digest of a table
package Replp2p;

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

our $DB = 'postgres';

# Make and start a cluster that is ready for replp2p, extension created.
# Options: durable (fsync on), conf (extra lines), env (hash: environment of the
# server), no_extension.
sub cluster
{
	my ($class, $name, %opt) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name);

	# peers talk over TCP on loopback, as they would between machines
	$node->init(extra => ['--locale=C', '--encoding=UTF8', '--auth=trust']);
	$node->append_conf('postgresql.conf', <<"CONF");
shared_preload_libraries = 'replp2p'
wal_level = logical
listen_addresses = '127.0.0.1'
max_connections = 60
max_worker_processes = 24
max_replication_slots = 20
max_wal_senders = 2
log_line_prefix = '%m [%p] %b '
log_statement = none
autovacuum_naptime = 10s
replp2p.gossip_interval = 200ms
CONF
	$node->append_conf('postgresql.conf', "fsync = " . ($opt{durable} ? 'on' : 'off') . "\n");
	$node->append_conf('postgresql.conf', $opt{conf}) if $opt{conf};
	{
		local %ENV = (%ENV, %{ $opt{env} || {} });
		$node->start;
	}
	$node->safe_psql($DB, 'CREATE EXTENSION replp2p') unless $opt{no_extension};
	return $node;
}

# The dsn by which peers reach a cluster.
sub dsn
{
	my ($node, $db) = @_;
	$db //= $DB;
	return sprintf("host=127.0.0.1 port=%d dbname=%s user=%s",
		$node->port, $db, scalar getpwuid($<));
}

# Clusters of these names in one group, ready. Options as for cluster(), and
# schema (SQL run on the first before the others join), options => { name => {...} }.
sub group
{
	my ($class, $names, %opt) = @_;
	my $self = bless { names => [], nodes => {} }, $class;
	my $per_node = delete $opt{options} || {};
	my $schema = delete $opt{schema};

	foreach my $name (@$names)
	{
		my $node = $class->cluster($name, %opt, %{ $per_node->{$name} || {} });
		$self->{nodes}{$name} = $node;
		if (!@{ $self->{names} })
		{
			$node->safe_psql($DB, $schema) if $schema;
			$node->safe_psql($DB, sprintf("SELECT replp2p.create_group('%s', '%s')", $name, dsn($node)));
			$self->ready($name);
			push @{ $self->{names} }, $name;
		}
		else
		{
			$self->join($name, $self->{names}[0]);
		}
	}
	return $self;
}

# Have a cluster (already in nodes) join by an invite of sponsor, and wait until it is ready.
sub join
{
	my ($self, $name, $sponsor) = @_;
	my $node = $self->{nodes}{$name};
	my $invite = $self->{nodes}{$sponsor}->safe_psql($DB, 'SELECT replp2p.create_invite()');
	$node->safe_psql($DB,
		sprintf("SELECT replp2p.join_group('%s', '%s', '%s')", $name, dsn($node), $invite));
	$self->ready($name);
	push @{ $self->{names} }, $name;
}

sub add_cluster
{
	my ($self, $name, %opt) = @_;
	return $self->{nodes}{$name} = ref($self)->cluster($name, %opt);
}

sub ready
{
	my ($self, $name) = @_;
	$self->{nodes}{$name}->safe_psql($DB, "SELECT replp2p.wait_for_ready('1 minute')");
}

sub node { return $_[0]{nodes}{ $_[1] } }
sub names { return @{ $_[0]{names} } }
sub nodes { my $self = shift; return map { $self->{nodes}{$_} } $self->names }

# SQL on one node, on all nodes.
sub sql
{
	my ($self, $name, $sql) = @_;
	return $self->node($name)->safe_psql($DB, $sql);
}

sub sql_all
{
	my ($self, $sql) = @_;
	return map { $self->sql($_, $sql) } $self->names;
}

# Wait until every node has applied everything that any of the named (all) nodes had committed.
sub sync
{
	my ($self, @from) = @_;
	@from = $self->names unless @from;
	my @tokens = map { $self->sql($_, 'SELECT replp2p.current_token()') } @from;
	foreach my $name ($self->names)
	{
		foreach my $token (@tokens)
		{
			$self->sql($name, "SELECT replp2p.wait_for_token('$token', '1 minute')");
		}
	}
}

# Digest of a table's content, independent of order.
sub digest
{
	my ($self, $name, $table) = @_;
	return $self->sql($name,
		"SELECT count(*) || ' ' || coalesce(md5(string_agg(t::text, E'\\n' ORDER BY t::text)), '') FROM $table t");
}

# One test: the table is the same on all nodes.
sub same
{
	my ($self, $table, $what) = @_;
	my ($first, @rest) = $self->names;
	my $expected = $self->digest($first, $table);
	my @different = grep { $self->digest($_, $table) ne $expected } @rest;
	$what //= "$table is the same on all nodes";
	ok(!@different, $what) or diag("different from $first: @different");
	return !@different;
}

# Wait for a query to give true (or the expected text) on a node.
sub eventually
{
	my ($self, $name, $query, $expected) = @_;
	return $self->node($name)->poll_query_until($DB, $query, $expected // 't');
}

sub stop
{
	my ($self) = @_;
	$_->stop('fast') foreach values %{ $self->{nodes} };
}

1;
