# Torture::Workload: what clients do, and how it is checked. A workload is a class with
#
#	name			as in WORKLOADS=
#	schema			SQL, run on the first node before the others join
#	prepare($group)	what is to be done once all are in the group
#	step($client)	one step of a client, which goes on for ever
#	check($group, $journal, $findings)
#					after the end, all nodes having everything
#	unshared		its tables whose rows only one client ever writes, or only with what it
#					has seen: any entry in the view "conflicts" is a false one
#
# That all tables are equal on all nodes is checked for all workloads alike.
package Torture::Workload;

use strict;
use warnings;

use Torture::Findings;

sub new { return bless {}, $_[0] }
sub prepare { }
sub check { }
sub unshared { return () }

# The checks of all workloads alike, and its own.
sub judge
{
	my ($self, $group, $journal, $found) = @_;

	$found->add($_ =~ / torn: / ? 'torn' : $_ =~ / lost: / ? 'lost' : 'dirty', $_) foreach @{ $journal->{violations} };
	foreach my $cluster ($group->clusters)
	{
		foreach my $table ($self->unshared)
		{
			my ($n, $what) = @{ ($cluster->query("SELECT count(*), min(conflict_type || ' of ' || key)"
				. " FROM replp2p.conflicts WHERE relation = '$table'::regclass"))[0] };
			$found->add('false conflict', "$table has $n on " . $cluster->name . ": $what") if $n;
		}
	}
	$self->check($group, $journal, $found);
}

1;
