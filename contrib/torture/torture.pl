# torture.pl: the conductor of a run. It makes the group, starts clients and nemeses, heals
# everything at the end, has the checkers look, and prints one table. See README.md beside it.
#
#   torture.pl --work FOLDER --bin FOLDER [--nodes N] [--seconds S | --rounds R]
#              [--nemeses a,b] [--workloads a,b] [--seed N] [--disks FOLDER] [--conf LINES]
#
# Called by "run", which makes the folder, and takes it away or keeps it. Exit status: 0, nothing was
# found; 1, something was; else it could not run.
use strict;
use warnings;

use Cwd qw(abs_path);
use File::Basename qw(dirname);
use Getopt::Long;
use POSIX ();
use Time::HiRes qw(sleep time);

use Torture::Client;
use Torture::Findings;
use Torture::Group;
use Torture::Nemesis;

my @WORKLOADS = qw(Inserts Bank Storm Edits Appends Moves);
my @NEMESES = qw(Kill Pause Crash Power Partition Clock Disk Damage);

# Seconds that things may take before it is called a finding that they have not happened.
my $PROGRESS_SECONDS = 120;
my $SYNC_SECONDS = 300;

my %option = (nodes => 3, seconds => 60, rounds => 0, nemeses => 'all', workloads => 'all',
	seed => time % 1_000_000);
GetOptions(\%option, qw(work=s bin=s nodes=i seconds=i rounds=i nemeses=s workloads=s seed=i disks=s conf=s))
	&& $option{work} && $option{bin} or die "torture.pl: wrong options\n";
my $here = dirname(abs_path(__FILE__));
my $started = time;
my $conductor = $$;
my (@workloads, @nemeses, @clients, @running, $group);
my @failures;

$| = 1;
$SIG{INT} = $SIG{TERM} = $SIG{HUP} = sub { exit 130 };
$SIG{PIPE} = 'IGNORE';

sub say_progress { print STDERR sprintf("%6.1f s  %s\n", time - $started, "@_") }

# The classes of a list of names; "all" stands for each.
sub classes
{
	my ($kind, $asked, @known) = @_;
	my %class;

	foreach my $class (map { "Torture::${kind}::$_" } @known)
	{
		eval "require $class" or die $@;
		$class{ $class->name } = $class;
	}
	my @names = $asked eq 'all' ? map { "Torture::${kind}::$_"->name } @known : split /,/, $asked;
	foreach (@names)
	{
		$class{$_} or die "there is no $_, but: " . join(', ', sort keys %class) . "\n";
	}
	return map { $class{$_} } @names;
}

# Compile what is written in C; return the library that fakes clocks, if it is there.
sub tools_make
{
	my $tools = "$option{work}/tools";
	my ($faketime) = glob '/usr/lib/*/faketime/libfaketime.so.1';

	mkdir $tools or die "$tools: $!\n";
	system('gcc', '-std=gnu11', '-O2', '-o', "$tools/links", "$here/links.c") == 0 or die "gcc failed\n";
	system('gcc', '-shared', '-fPIC', '-o', "$tools/unfaked_waits.so", "$here/../../t/unfaked_waits.c") == 0
		or die "gcc failed\n";
	return ($tools, $faketime);
}

# Run code in a process of its own.
sub process
{
	my ($code) = @_;
	my $pid = fork() // die "fork: $!\n";

	return $pid if $pid;
	# ^C is for the conductor, who then ends all others
	$SIG{INT} = $SIG{HUP} = 'IGNORE';
	$SIG{TERM} = 'DEFAULT';
	my $good = eval { $code->(); 1 };
	if (!$good)
	{
		open my $file, '>>', "$option{work}/died";
		syswrite($file, $@);
	}
	POSIX::_exit($good ? 0 : 1);
}

