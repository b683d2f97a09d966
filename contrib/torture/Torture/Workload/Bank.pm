# bank: transfers between accounts that all nodes change at once.
#
# A transfer writes two lines of a ledger, which nobody changes, and adds to the balances of
# two accounts, whose column is merged as a counter (set_column_merge). Checked: every
# acknowledged transfer is in every ledger; the ledger adds up to zero and the balances to
# what there was at the beginning, also in the midst of it; at the end each balance is its
# beginning and all lines of its account, to the unit, on every node.
package Torture::Workload::Bank;

use strict;
use warnings;

use parent 'Torture::Workload';

my $ACCOUNTS = 20;
my $BEGINNING = 1000;

sub name { 'bank' }
sub unshared { qw(ledger) }

sub schema
{
	return <<"SQL";
CREATE TABLE ledger (id text, line int, account int, amount bigint, PRIMARY KEY (id, line));
CREATE TABLE account (id int PRIMARY KEY, balance bigint NOT NULL, note text);
INSERT INTO account SELECT i, $BEGINNING, 'start' FROM generate_series(1, $ACCOUNTS) i;
SQL
}

# Balances are not touched where there are no counters.
sub prepare
{
	my ($self, $group) = @_;
	my ($first) = $group->clusters;

	$self->{counters} = $group->offers('set_column_merge') or return;
	$first->query("SELECT replp2p.set_column_merge('account', 'balance', 'counter')");
	$group->settle_handlers;
}

sub step
{
	my ($self, $client) = @_;
	my $id = "$client->{id}.$client->{step}";
	my ($from, $to) = sort { $a <=> $b } map { 1 + int(rand($ACCOUNTS)) } 1, 2;
	my $amount = int(rand(200)) - 100;

	return $self->look($client) if $client->{step} % 25 == 0;
	return if $from == $to;
	my $sql = "INSERT INTO ledger VALUES ('$id', 1, $from, -($amount)), ('$id', 2, $to, $amount);";
	# in the order of their keys, so that clients of one node don't meet head on
	$sql .= "UPDATE account SET balance = balance - ($amount) WHERE id = $from;"
		. "UPDATE account SET balance = balance + ($amount), note = '$id' WHERE id = $to" if $self->{counters};
	$client->transact($client->{home}, $id, $sql);
}

# What must hold at any time.
sub look
{
	my ($self, $client) = @_;
	my $rows = $client->read($client->{home}, 'SELECT (SELECT coalesce(sum(amount), 0) FROM ledger),'
		. ' (SELECT sum(balance) FROM account)') or return;
	my ($lines, $balances) = @{ $rows->[0] };

	$client->violation("torn: the ledger of $client->{home} adds up to $lines") if $lines != 0;
	$client->violation("torn: the balances of $client->{home} add up to $balances")
		if $balances != $ACCOUNTS * $BEGINNING;
}

sub check
{
	my ($self, $group, $journal, $found) = @_;

	foreach my $cluster ($group->clusters)
	{
		my $name = $cluster->name;
		my %there = map { $_->[0] => 1 } $cluster->query('SELECT DISTINCT id FROM ledger');

		$found->add('lost', "transfer $_, on $name") foreach grep { !$there{$_} } @{ $journal->{ok} };
		$found->add('dirty', "transfer $_ was refused, and is on $name") foreach grep { $there{$_} } @{ $journal->{failed} };
		$found->add('torn', "transfer $_->[0] has $_->[1] lines and adds up to $_->[2], on $name")
			foreach $cluster->query('SELECT id, count(*), sum(amount) FROM ledger GROUP BY id HAVING count(*) <> 2 OR sum(amount) <> 0');
		next unless $self->{counters};
		$found->add($_->[1] < $_->[2] ? 'lost' : 'duplicated', "account $_->[0] has $_->[1] and not $_->[2], on $name")
			foreach $cluster->query("SELECT a.id, a.balance, $BEGINNING + coalesce(sum(l.amount), 0) FROM account a"
				. " LEFT JOIN ledger l ON l.account = a.id GROUP BY a.id HAVING a.balance <> $BEGINNING + coalesce(sum(l.amount), 0)");
	}
}

1;
