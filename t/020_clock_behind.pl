# A node whose clock is an hour behind overwrites, at once and over and over,
# rows that it has just received from the others, while all three write: none of
# its writes is lost anywhere, nothing is called a conflict, no lag remains.
# Then the same with the rule of stamps switched off (replp2p.raw_stamps, which
# only test builds have): there its write is lost, so this test can see it.
#
# a and b insert rows into "inbox" and delete rows of "gone"; a session on the
# slow node answers each: it deletes every tenth row of inbox and updates
# the others, and inserts again what is gone. Who answers has seen what
# it answers to, so that nothing here is concurrent.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Replp2p;

my $ROUNDS = 300;			# of a and of b
my $ROWS = 2 * $ROUNDS;
my $BEHIND = 3600;

my $g = Replp2p->group([ 'a', 'b', 'slow' ],
	options => { slow => { Replp2p->faked_clock('slow') } },
	schema => <<"SQL");
CREATE TABLE inbox (id int PRIMARY KEY, v text, answered int DEFAULT 0);
CREATE TABLE gone (id int PRIMARY KEY, v text);
CREATE TABLE traffic (id int PRIMARY KEY, n int);
CREATE TABLE probe (id uuid PRIMARY KEY);
CREATE SEQUENCE mine;
CREATE TABLE answers (deleted int, inserted int, updated int);
CREATE TABLE raw (id int PRIMARY KEY, v text);
INSERT INTO gone SELECT x, 'old' FROM generate_series(1, $ROWS) x;
INSERT INTO traffic SELECT x, 0 FROM generate_series(0, 299) x;
SQL

Replp2p->set_clock('slow', -$BEHIND);
cmp_ok(time - $g->sql('slow', 'SELECT extract(epoch FROM clock_timestamp())'), '>', $BEHIND - 60,
	'the clock of one server is behind');
foreach my $name ('a', 'b')
{
	ok($g->eventually($name, "SELECT clock_offset BETWEEN '-3700 s' AND '-3500 s' FROM replp2p.stat_members WHERE node_name = 'slow'"),
		"$name has measured by how much");
	is($g->sql($name, "SELECT count(*) FROM replp2p.health() WHERE status = 'WARNING' AND detail LIKE '%the clock of node \"slow\" is -%'"),
		1, 'and its health() says so');
}
ok($g->eventually('slow', "SELECT count(*) = 1 FROM replp2p.health() WHERE detail LIKE '%own clock%wrong%'"),
	"its own health() says that it is the one");

# Have pgbench run a script once and again on a node, as number $me.
sub load
{
	my ($name, $me, $transactions, $script) = @_;
	my $file = "$PostgreSQL::Test::Utils::tmp_check/$name.pgbench";

	append_to_file($file, $script);
	return $g->pgbench($name, '-t', $transactions, '-D', "me=$me", '-f', $file);
}

my $traffic = "\\set id :me * 100 + random(0, 99)\nUPDATE traffic SET n = n + 1 WHERE id = :id;\n";
my @load = map { load($_->[0], $_->[1], $ROUNDS, <<SQL . $traffic) } ([ 'a', 0 ], [ 'b', 1 ]);
SELECT 2 * nextval('mine') - :me AS id \\gset
INSERT INTO inbox VALUES (:id, 'new');
DELETE FROM gone WHERE id = :id;
SQL
push @load, load('slow', 2, 2 * $ROUNDS, $traffic);

# Write on the slow node until its capture has taken up a setting that gives such stamps.
sub capture_gives_stamps
{
	my ($such) = @_;
	return $g->wait_until(sub {
		$g->sql('slow', 'INSERT INTO probe VALUES (gen_random_uuid())');
		$g->sql('slow', 'SELECT replp2p.current_token()');
		return $g->sql('slow', "SELECT last_stamp $such FROM replp2p.stat_capture") eq 't';
	});
}

# The loop that answers, one commit for each look, until all is answered.
$g->sql('slow', <<"SQL");
DO \$\$
DECLARE
	n int;
	deleted int := 0;
	inserted int := 0;
	updated int := 0;
	looks int := 0;
