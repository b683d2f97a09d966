# What a stranger, a liar and a thief can do to a node: nothing.
#
# Peers connect as a role that may EXECUTE exchange() and nothing else. To real
# nodes speaks t/client/peer.c: strangers' keys, replayed, reordered, reflected,
# cut and flipped messages, garbage, oversized ones, states signed by the wrong key. A
# relay that lies is made by t/client/tamper.c, which falsifies batches in the
# relay's log so that it serves them. All is refused, counted, logged once and
# harmless. Secrets stand in their files and nowhere else.
use strict;
use warnings;
use IPC::Run;
use MIME::Base64 qw(encode_base64url decode_base64url encode_base64);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Replp2p;

my $LOGGED_PER_MINUTE = 16;    # RP_REFUSAL_SLOTS
my $LARGE = 5_000_000;         # beyond what exchange() takes as a request
my $ATTEMPTS = 200;

#
# The programs.
#

sub build
{
	my ($name) = @_;
	my $program = "${PostgreSQL::Test::Utils::tmp_check}/$name";
	my ($include, $lib) = map { my $out = `pg_config --$_`; chomp $out; $out } qw(includedir libdir);
	system_or_bail('cc', '-std=c11', '-D_GNU_SOURCE', '-O1', '-Wall', '-Wextra', '-Werror',
		'-Isrc/core', "-I$include", '-I/usr/include/postgresql',
		"t/client/$name.c", glob('src/core/*.c'), "-L$lib", '-lpq', '-lsodium', '-o', $program);
	return $program;
}

my $peer = build('peer');
my $tamper = build('tamper');

#
# A group whose peers may do nothing but call exchange(). c joins by hand, to
# see the invite's secret between join_group and the end of the join.
#

my $g = Replp2p->group([ 'a', 'b' ], peer_role => 'peer', schema => <<'SQL');
CREATE TABLE t (id int PRIMARY KEY, v text);
INSERT INTO t VALUES (1, 'from a');
SQL
my $node_a = $g->node('a');
my $started = time;
my $restarts = "SELECT pg_postmaster_start_time()";
my $a_started = $g->sql('a', $restarts);

my $c = $g->add_cluster('c');
$g->make_peer_role($c);
my $invite = $g->sql('a', 'SELECT replp2p.create_invite()');
my $join = sprintf("SELECT replp2p.join_group('c', '%s', '%s')", $g->dsn_of('c'), $invite);

$c->safe_psql('postgres', 'CREATE TABLE t (id int)');
isnt($c->psql('postgres', $join), 0, 'a join that fails');
$c->safe_psql('postgres', 'DROP TABLE t');

my $secret_file = glob_one($c, 'join.secret', <<"SQL");
BEGIN;
$join;
\\! stat -c 'mode %a size %s' @{[ $c->data_dir ]}/replp2p/*/join.secret
COMMIT;
SQL
like($secret_file, qr/^mode 600 size 32$/m, 'the secret of an invite: in a file that nobody else reads');
$g->ready('c');
push @{ $g->{names} }, 'c';
$g->sync;
ok($g->wait_until(sub { !glob($c->data_dir . '/replp2p/*/join.secret') }), 'it is gone after the join');

sub glob_one
{
	my ($node, $what, $sql) = @_;
	my ($out, $err) = ('', '');
	is($node->psql('postgres', $sql, stdout => \$out, stderr => \$err), 0, "$what: join_group") or diag($err);
	return $out;
}

foreach my $name ($g->names)
{
	ok($g->eventually($name, "SELECT count(*) = 0 FROM pg_auth_members WHERE member = 'peer'::regrole"),
		"$name: the right to read that a joiner needs is lent, and taken back");
	is($g->sql($name, <<'SQL'), 'f|0|0', "$name: peers need EXECUTE of one procedure");
SELECT rolsuper OR rolreplication OR rolcreaterole OR rolbypassrls,
	(SELECT count(*) FROM pg_class c, aclexplode(relacl) x WHERE x.grantee = r.oid),
	(SELECT count(*) FROM pg_proc p, aclexplode(proacl) x WHERE x.grantee = r.oid AND proname <> 'exchange')
FROM pg_roles r WHERE rolname = 'peer'
SQL
	my ($key) = glob($g->node($name)->data_dir . '/replp2p/*/node.key');
	is(sprintf('%o', (stat $key)[2] & 07777), '600', "$name: the mode of its key");
}
$g->sql($_->[0], "INSERT INTO t VALUES ($_->[1], 'from $_->[0]')") foreach [ 'b', 2 ], [ 'c', 3 ];
$g->sync;
$g->same('t', 'by such a role all replicates, in every direction');

