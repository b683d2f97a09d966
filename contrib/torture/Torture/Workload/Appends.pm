# appends: lists to which all clients append, and readers that look for what no snapshot of a
# node may show, at any time.
#
# A transaction appends its number n, dense for each client, to one to four lists, a row each, and
# writes down what it saw: for each client the greatest number. So in every snapshot
#
#	torn		a transaction has all of its rows, or none
#	gaps		the numbers of a client are 1 .. n: none lost, none overtaken by a later one
#	causality	whoever is seen has all that he had seen
#	dirty		nothing is there of transactions that were rolled back
#	backwards	what a session has seen stays
#
# n comes from the rows themselves, so a client needs not know what became of its last transaction.
package Torture::Workload::Appends;

use strict;
use warnings;

use parent 'Torture::Workload';

sub name { 'appends' }
sub unshared { qw(append) }

sub schema
{
	return <<'SQL';
CREATE TABLE append (client int, n int, list int, parts int, seen int[], undone bool, PRIMARY KEY (client, n, list));

-- the greatest number of each client (0 .. clients - 1), in the caller's snapshot
CREATE FUNCTION append_heads(clients int) RETURNS int[] STABLE LANGUAGE sql AS $$
	SELECT array_agg(coalesce((SELECT max(n) FROM append a WHERE a.client = c), 0) ORDER BY c)
	FROM generate_series(0, clients - 1) c
$$;

CREATE FUNCTION append_step(me int, clients int, lists int, undo bool) RETURNS int LANGUAGE plpgsql AS $$
DECLARE
	heads int[] := append_heads(clients);
	mine int := heads[me + 1] + 1;
BEGIN
	FOR l IN 1 .. lists LOOP
		INSERT INTO append VALUES (me, mine, l, lists, heads, undo);
	END LOOP;
	IF undo THEN
		RAISE 'undone';
	END IF;
	RETURN mine;
END $$;

-- what is wrong with the last so many numbers of each client, in the caller's snapshot
CREATE FUNCTION append_look(clients int, last int) RETURNS SETOF text STABLE LANGUAGE plpgsql
	SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
	heads int[] := append_heads(clients);
BEGIN
	RETURN QUERY SELECT format(' torn: transaction %s of client %s has %s of %s rows', n, client, count(*), max(parts))
		FROM generate_series(0, clients - 1) c JOIN append ON client = c AND n > heads[c + 1] - last GROUP BY client, n HAVING count(*) <> max(parts);
	RETURN QUERY SELECT format(' lost: client %s has %s of its numbers %s to %s', client, count(DISTINCT n), min(n), max(n))
		FROM generate_series(0, clients - 1) c JOIN append ON client = c AND n > heads[c + 1] - last GROUP BY client
		HAVING count(DISTINCT n) <> least(heads[client + 1], last);
	RETURN QUERY SELECT format(' lost: transaction %s of client %s saw %s of client %s, here is %s', a.n, a.client, s.n, s.c - 1, heads[s.c])
		FROM generate_series(0, clients - 1) c JOIN append a ON a.client = c AND a.n > heads[c + 1] - last,
			unnest(a.seen) WITH ORDINALITY s(n, c)
		WHERE a.list = 1 AND s.n > heads[s.c];
	RETURN QUERY SELECT format(' dirty: transaction %s of client %s was rolled back', n, client)
		FROM generate_series(0, clients - 1) c JOIN append ON client = c AND n > heads[c + 1] - last WHERE undone;
END $$;
SQL
}

sub step
{
	my ($self, $client) = @_;
	my $undo = rand() < 0.1 ? 'true' : 'false';

	return look($self, $client) if $client->{step} % 4 == 0;
	$client->transact($client->{home}, "$client->{id}.$client->{step}",
		sprintf('SELECT append_step(%d, %d, %d, %s)', $client->{number}, $client->{count}, 1 + int(rand(4)), $undo));
}

# Look at any node, all in one snapshot.
sub look
{
	my ($self, $client) = @_;
	my ($node) = rand() < 0.5 ? $client->{home} : ($client->{group}->names)[ int(rand($client->{count})) ];
	my $session = $client->session($node) or return;
	my $rows = $client->read($node, "SELECT append_heads($client->{count})::text, NULL UNION ALL SELECT NULL, append_look($client->{count}, 40)") or return;
	my (@heads, @before);

	foreach (@$rows)
	{
		@heads = $_->[0] =~ /\d+/g if defined $_->[0];
		$client->violation("on $node:$_->[1]") if defined $_->[1];
	}
	# a server that has crashed may have to apply again what it had applied: only within one session
	@before = @{ $client->{heads}{$node}{heads} // [] } if ($client->{heads}{$node}{session} // 0) == $session;
	foreach (0 .. $#before)
	{
		$client->violation("on $node: torn: client $_ goes back from $before[$_] to $heads[$_]") if $heads[$_] < $before[$_];
	}
	$client->{heads}{$node} = { session => $session, heads => \@heads };
}

sub check
{
	my ($self, $group, $journal, $found) = @_;
	my $clients = scalar $group->clusters;
	my %ok;

	# "a0.17" is by client 0
	$ok{$_}++ foreach map { /^[a-z]+(\d+)\./ } @{ $journal->{ok} };
	foreach my $cluster ($group->clusters)
	{
		my $name = $cluster->name;
		my @heads = $cluster->value("SELECT append_heads($clients)::text") =~ /\d+/g;

		foreach ($cluster->query("SELECT append_look($clients, 1000000000)"))
		{
			my ($kind, $what) = $_->[0] =~ /^ (\w+): (.*)/;
			$found->add($kind, "$what, on $name");
		}
		foreach my $me (grep { $heads[$_] < ($ok{$_} // 0) } 0 .. $#heads)
		{
			$found->add('lost', "client $me was told of $ok{$me} transactions, $heads[$me] are there, on $name");
		}
	}
}

1;
