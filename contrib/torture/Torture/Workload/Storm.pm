# storm: every kind of change on 100 hot keys from all nodes at once, with values out of
# line that change, stay, and go; and a small table that is emptied by TRUNCATE beneath inserts.
#
# Every few seconds other keys are the hot ones: where two nodes differ, the storm itself would soon
# have covered it. Checked: all nodes end the same. (That nothing else than the winner rule
# decides who wins is for contrib/sim and t/ to show; here the machine is real.)
package Torture::Workload::Storm;

use strict;
use warnings;

use parent 'Torture::Workload';

use constant { KEYS => 100, HOT_SECONDS => 6 };

sub name { 'storm' }

sub schema
{
	return <<'SQL';
CREATE TABLE storm (id int PRIMARY KEY, n int, v text, big text, other text);
ALTER TABLE storm ALTER big SET STORAGE EXTERNAL, ALTER other SET STORAGE EXTERNAL;
CREATE TABLE storm_emptied (id int PRIMARY KEY, v int);
CREATE FUNCTION storm_step(op int, k int, l int, r int) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	CASE
		WHEN op <= 20 THEN UPDATE storm SET n = n + 1, v = 'u' || r WHERE id = k;
		WHEN op <= 28 THEN UPDATE storm SET big = repeat(md5(r::text), 100) WHERE id = k;
		WHEN op <= 33 THEN UPDATE storm SET other = NULL, big = repeat(md5(r::text), 150) WHERE id = k;
		WHEN op <= 47 THEN DELETE FROM storm WHERE id = k;
		WHEN op <= 60 THEN INSERT INTO storm VALUES (k, 1, 'i' || r, repeat(md5(r::text), 90), repeat(md5(r::text), 80))
			ON CONFLICT DO NOTHING;
		WHEN op <= 70 THEN INSERT INTO storm VALUES (k, 1, 'i' || r, 'short')
			ON CONFLICT (id) DO UPDATE SET v = 'c' || r, n = storm.n + 1;
		WHEN op <= 77 THEN
			DELETE FROM storm WHERE id = k;
			INSERT INTO storm VALUES (k, 0, 'r' || r, repeat(md5(r::text), 70));
			UPDATE storm SET v = v || '!' WHERE id = k;
		WHEN op <= 83 THEN UPDATE storm SET id = l, v = 'k' || r WHERE id = k;
		WHEN op <= 88 THEN
			UPDATE storm SET v = 'w' || r WHERE id = l;
			UPDATE storm SET n = n + 1 WHERE id BETWEEN k AND k + 5;
		WHEN op <= 91 THEN DELETE FROM storm WHERE id BETWEEN k AND k + 3;
		WHEN op <= 98 THEN INSERT INTO storm_emptied VALUES (r % 3000, r) ON CONFLICT (id) DO UPDATE SET v = r;
		ELSE
			IF r % 4 = 0 THEN
				TRUNCATE storm_emptied;
			END IF;
	END CASE;
END $$;
CREATE FUNCTION storm_steps(op int, k int, l int, r int) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM storm_step(op, k, l, r);
	-- one more in a subtransaction, which may be undone
	BEGIN
		PERFORM storm_step(r % 98 + 1, l, k, r);
		IF r % 3 = 0 THEN
			RAISE unique_violation;
		END IF;
	EXCEPTION WHEN unique_violation THEN
		NULL;
	END;
END $$;
SQL
}

sub step
{
	my ($self, $client) = @_;
	my $first = int(time / HOT_SECONDS) % 1_000_000 * KEYS;
	my ($k, $l) = map { $first + int(rand(KEYS)) } 1, 2;

	$client->transact($client->{home}, "$client->{id}.$client->{step}",
		sprintf('SELECT storm_steps(%d, %d, %d, %d)', 1 + int(rand(100)), $k, $l, int(rand(1_000_000_000))));
}

1;