BEGIN
	WHILE deleted + updated < $ROWS OR inserted < $ROWS
	LOOP
		looks := looks + 1;
		DELETE FROM inbox WHERE v = 'new' AND id % 10 = 0;
		GET DIAGNOSTICS n = ROW_COUNT;
		deleted := deleted + n;
		UPDATE inbox SET v = 'slow', answered = answered + 1 WHERE v = 'new' AND id % 10 <> 0;
		GET DIAGNOSTICS n = ROW_COUNT;
		updated := updated + n;
		INSERT INTO gone SELECT x, 'slow' FROM generate_series(1, $ROWS) x
			WHERE NOT EXISTS (SELECT FROM gone WHERE id = x);
		GET DIAGNOSTICS n = ROW_COUNT;
		inserted := inserted + n;
		COMMIT;
		PERFORM pg_sleep(0.002);
		IF looks > 100000 THEN
			RAISE 'only % deleted, % updated, % inserted', deleted, updated, inserted;
		END IF;
	END LOOP;
	INSERT INTO answers VALUES (deleted, inserted, updated);
END
\$\$;
SQL
is($g->succeeded(@load), 3, 'all were writing meanwhile');
is($g->sql('slow', 'SELECT deleted, inserted, updated FROM answers'),
	join('|', $ROWS / 10, $ROWS, $ROWS * 9 / 10), 'the slow node has answered each row once');

# Its writes survive everywhere, and nothing else has happened.
$g->sync;
foreach my $name ($g->names)
{
	is($g->sql($name, "SELECT count(*), count(*) FILTER (WHERE v = 'slow' AND answered = 1 AND id % 10 <> 0) FROM inbox"),
		join('|', ($ROWS * 9 / 10) x 2), "its updates and deletes stand on $name");
	is($g->sql($name, "SELECT count(*), count(*) FILTER (WHERE v = 'slow') FROM gone"), "$ROWS|$ROWS",
		"its inserts stand on $name");
	is($g->sql($name, "SELECT sum(n) FROM traffic"), 4 * $ROUNDS, "all other writes stand on $name");
	is($g->sql($name, "SELECT count(*) FROM replp2p.conflicts"), 0, "no conflict on $name");
	is($g->sql($name, "SELECT sum(conflicts) FROM replp2p.stat_lag"), 0, "none counted on $name");
	ok($g->eventually($name, "SELECT count(*) = 2 AND sum(lag_transactions) = 0 AND sum(coalesce(lag, '0')) = '0'
			FROM replp2p.stat_lag WHERE origin <> '$name' AND state = 'idle'"), "no lag remains on $name");
}
$g->same($_) foreach ('inbox', 'gone', 'traffic');

# The stamps of the slow node are with the others', though its clock is not.
cmp_ok($g->sql('slow', "SELECT extract(epoch FROM last_stamp - now()) FROM replp2p.stat_capture"), '>', $BEHIND / 2,
	'its stamps go with what it has seen');

SKIP:
{
	skip 'no test build', 8
		if $g->sql('slow', "SELECT count(*) FROM pg_settings WHERE name = 'replp2p.raw_stamps'") eq '0';

	$g->sql('a', "INSERT INTO raw VALUES (1, 'a'), (2, 'a')");
	$g->sync;
	$g->set('slow', 'replp2p.raw_stamps', 'on');
	ok(capture_gives_stamps("< now() + '1 min'"), 'the rule can be switched off');
	$g->sql('slow', "UPDATE raw SET v = 'slow' WHERE id = 1; DELETE FROM raw WHERE id = 2");

	$g->sync;
	is($g->sql('slow', 'SELECT id, v FROM raw ORDER BY id'), '1|slow',
		'with raw commit times as stamps the slow node has its writes');
	is($g->sql($_, 'SELECT id, v FROM raw ORDER BY id'), "1|a\n2|a", "and $_ has lost them")
		foreach ('a', 'b');
	is($g->sql('a', 'SELECT count(*) FROM replp2p.conflicts'), 0, 'without a word');

	# what differs is overwritten with the rule back in force, and is the same again
	$g->set('slow', 'replp2p.raw_stamps', undef);
	ok(capture_gives_stamps("> now() + '30 min'"), 'the rule can be switched on');
	$g->sql('slow', "UPDATE raw SET v = 'again' WHERE id = 1; INSERT INTO raw VALUES (2, 'again')");
	$g->sync;
	$g->same('raw', 'with the rule back, its next writes stand everywhere');
	is($g->sql('b', 'SELECT id, v FROM raw ORDER BY id'), "1|again\n2|again", 'as they are');
}

$g->stop;
done_testing();
