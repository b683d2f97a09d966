# inserts: unique rows, each transaction under an id of its own.
#
# A transaction puts its rows into a table without a key, so that one that is applied twice
# shows as more rows, and one row into a table with a key; now and then it is as
# large as several batches. Checked: what was acknowledged is on every node, exactly once and as
# a whole; what was refused is nowhere; nobody has met a conflict.
package Torture::Workload::Inserts;

use strict;
use warnings;

use parent 'Torture::Workload';

sub name { 'inserts' }
sub unshared { qw(ins_plain ins_keyed) }

sub schema
{
	return <<'SQL';
CREATE TABLE ins_plain (id text, part int, parts int, v text);
CREATE TABLE ins_keyed (id text PRIMARY KEY);
SQL
}

sub step
{
	my ($self, $client) = @_;
	my $id = "$client->{id}.$client->{step}";
	my $parts = rand() < 0.02 ? 500 + int(rand(2000)) : 1 + int(rand(3));

	$client->transact($client->{home}, $id,
		"INSERT INTO ins_plain SELECT '$id', p, $parts, repeat(md5(p::text), 1 + p % 4) FROM generate_series(1, $parts) p;"
		. "INSERT INTO ins_keyed VALUES ('$id')");
}

sub check
{
	my ($self, $group, $journal, $found) = @_;

	foreach my $cluster ($group->clusters)
	{
		my $name = $cluster->name;
		my (%plain, %keyed);

		foreach ($cluster->query('SELECT id, count(*), count(DISTINCT part), max(parts) FROM ins_plain GROUP BY id'))
		{
			my ($id, $rows, $distinct, $parts) = @$_;
			$plain{$id} = 1;
			$found->add('duplicated', "$id: $rows rows and not $parts, on $name") if $rows > $distinct;
			$found->add('torn', "$id: $distinct of $parts rows, on $name") if $distinct != $parts;
		}
		$keyed{ $_->[0] } = 1 foreach $cluster->query('SELECT id FROM ins_keyed');
		$found->add('lost', "$_, on $name") foreach grep { !$plain{$_} && !$keyed{$_} } @{ $journal->{ok} };
		$found->add('torn', "$_ in one table only, on $name") foreach grep { !$plain{$_} != !$keyed{$_} } keys %{ { %plain, %keyed } };
		$found->add('dirty', "$_ was refused, and is on $name") foreach grep { $plain{$_} || $keyed{$_} } @{ $journal->{failed} };
	}
}

1;
