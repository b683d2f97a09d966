# Bench::System: what a driver of a replication system gives, with what most of them share.
#
# A driver is a file systems/NAME.pm (or any file that --systems names by its path) with a
# package System::NAME that inherits from this one. It says how an origin is made one, how
# a receiver is added, which process does what, and how a receiver is kept from receiving.
# README.md shows the shortest one.
package Bench::System;

use strict;
use warnings;

use File::Basename qw(basename dirname);

# The server's executables, of all systems but replp2p_old.
our ($BIN, $OLD_BIN);

# Load a driver by name or by path.
sub load
{
	my ($class, $named) = @_;
	my $path = $named =~ m{/|\.pm$} ? $named : dirname(__FILE__) . "/../systems/$named.pm";
	my $name = basename($path, '.pm');

	die "there is no driver $path\n" unless -f $path;
	require($path =~ m{^/} ? $path : "./$path");
	return "System::$name"->new($name);
}

sub new
{
	my ($class, $name) = @_;
	return bless { name => $name }, $class;
}

sub name { return $_[0]{name} }

sub bin { return $BIN }

# Debian packages without which it does not run. $major: the server's version.
sub packages { my ($self, $major) = @_; return () }

# An extension without whose control file the system is left out; undef: none is needed.
sub extension { return undef }

# shared_preload_libraries, further lines of postgresql.conf.
sub preload { return '' }
sub conf { return '' }

# A line of postgresql.conf that lets an output plugin in. Minor releases of August 2026 and later
# take only those that are listed; older ones don't know the setting.
sub output_plugin
{
	my ($self, $plugin) = @_;
	my $postgres = $self->bin . '/postgres';
	my $known = grep { /^output_plugin_libraries\t/ } `'$postgres' --describe-config`;
	return $known ? "output_plugin_libraries = 'pgoutput, $plugin'\n" : '';
}

# Make a cluster that has all tables the origin of what follows.
sub set_up { my ($self, $origin) = @_; die "not given\n" }

# Have an empty cluster follow the origin; return when it has all rows and every change to come
# will reach it. others: the receivers that there are.
sub add_peer { my ($self, $origin, $receiver, @others) = @_; die "not given\n" }

# The same for clusters with tables and no rows that all accept writes, each to all others.
# A system that cannot do it leaves it out (can('mesh')) and says why.
sub no_mesh { return 'it has none' }

# The role of a process in replication, undef if it has none. It is a hash: type, user,
# application, as pg_stat_activity has them (backend_type, usename, application_name).
sub role { my ($self, $process) = @_; return undef }

# Roles that write what is replicated into tables.
sub applies { my ($self, $role) = @_; return $role =~ /^apply/ }

# Ways in which a receiver can be kept back, each [name, stop, received, go]: functions of
# the receiver and the origin. received waits until the backlog is where the way leaves it.
# The first must keep everything from the receiver, and its name is ''.
sub ways { return () }

# A folder in the data directory with what replication itself stores; undef if it has none.
sub store { return undef }

# Bench::Group: a system that any number of clusters join, each by way of the first. A joiner
# brings no tables, and all accept writes.
package Bench::Group;

our @ISA = ('Bench::System');

sub mesh
{
	my ($self, $first, @others) = @_;
	$self->set_up($first);
	foreach my $cluster (@others)
	{
		$cluster->sql('DROP SCHEMA public CASCADE');
		$cluster->sql('CREATE SCHEMA public');
		$self->add_peer($first, $cluster);
	}
}

1;