#
# Messages.
#

my ($group) = split /\n/, $g->sql('a', "SELECT encode(group_id, 'hex') FROM replp2p.local_node");
my %id = map { split /\|/ } split /\n/, $g->sql('a', 'SELECT node_name, node_id FROM replp2p.stat_members');
my %key_file = map { $_ => glob_first($g->node($_)->data_dir . '/replp2p/*/node.key') } $g->names;
my $b_public = $g->sql('b', "SELECT encode(public_key, 'hex') FROM replp2p.local_node");

sub glob_first { return (glob $_[0])[0] }

# Say these things to a node (a), with a member's key ('' = a stranger's); the answers.
sub talk
{
	my ($key, $commands, %opt) = @_;
	my ($out, $err) = ('', '');
	my $to = $opt{to} // 'a';
	IPC::Run::run([ $peer, $opt{dsn} // $g->dsn_of($to), $group, $opt{expect} // $id{$to}, $key ? $key_file{$key} : '-' ],
		'<', \join('', map { "$_\n" } @$commands), '>', \$out, '2>', \$err) or die "peer: $err";
	return split /\n/, $out;
}

sub counters
{
	return split /\|/, $g->sql('a', 'SELECT refused_strangers, refused_messages FROM replp2p.stat_server');
}

# One test: the last answer is like this, and so many strangers and messages are counted.
sub refused
{
	my ($what, $key, $commands, $answer, $strangers, $messages, %opt) = @_;
	my @before = counters();
	my @answers = talk($key, [ 'connect', @$commands ], %opt);
	my @after = counters();
	my $counted = ($after[0] - $before[0]) . ' ' . ($after[1] - $before[1]);
	like($answers[-1], $answer, $what) or diag(join "\n", @answers);
	is($counted, "$strangers $messages", "$what: counted");
}

my $log_before = -s $node_a->logfile;

like(join(' ', talk('b', [ 'connect', 'hello', 'gossip', "pull $id{a} 1 0" ])),
	qr/^connected welcome gossip 3 batches [1-9]/, 'our client can speak as a member');

refused('a stranger asks for states', '', [ 'hello', 'gossip' ], qr/^error 1 /, 1, 0);
refused('a stranger asks for batches', '', [ 'hello', "pull $id{a} 1 0" ], qr/^error 1 /, 1, 0);
refused('a stranger asks to join without an invite', '',
	[ 'hello', 'join x ' . '00' x 32 . ' ' . $g->dsn_of('a') ], qr/^error 2 /, 0, 0);
refused('a stranger of another group', '', [ 'group ' . '11' x 16, 'hello' ], qr/^refused .*another group/, 1, 0);
refused('a stranger says that he is b', '', [ "claim $b_public", 'hello', 'gossip' ], qr/^refused .*signature/, 0, 1);
refused('somebody else answers', 'b', ['hello'], qr/^local bad signature/, 0, 0, expect => $id{c});

refused('a replayed frame', 'b', [ 'hello', 'hold 0', 'send 0 0 -1', 'send 0 0 -1' ], qr/^refused /, 0, 1);
refused('after that the session is over', 'b',
	[ 'hello', 'hold 0', 'hold 1', 'send 0 0 -1', 'send 0 0 -1', 'send 1 0 -1' ], qr/^refused /, 0, 2);
refused('a frame of another session', 'b', [ 'hello', 'hold 0', 'connect', 'hello', 'send 0 0 -1' ], qr/^refused /, 0, 1);
refused('a recorded session', 'b', [ 'hello', 'hold 0', 'connect', 'send 10 0 -1', 'send 0 0 -1' ], qr/^refused /, 0, 1);
refused('frames in another order', 'b', [ 'hello', 'hold 0', 'hold 1', 'send 1 0 -1' ], qr/^refused /, 0, 1);
refused('a frame that was left out', 'b',
	[ 'hello', 'gossip', 'hold 1', 'hold 2', 'send 2 0 -1' ], qr/^refused /, 0, 1);
refused('a reply sent back', 'b', [ 'hello', 'gossip', 'send 11 0 -1' ], qr/^refused /, 0, 1);
refused('a frame without a session', 'b', [ 'hello', 'hold 0', 'connect', 'send 0 0 -1' ], qr/^refused /, 0, 1);
refused('a frame cut short', 'b', [ 'hello', 'hold 0', 'send 0 1 -1' ], qr/^refused /, 0, 1);
refused('a greeting cut short', 'b', [ 'hello', 'connect', 'send 10 1 -1' ], qr/^refused /, 0, 1);
refused('a sealed message of no known kind', 'b', [ 'hello', 'odd 99' ], qr/^refused /, 0, 1);
refused('a sealed message that ends too early', 'b', [ 'hello', 'odd 1' ], qr/^refused /, 0, 1);
refused('nothing', '', ['empty'], qr/^refused /, 0, 1);
refused('null', '', ['null'], qr/^refused /, 0, 1);
refused('garbage', '', ['bytes x 1000'], qr/^refused /, 0, 1);
refused('a garbage greeting', '', ['bytes H 115'], qr/^refused /, 0, 1);
refused('a garbage frame', '', [ 'hello', 'bytes F 1000000' ], qr/^refused /, 0, 1);
refused('an oversized message', '', ["bytes F $LARGE"], qr/^refused .*too large/, 0, 1);
refused('in a transaction block', 'b', [ 'hello', 'sql BEGIN', 'gossip' ], qr/^sql 25001 /, 0, 0);

# every byte of a frame, and of a greeting, counts
{
	my @answers = talk('b', [ map { ('connect', 'hello', 'hold 0', "send 0 0 $_") } 0 .. 90 ]);
	my @taken = grep { $answers[4 * $_ + 3] !~ /^refused / } 0 .. 90;
	is_deeply(\@taken, [], 'a frame with one bit turned, wherever');
	@answers = talk('b', [ map { ('connect', 'hello', 'hold 0', 'connect', "send 10 0 $_", 'send 0 0 -1') } 0 .. 114 ]);
	@taken = grep { $answers[6 * $_ + 5] !~ /^refused / } 0 .. 114;
	is_deeply(\@taken, [], 'a session on a greeting with one bit turned, wherever');
}

# b says that c leaves and has everything
refused('a state signed by another than its node', 'b', [ 'hello', "state $id{c} 1" ], qr/^gossip /, 0, 0);
is($g->sql('a', "SELECT state FROM replp2p.stat_members WHERE node_name = 'c'"), 'active', 'it is not believed');

# Many of them, on one connection.
{
	my $memory = 'sql SELECT sum(total_bytes) FROM pg_backend_memory_contexts';
	my @answers = talk('', [ 'connect', ("bytes F $LARGE", 'hello', 'bytes F 1000000') x 5, $memory,
		("bytes F $LARGE", 'hello', 'bytes F 1000000') x $ATTEMPTS, $memory ], dsn => Replp2p::dsn($node_a));
	my ($first, $last) = map { /^value (\d+)$/ } @answers;
	is(scalar(grep { /^refused / } @answers), 2 * ($ATTEMPTS + 5), "$ATTEMPTS oversized messages and as many garbage ones");
	cmp_ok($last, '<=', $first + 100_000, 'do not make the backend grow');
	Replp2p::figure("memory of a serving backend: $first bytes, after $ATTEMPTS oversized messages $last");
}
{
	my $before = -s $node_a->logfile;
	talk('', [ ('connect', 'hello', 'gossip') x 50 ]);
	my $lines = () = slurp_file($node_a->logfile, $before) =~ /refused a request/g;
	cmp_ok($lines, '<=', 1, 'a stranger who comes back 50 times is logged once');
	talk('', [ 'connect', 'hello', 'gossip' ]) foreach 1 .. 40;
	my $log = slurp_file($node_a->logfile, $log_before);
	my $minutes = 2 + int((time - $started) / 60);
	$lines = () = $log =~ /refused a (?:message|request)/g;
	cmp_ok($lines, '>=', 1, 'what is refused is logged');
	cmp_ok($lines, '<=', $minutes * $LOGGED_PER_MINUTE, 'but cannot fill the log');
	$lines = () = $log =~ /refused a message/g;
	cmp_ok($lines, '<=', $minutes, 'hundreds of bad messages: one line a minute');
	unlike($log, qr/\b(?:ERROR|FATAL|PANIC|TRAP):(?!  replp2p.exchange cannot run inside)/, 'and nothing else');
}
is($g->sql('a', $restarts), $a_started, 'the server has not restarted');
$g->sql($_->[0], "INSERT INTO t VALUES ($_->[1], 'later')") foreach [ 'a', 11 ], [ 'b', 12 ], [ 'c', 13 ];
$g->sync;
$g->same('t', 'and the group goes on');

#
# A relay that lies. c is cut off while a writes; b gets the transactions, and its
# copy of the last but one is falsified; then c can reach b alone, then a. They come
# in one reply: what stands before the falsified one is taken, what stands behind it is not.
#

my $next = 100;

# The newest segment of a's log on b.
sub relayed_segment
{
	my $folder = glob_first($g->node('b')->data_dir . "/replp2p/*/log/$id{a}.*");
	my @segments = grep { m{/[0-9a-f]{16}\.[0-9a-f]{8}$} } sort glob("$folder/*");
	return $segments[-1];
}

sub cut
{
	my ($peers) = @_;
	$c->safe_psql('postgres', "ALTER SYSTEM SET replp2p.unreachable_peers = '$peers'");
	$c->safe_psql('postgres', 'SELECT pg_reload_conf()');
}

foreach my $case (
	[ 'a bit of its body turned', 'body', '', qr/./ ],
	[ 'signed by the relay', 'resign', 'b', qr/bad signature/ ],
	[ 'another history before it, signed by its origin', 'previous', 'a', qr/does not continue/ ],
	[ 'of another group, signed by its origin', 'group', 'a', qr/group/ ])
{
	my ($what, $how, $signer, $reason) = @$case;
	my $id = $next++;
	my ($refused) = $g->sql('c', 'SELECT refused_batches FROM replp2p.stat_server');
	my $log = -s $c->logfile;

	cut('a,b');
	$g->eventually('c', 'SELECT bool_and(cut AND NOT connected) FROM replp2p.stat_links') or die 'the links of c are not cut';
	$g->sql('a', "INSERT INTO t VALUES ($id + 2000, 'before')");
	$g->sql('a', 'SELECT replp2p.wait_for_token(replp2p.current_token())');
	$g->sql('a', "INSERT INTO t VALUES ($id, 'true')");
	$g->sql('a', 'SELECT replp2p.wait_for_token(replp2p.current_token())');
	my $seq = $g->sql('a', 'SELECT seq FROM replp2p.stat_capture');
	$g->sql('a', "INSERT INTO t VALUES ($id + 3000, 'behind')");
	my $token = $g->sql('a', 'SELECT replp2p.current_token()');
	$g->sql('b', "SELECT replp2p.wait_for_token('$token', '1 minute')");
	system_or_bail($tamper, relayed_segment(), $seq, $how, $signer ? $key_file{$signer} : ());

	cut('a');
	ok($g->eventually('c', "SELECT refused_batches > $refused FROM replp2p.stat_server"),
		"a batch from a relay, $what: refused, and counted");
	like($g->sql('c', "SELECT last_error FROM replp2p.stat_links WHERE node_name = 'b' AND errors > 0"),
		qr/^refused a batch of origin "a" from it: .*$reason/, "$what: relay, origin and reason are named");
	ok($g->eventually('c', "SELECT count(*) = 1 FROM t WHERE id = $id + 2000"), "$what: what stands before it is applied");
	is($g->sql('c', "SELECT count(*) FROM t WHERE id IN ($id, $id + 3000)"), 0, "$what: not applied");
	# (what b writes now has seen the transaction, so it has to wait for it)
	$g->sql('c', "INSERT INTO t VALUES (@{[ $id + 1000 ]}, 'from the one who was lied to')");
	ok($g->eventually('b', "SELECT count(*) = 1 FROM t WHERE id = $id + 1000"), "$what: the other way goes on");

	cut('');
	ok($g->eventually('c', "SELECT count(*) = 1 FROM t WHERE id = $id AND v = 'true'"), "$what: had from its origin");
	my $lines = () = slurp_file($c->logfile, $log) =~ /LOG:  link to replp2p node "b": refused a batch/g;
	is($lines, 1, "$what: logged once");
	$g->sync;
}
$g->same('t', 'all are equal in the end');
is($g->sql('c', "SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'replp2p %'"), 4, 'and all workers of c run');
unlike(slurp_file($c->logfile), qr/\b(?:FATAL|PANIC|TRAP):(?!  (?:the database system is|terminating))/, 'without an accident');

#
# Secrets.
#

# All forms in which bytes could have been written down, as a regex of bytes.
sub forms
{
	my ($bytes) = @_;
	my @forms = ($bytes, unpack('H*', $bytes), uc unpack('H*', $bytes));
	foreach my $shift (0 .. 2)
	{
		# what does not hang on its neighbours, when it begins in the middle of three bytes
		my $text = substr encode_base64(('x' x $shift) . $bytes, ''), $shift ? 4 : 0;
		$text = substr $text, 0, 36;
		(my $url = $text) =~ tr{+/}{-_};
		push @forms, $text, $url;
	}
	return join '|', map { quotemeta } @forms;
}

my (undef, $encoded) = split /:/, $invite;
my %secret = (invite => substr(decode_base64url($encoded), 32, 32));
foreach my $name ($g->names)
{
	$secret{"the key of $name"} = substr slurp_file($key_file{$name}), 76, 32;
}
is(length $_, 32, 'a secret to look for') foreach values %secret;
like($invite, qr/@{[ forms($secret{invite}) ]}/, 'which would be found');

foreach my $name ($g->names)
{
	my $node = $g->node($name);
	my @places;
	$node->safe_psql('postgres', 'CHECKPOINT');
	my $dump = $node->safe_psql('postgres', join ";\n", map { "TABLE $_" } split /\n/, $node->safe_psql('postgres', <<'SQL'));
SELECT c.oid::regclass::text FROM pg_class c WHERE relnamespace = 'replp2p'::regnamespace AND relkind IN ('r', 'v')
UNION ALL VALUES ('pg_stat_activity'), ('pg_replication_slots'), ('pg_settings'), ('pg_prepared_statements')
SQL
	my @files = split /\n/, `find @{[ $node->data_dir ]} @{[ $node->logfile ]} -type f`;
	foreach my $what (sort keys %secret)
	{
		my $forms = forms($secret{$what});
		push @places, "$what in a view or table" if $dump =~ /$forms/;
	}
	my $all = join '|', map { forms($_) } values %secret;
	foreach my $file (@files)
	{
		next if grep { $file eq $_ } values %key_file;
		push @places, $file if slurp_file($file) =~ /$all/;
	}
	cmp_ok(scalar @files, '>', 500, "$name: all files are looked through");
	is_deeply(\@places, [], "$name: no secret anywhere but in its key file");
	unlike(slurp_file($node->logfile), qr/replp2p1:/, "$name: no invite in the log");
}

#
# Rights, on a node that has something to hide.
#

$g->sql('a', 'CREATE ROLE nobody LOGIN; CREATE ROLE watcher LOGIN IN ROLE pg_monitor');
is($g->sql('a', <<'SQL'), 'create_invite create_group exclude_table', 'what changes something is not for PUBLIC');
SELECT string_agg(f, ' ') FROM unnest(ARRAY['create_invite(interval)', 'create_group(name,text,name)', 'exclude_table(regclass)']) s,
	split_part(s, '(', 1) f WHERE NOT has_function_privilege('nobody', ('replp2p.' || s)::regprocedure, 'EXECUTE')
SQL
is($g->sql('a', <<'SQL'), '', 'nor anything else');
SELECT string_agg(proname, ' ' ORDER BY proname) FROM pg_proc
WHERE pronamespace = 'replp2p'::regnamespace AND has_function_privilege('nobody', oid, 'EXECUTE')
	AND proname NOT IN ('node_fingerprint', 'current_token', 'wait_for_token', 'wait_for_replication',
		'export_snapshot', 'get_changed_keys', 'refuse_rewrite',
		'get_table_handlers',	-- says of tables no more than pg_class does
		'revert_conflict', 'fk_violations')	-- judge their caller: sql/10_*
SQL
foreach my $view (split /\n/, $g->sql('a', <<'SQL'))
SELECT c.oid::regclass FROM pg_class c WHERE relnamespace = 'replp2p'::regnamespace AND relkind = 'v' ORDER BY 1::text
SQL
{
	is(as_watcher("TABLE $view"), 0, "pg_monitor reads $view");
}
foreach my $table (split /\n/, $g->sql('a', <<'SQL'))
SELECT c.oid::regclass FROM pg_class c WHERE relnamespace = 'replp2p'::regnamespace AND relkind = 'r' ORDER BY 1::text
SQL
{
	isnt(as_watcher("TABLE $table"), 0, "but not $table");
}

sub as_watcher
{
	my ($sql) = @_;
	my ($out, $err) = ('', '');
	return $node_a->psql('postgres', $sql, extra_params => [ '-U', 'watcher' ], stdout => \$out, stderr => \$err);
}

done_testing();
