# storm: every kind of change on 100 hot keys from all nodes at once, with values out of
# line that change, stay, and go; and a small table that is emptied by TRUNCATE beneath inserts.
#
# Every few seconds other keys are the hot ones: where two nodes differ, the storm itself would soon
# have covered it. Checked: all nodes end the same. (That nothing else than the winner rule
# decides who wins is for contrib/sim and t/ to show; here the machine is real.)
#
# Where replp2p has them, there is a table for each way to decide conflicts, too: vector_clock,
# custom, merged columns, and a second unique key.
package Torture::Workload::Storm;

use strict;
use warnings;

use parent 'Torture::Workload';

use constant { KEYS => 100, HOT_SECONDS => 6 };

sub name { 'storm' }

# For each table.
my $SCHEMA = <<'SQL';
CREATE TABLE HOT (id int PRIMARY KEY, n int NOT NULL, v text, big text, other text);
ALTER TABLE HOT ALTER big SET STORAGE EXTERNAL, ALTER other SET STORAGE EXTERNAL;
CREATE TABLE HOT_emptied (id int PRIMARY KEY, v int);
CREATE FUNCTION HOT_step(op int, k int, l int, r int) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	CASE
		WHEN op <= 20 THEN UPDATE HOT SET n = n + 1, v = 'u' || r WHERE id = k;
		WHEN op <= 28 THEN UPDATE HOT SET big = repeat(md5(r::text), 100) WHERE id = k;
		WHEN op <= 33 THEN UPDATE HOT SET other = NULL, big = repeat(md5(r::text), 150) WHERE id = k;
		WHEN op <= 47 THEN DELETE FROM HOT WHERE id = k;
		WHEN op <= 60 THEN INSERT INTO HOT VALUES (k, 1, 'i' || r, repeat(md5(r::text), 90), repeat(md5(r::text), 80))
			ON CONFLICT DO NOTHING;
		WHEN op <= 70 THEN INSERT INTO HOT VALUES (k, 1, 'i' || r, 'short')
			ON CONFLICT (id) DO UPDATE SET v = 'c' || r, n = HOT.n + 1;
		WHEN op <= 77 THEN
			DELETE FROM HOT WHERE id = k;
			INSERT INTO HOT VALUES (k, 0, 'r' || r, repeat(md5(r::text), 70));
			UPDATE HOT SET v = v || '!' WHERE id = k;
		WHEN op <= 83 THEN UPDATE HOT SET id = l, v = 'k' || r WHERE id = k;
		WHEN op <= 88 THEN
			UPDATE HOT SET v = 'w' || r WHERE id = l;
			UPDATE HOT SET n = n + 1 WHERE id BETWEEN k AND k + 5;
		WHEN op <= 91 THEN DELETE FROM HOT WHERE id BETWEEN k AND k + 3;
		WHEN op <= 98 THEN INSERT INTO HOT_emptied VALUES (r % 3000, r) ON CONFLICT (id) DO UPDATE SET v = r;
		ELSE
			IF r % 4 = 0 THEN
				TRUNCATE HOT_emptied;
			END IF;
	END CASE;
END $$;
CREATE FUNCTION HOT_steps(op int, k int, l int, r int) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM HOT_step(op, k, l, r);
	-- one more in a subtransaction, which may be undone
	BEGIN
		PERFORM HOT_step(r % 98 + 1, l, k, r);
		IF r % 3 = 0 THEN
			RAISE unique_violation;
		END IF;
	EXCEPTION WHEN unique_violation THEN
		NULL;
	END;
END $$;
SQL

# What makes a table what it is, once all nodes have it. needs: the function or view of replp2p;
# every: run on every node; first: then run on the first.
my %TABLE = (
	storm => { },
	storm_clock => {
		needs => 'set_conflict_handler',
		first => "SELECT replp2p.set_conflict_handler('storm_clock', 'vector_clock')" },
	storm_custom => {
		needs => 'set_conflict_handler',
		every => <<'SQL',
CREATE FUNCTION storm_fold(older storm_custom, newer storm_custom, conflict replp2p.conflict) RETURNS storm_custom
IMMUTABLE LANGUAGE plpgsql AS $$
BEGIN
	-- neither commutative nor associative; a delete is undone by what is concurrent with it
	IF older IS NULL OR newer IS NULL THEN
		RETURN coalesce(newer, older);
	END IF;
	newer.n := older.n % 1000 * 2 + newer.n % 1000;
	newer.v := left(older.v || '>' || newer.v, 60);
	RETURN newer;
END $$;
SQL
		first => "SELECT replp2p.set_conflict_handler('storm_custom', 'custom', 'storm_fold(storm_custom, storm_custom, replp2p.conflict)')" },
	storm_merged => {
		needs => 'set_column_merge',
		first => "SELECT replp2p.set_column_merge('storm_merged', 'n', 'counter')" },
	storm_unique => {
		needs => 'displaced',
		every => 'CREATE UNIQUE INDEX ON storm_unique ((id / 100), (left(md5(v), 2)))' });

sub schema
{
	return join('', map { my $table = $_; $SCHEMA =~ s/HOT/$table/gr } sort keys %TABLE);
}

sub prepare
{
	my ($self, $group) = @_;
	my ($first) = $group->clusters;

	$self->{tables} = [ grep { !$TABLE{$_}{needs} || $group->offers($TABLE{$_}{needs}) } sort keys %TABLE ];
	foreach my $how (map { $TABLE{$_} } @{ $self->{tables} })
	{
		foreach my $cluster ($how->{every} ? $group->clusters : ())
		{
			$cluster->query($how->{every});
		}
		$first->query($how->{first}) if $how->{first};
	}
	$group->settle_handlers;
}

sub step
{
	my ($self, $client) = @_;
	my $first = int(time / HOT_SECONDS) % 1_000_000 * KEYS;
	my ($k, $l) = map { $first + int(rand(KEYS)) } 1, 2;

	my @tables = @{ $self->{tables} };

	# half of it on the plain one, which is the first
	my $table = $tables[ rand() < 0.5 ? 0 : int(rand(@tables)) ];
	$client->transact($client->{home}, "$client->{id}.$client->{step}",
		sprintf("SELECT ${table}_steps(%d, %d, %d, %d)", 1 + int(rand(100)), $k, $l, int(rand(1_000_000_000))));
}

1;
