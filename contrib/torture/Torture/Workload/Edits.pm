# edits: documents that one client edits now on this node and now on that, one after the other.
#
# After each edit the client takes a token, and has the next node wait for it before it edits there.
# So each edit has seen the one before, and there is no conflict at all: checked are that the next node
# shows exactly what the last edit left (an update, a delete or an insert; also where a large value was
# left as it was), that all nodes end with the last edit, and that the view "conflicts" has none of them.
#
# Whether an edit with unknown outcome has happened is read from the node itself, before going on.
package Torture::Workload::Edits;

use strict;
use warnings;

use parent 'Torture::Workload';

my $DOCUMENTS = 5;		# of each client

sub name { 'edits' }
sub unshared { qw(document) }

sub schema
{
	return <<'SQL';
CREATE TABLE document (id text PRIMARY KEY, n int, editor text, big text);
ALTER TABLE document ALTER big SET STORAGE EXTERNAL;
SQL
}

# A document is { id, n (of its last edit), big (the n of the edit that gave it), exists, node (of that
# edit), token, doubt (what it is if the edit under way has happened) }.
sub step
{
	my ($self, $client) = @_;
	my $documents = $client->{documents} //= [ map { { id => "$client->{id}.$_", n => 0, big => 0, exists => 0 } } 1 .. $DOCUMENTS ];
	my $document = $documents->[ int(rand(@$documents)) ];

	return unless settle($client, $document);
	my $node = (grep { $_ ne ($document->{node} // '') } sort { $a->[1] <=> $b->[1] } map { [ $_, rand() ] } $client->{group}->names)[0][0];
	if ($document->{token})
	{
		$client->read($node, "SELECT replp2p.wait_for_token('$document->{token}', '2 s')") or return;
	}
	edit($client, $document, $node);
}

# Know what the last edit has come to, and have its token; false: not now.
sub settle
{
	my ($client, $document) = @_;
	my $node = $document->{node} // return 1;

	if ($document->{doubt})
	{
		# waits for the lock of a backend that may still be at it
		my $rows = $client->read($node, "SELECT n FROM document WHERE id = '$document->{id}' FOR UPDATE") or return 0;
		my $now = @$rows ? $rows->[0][0] : 'gone';
		if ($now eq state_of($document->{doubt}))
		{
			@$document{ keys %{ $document->{doubt} } } = values %{ $document->{doubt} };
		}
		elsif ($now ne state_of($document))
		{
			$client->violation("lost: $document->{id} on $node is $now, and was " . state_of($document));
			go_on_from($document, $rows);
		}
		delete $document->{doubt};
		note($client, $document);
	}
	my $rows = $document->{token} ? undef : ($client->read($node, 'SELECT replp2p.current_token()') or return 0);
	$document->{token} = $rows->[0][0] if $rows;
	return 1;
}

# After a violation: what is there is the state from now on, so that it is reported once.
sub go_on_from
{
	my ($document, $rows) = @_;
	@$document{qw(exists big)} = (scalar @$rows, undef);
	$document->{n} = $rows->[0][0] if @$rows;
}

sub state_of { return $_[0]{exists} ? $_[0]{n} : 'gone' }

# For the checker: what is certain, or the two states of which one is.
sub note
{
	my ($client, $document) = @_;
	$client->note(join(' ', "= $document->{id}", state_of($document), $document->{doubt} ? state_of($document->{doubt}) : ()));
}

# Make one edit on a node that has all edits before.
sub edit
{
	my ($client, $document, $node) = @_;
	my ($id, $n, $dice) = ($document->{id}, $document->{n} + 1, rand());
	my %next = (n => $n, exists => 1, node => $node, token => undef);
	my $seen = defined $document->{big} ? "md5((SELECT big FROM document WHERE id = '$id')) = md5(repeat('$document->{big} ', 1500))" : 'true';
	my $big = sub { $next{big} = $n; return "repeat('$n ', 1500)" };
	my $sql;

	if (!$document->{exists})
	{
		$sql = "INSERT INTO document VALUES ('$id', $n, '$node', " . $big->() . ") RETURNING true";
	}
	elsif ($dice < 0.15)
	{
		$sql = "DELETE FROM document WHERE id = '$id' AND n = $document->{n} RETURNING $seen";
		$next{exists} = 0;
	}
	elsif ($dice < 0.3)
	{
		$sql = "UPDATE document SET n = $n, editor = '$node', big = " . $big->() . " WHERE id = '$id' AND n = $document->{n} RETURNING $seen";
	}
	else
	{
		$sql = "UPDATE document SET n = $n, editor = '$node' WHERE id = '$id' AND n = $document->{n} RETURNING $seen";
	}
	$document->{doubt} = \%next;
	note($client, $document);
	my $was = $document->{node};
	my $outcome = $client->transact($node, "$id.$n.$client->{step}", $sql);
	if ($outcome eq 'ok' && @{ $client->{rows} })
	{
		$client->violation("lost: the large value of $id edited on " . ($was // 'no node') . " is not on $node")
			if $client->{rows}[0][0] ne 't';
		@$document{ keys %next } = values %next;
	}
	elsif ($outcome eq 'ok' || ($client->{sqlstate} // '') eq '23505')
	{
		my $rows = $client->read($node, "SELECT n, editor FROM document WHERE id = '$id'") // [];
		$client->violation("lost: $id, " . state_of($document) . ' after an edit on ' . ($was // 'no node')
			. ", is on $node " . (@$rows ? "@{ $rows->[0] }" : 'gone'));
		go_on_from($document, $rows);
	}
	elsif ($outcome eq 'unknown')
	{
		# to be settled where it was tried
		$document->{node} = $node;
		$document->{token} = undef;
		return;
	}
	delete $document->{doubt};
	note($client, $document);
}

sub check
{
	my ($self, $group, $journal, $found) = @_;

	foreach my $cluster ($group->clusters)
	{
		my %there = map { $_->[0] => $_->[1] } $cluster->query('SELECT id, n FROM document');
		foreach my $id (sort keys %{ $journal->{notes} })
		{
			my @may_be = split ' ', $journal->{notes}{$id};
			my $is = $there{$id} // 'gone';
			$found->add('lost', "$id is $is and not " . join(' or ', @may_be) . ', on ' . $cluster->name)
				unless grep { $_ eq $is } @may_be;
		}
	}
}

1;
