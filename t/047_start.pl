# What clients ask of tokens right after a start of the server, when the workers have yet to
# find out of which group this database is: they are waited for. A prepared transaction that
# holds a lock on local_node over a restart keeps the workers from it.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Replp2p;

my $g = Replp2p->group(['a'], conf => "max_prepared_transactions = 2\n", schema => 'CREATE TABLE t (id int PRIMARY KEY)');
my $a = $g->node('a');

$g->sql('a', 'INSERT INTO t VALUES (1)');
my $token = $g->sql('a', 'SELECT replp2p.current_token()');
$g->sql('a', "BEGIN; LOCK TABLE replp2p.local_node; PREPARE TRANSACTION 'hold'");
$a->restart;

my $message = '';
isnt($a->psql('postgres', "SELECT replp2p.wait_for_token('$token', '100 ms')", stderr => \$message), 0, 'a short wait for a token is in vain');
like($message, qr/workers of this node have not started yet.*HINT:/s, 'with a clear error');
isnt($a->psql('postgres', "SELECT replp2p.wait_for_replication('$token', 0, '100 ms')", stderr => \$message), 0, 'and one for replication');
like($message, qr/workers of this node have not started yet/, 'likewise');

my @waiting = map { $g->client('a', '', 'psql', '-XAtq', '-c', "SELECT replp2p.$_") }
  ("wait_for_token('$token', '3 minutes')", "wait_for_replication('$token', 0, '3 minutes')", 'current_token()');
ok($g->eventually('a', "SELECT count(*) = 3 FROM pg_stat_activity WHERE wait_event_type = 'Extension' AND query ~ '^SELECT replp2p.(wait_for|current)'"),
	'three are waiting for the workers');
$g->sql('a', "ROLLBACK PREPARED 'hold'");
is($g->succeeded(@waiting), 3, 'and go on when these are there');
like($waiting[2]{output}, qr/^t1:/, 'with a token');

$a->safe_psql('postgres', 'CREATE DATABASE other');
$a->safe_psql('other', 'CREATE EXTENSION replp2p');
isnt($a->psql('other', "SELECT replp2p.wait_for_token('$token', '3 minutes')", stderr => \$message), 0, 'who is no node need not wait');
like($message, qr/is not a node of a group/, 'to be told so');

$g->stop;
done_testing();
