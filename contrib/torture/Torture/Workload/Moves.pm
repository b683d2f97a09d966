# moves: updates of an indexed column, so that each makes a new index entry, of the same few rows
# on all nodes, beneath apply that looks for these rows in the same index.
#
# No row is ever deleted. So none may be missing in a snapshot, and no conflict may say that one was:
# a look-up by an index can run past a row that is being moved, and has to look again. That is a
# matter of microseconds, so now and then a client moves a row, the same on all nodes, many times;
# in another table one deletes the row that others move, and inserts it again: a delete that ran past
# it would leave nodes that differ.
package Torture::Workload::Moves;

use strict;
use warnings;

use parent 'Torture::Workload';

use constant { BURST => 500, BURST_SECONDS => 4 };

my $ROWS = 20;

sub name { 'moves' }

sub schema
{
	return <<"SQL";
CREATE TABLE move (id int PRIMARY KEY, place int, v text);
CREATE INDEX ON move (place);
CREATE INDEX ON move (v, id);
INSERT INTO move SELECT i, i, 'start' FROM generate_series(1, $ROWS) i;
CREATE FUNCTION move_step(k int, times int, r text) RETURNS bigint LANGUAGE plpgsql AS \$\$
BEGIN
	FOR i IN 1 .. times LOOP
		UPDATE move SET place = place + 1, v = r || i WHERE id = k;
		IF NOT FOUND THEN
			RAISE 'row % is missing', k USING ERRCODE = 'P0002';
		END IF;
	END LOOP;
	RETURN (SELECT count(*) FROM move);
END \$\$;
CREATE TABLE move_deleted (LIKE move INCLUDING ALL);
INSERT INTO move_deleted SELECT * FROM move;
CREATE PROCEDURE move_burst(kind text, k int, times int, r text) LANGUAGE plpgsql AS \$\$
BEGIN
	SET synchronous_commit = off;
	FOR i IN 1 .. times LOOP
		IF kind = 'move' THEN
			UPDATE move SET place = place + 1, v = r || i WHERE id = k;
		ELSIF kind = 'follow' OR i % 2 = 0 THEN
			INSERT INTO move_deleted VALUES (k, i, r) ON CONFLICT (id) DO UPDATE SET place = move_deleted.place + 1, v = r || i;
		ELSE
			DELETE FROM move_deleted WHERE id = k;
		END IF;
		COMMIT;
	END LOOP;
	RESET synchronous_commit;
END \$\$;
SQL
}

sub step
{
	my ($self, $client) = @_;
	my $key = 1 + int(rand($ROWS));

	if (rand() < 0.02)
	{
		my $kind = qw(move follow delete)[ int(rand(3)) ];
		$key = 1 + int(time / BURST_SECONDS) % $ROWS;
		$client->transact($client->{home}, "$client->{id}.$client->{step}",
			sprintf("CALL move_burst('%s', %d, %d, '%s ')", $kind, $key, BURST, $client->{id}));
		return;
	}
	my $outcome = $client->transact($client->{home}, "$client->{id}.$client->{step}",
		sprintf("SELECT move_step(%d, %d, '%s ')", $key, 1 + int(rand(5)), $client->{id}));

	$client->violation("lost: $client->{error}, on $client->{home}") if ($client->{sqlstate} // '') eq 'P0002';
	$client->violation("lost: $client->{home} has $client->{rows}[0][0] rows") if $outcome eq 'ok' && $client->{rows}[0][0] != $ROWS;
}

sub check
{
	my ($self, $group, $journal, $found) = @_;

	foreach my $cluster ($group->clusters)
	{
		my ($n, $what) = @{ ($cluster->query("SELECT count(*), min(conflict_type || ' ' || key) FROM replp2p.conflicts"
			. " WHERE relation = 'move'::regclass AND conflict_type NOT IN ('update_origin_differs')"))[0] };
		$found->add('false conflict', "move has $n on " . $cluster->name . ": $what") if $n;
		my $rows = $cluster->value('SELECT count(*) FROM move');
		$found->add('lost', "$rows rows and not $ROWS, on " . $cluster->name) if $rows != $ROWS;
	}
}

1;