sub clients_start
{
	my $number = 0;

	mkdir "$option{work}/clients";
	foreach my $workload (@workloads)
	{
		my @homes = $group->names;
		foreach my $n (0 .. $#homes)
		{
			my %client = (workload => $workload, group => $group, home => $homes[$n], number => $n,
				count => scalar @homes, seed => $option{seed} * 1000 + $number++,
				journal => "$option{work}/clients/" . $workload->name . ".$homes[$n]");
			push @clients, { journal => $client{journal},
				pid => process(sub { Torture::Client->new(%client)->run }) };
		}
	}
}

# Wait until each client has had a success more than when this was called; false: somebody has not.
sub progress
{
	my $deadline = time + $PROGRESS_SECONDS;
	my @waiting = map { [ $_, (-s $_->{journal}) // 0 ] } @clients;

	while (@waiting)
	{
		@waiting = grep { !grew_well(@$_) } @waiting;
		last unless @waiting;
		if (time > $deadline)
		{
			push @failures, "no success within $PROGRESS_SECONDS s of " . join(', ', map { $_->[0]{journal} } @waiting);
			return 0;
		}
		tend();
		sleep 0.1;
	}
	return 1;
}

# Is there a success in a client's journal behind this offset?
sub grew_well
{
	my ($client, $offset) = @_;
	open my $file, '<', $client->{journal} or return 0;
	seek $file, $offset, 0;
	while (my $line = <$file>)
	{
		return 1 if $line =~ /^\+/;
	}
	return 0;
}

# End processes by TERM, and by KILL who is not gone after so many seconds.
sub processes_end
{
	my ($seconds, @pids) = @_;
	my $deadline = time + $seconds;
	my %left = map { $_ => 1 } @pids;

	kill 'TERM', @pids;
	while (%left)
	{
		foreach my $pid (keys %left)
		{
			delete $left{$pid} if waitpid($pid, POSIX::WNOHANG()) != 0;
		}
		last unless %left;
		if (time > $deadline)
		{
			kill 'KILL', keys %left;
			$deadline += 5;
		}
		sleep 0.02;
	}
}

# A client or a nemesis that died: we, or a server that does not start.
sub died_read
{
	open my $file, '<', "$option{work}/died" or return;
	chomp(my @lines = <$file>);
	unlink "$option{work}/died";
	push @failures, @lines;
}

# What the conductor does while others are at work.
sub tend
{
	my @started_again = $group->keep_running;

	say_progress("started again by the conductor: @started_again") if @started_again;
	$_->tend($group) foreach @nemeses;
	died_read();
}

# Faults for some time.
sub faults_by_time
{
	my $end = time + $option{seconds};

	@running = map { my $nemesis = $_; process(sub { $nemesis->run($group) }) } @nemeses;
	while (time < $end && !@failures)
	{
		tend();
		sleep 0.2;
	}
	processes_end(60, splice @running);
}

# Faults in rounds: each nemesis in turn, then every client must get on.
sub faults_by_rounds
{
	srand($option{seed});
	foreach my $round (1 .. $option{rounds})
	{
		foreach my $nemesis (@nemeses)
		{
			foreach (1 .. $nemesis->per_round($group))
			{
				# a server that is just starting has few processes to hit
				until ($nemesis->fault_recorded($group))
				{
					tend();
					sleep 0.1;
				}
			}
		}
		last unless progress();
		say_progress("round $round") if $round % 10 == 0;
	}
}

sub heal
{
	$_->heal($group) foreach @nemeses;
	$group->keep_running;
}

# Look at everything; one Findings for each workload, by name.
sub judge
{
	my %found = map { $_->name => Torture::Findings->new } @workloads;
	my %journal;

	foreach my $workload (@workloads)
	{
		my $name = $workload->name;
		my $journal = $journal{$name} = Torture::Client::journals(glob "$option{work}/clients/$name.*");
		$workload->judge($group, $journal, $found{$name});
	}
	foreach ($group->differences)
	{
		my ($table, $node) = @$_;
		my ($owner) = grep { $_->schema =~ /CREATE TABLE $table\b/ } @workloads;
		$found{ $owner->name }->add('diverged', "$table of $node is not that of the first node");
	}
	return (\%found, \%journal);
}

sub first_of
{
	my ($n, @list) = @_;
	return @list > $n ? (@list[ 0 .. $n - 1 ], 'and ' . (@list - $n) . ' more') : @list;
}

# The table. Returns whether nothing was found.
sub report
{
	my ($found, $journal, %figure) = @_;
	my @kinds = @Torture::Findings::KINDS;
	my $bad = 0;
	my %sum;

	printf "\n%-12s %8s %8s %8s" . ' %10s' x @kinds . "\n", 'workload', 'ok', 'failed', 'unknown',
		map { s/false conflict/false con./r } @kinds;
	foreach my $name (sort keys %$found)
	{
		my @line = ((map { scalar @{ $journal->{$name}{$_} } } 'ok', 'failed', 'unknown'), map { $found->{$name}->count($_) } @kinds);
		printf "%-12s %8d %8d %8d" . ' %10d' x @kinds . "\n", $name, @line;
		$sum{$_} += $line[$_] foreach 0 .. $#line;
	}
	printf "%-12s %8d %8d %8d" . ' %10d' x @kinds . "\n", 'all', map { $sum{$_} } 0 .. 2 + @kinds;
	$bad += $sum{$_} foreach 3 .. 2 + @kinds;
	printf "\n%-12s %8s\n", 'nemesis', 'faults';
	foreach my $nemesis (@nemeses)
	{
		my %count = $nemesis->faults;
		my $n = 0;
		$n += $_ foreach values %count;
		printf "%-12s %8d  %s\n", $nemesis->name, $n, join(', ', map { "$_ $count{$_}" } sort keys %count);
	}
	print "$_\n" foreach @{ $figure{lines} };
	print "\n";
	print "FOUND $_\n" foreach @failures, map { $found->{$_}->words } sort keys %$found;
	return !$bad && !@failures;
}

# Whatever happens, nothing is left that runs.
END
{
	if ($$ == $conductor)
	{
		my $status = $?;
		processes_end(5, @running, map { $_->{pid} } @clients);
		$group->stop if $group;
		$group->keep if $group && $status;
		$? = $status;
	}
}

@workloads = map { $_->new } classes('Workload', $option{workloads}, @WORKLOADS);
foreach my $class (classes('Nemesis', $option{nemeses}, @NEMESES))
{
	push @nemeses, $class->new(record => "$option{work}/faults." . $class->name, seed => $option{seed} * 100 + @nemeses);
}
open my $file, '>', "$option{work}/conductor" or die "conductor: $!\n";
print $file $$;
close $file;
my ($tools, $faketime) = tools_make();
my %asked = map { $_->name => 1 } @nemeses;
my @lines;
$group = Torture::Group->new(work => $option{work}, bin => $option{bin}, tools => $tools, nodes => $option{nodes},
	schema => join('', map { $_->schema } @workloads), faked_clock => $asked{clock} ? $faketime : undef,
	conf => $option{conf}, disks => $asked{disk} ? $option{disks} : undef);
@nemeses = grep {
	my $lacking = $_->lacking($group);
	push @lines, sprintf("%-12s %8s  %s", $_->name, 'skipped', $lacking) if $lacking;
	!$lacking;
} @nemeses;
$_->prepare($group) foreach @workloads;
say_progress("$option{nodes} nodes are ready; seed $option{seed}");
clients_start();
if (progress())
{
	say_progress('all clients are at work; now ' . join(', ', map { $_->name } @nemeses));
	$option{rounds} ? faults_by_rounds() : faults_by_time();
}
say_progress('healing');
heal();
my $healed = time;
progress() unless @failures;
processes_end(60, map { $_->{pid} } splice @clients);
died_read();
push @failures, first_of(5, $group->crashes);
my ($found, $journal) = ({}, {});
if (eval { $group->sync($SYNC_SECONDS); 1 })
{
	push @lines, sprintf('%.1f s after all was healed every node had everything', time - $healed);
	say_progress('all nodes have everything; looking');
	($found, $journal) = judge();
}
else
{
	chomp(my $why = $@);
	push @failures, $why, $group->complaints;
}
push @lines, sprintf('links carried %d connections, %.1f MB', map { $_->[0], $_->[1] / 1e6 } [ $group->links->carried ]);
my $good = report($found, $journal, lines => \@lines);
printf "%s: %d nodes, %.0f s, seed %d\n", $good ? 'nothing was found' : 'FAILED', $option{nodes}, time - $started,
	$option{seed};
exit($good ? 0 : 1);
