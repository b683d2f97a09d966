# damage: what a disk or a crash leaves at the end of a change log, while the server is down.
#
#	junk	something behind the end: half a record, or zeros; in any log
#	lost	the end is gone
#	flip	a bit is turned near the end
#
# The last two happen to logs of other origins only, which a node fetches again from its peers. Of its own
# log, which others already know, a node may not lose anything: it stops and says so (see t/043).
package Torture::Nemesis::Damage;

use strict;
use warnings;

use parent 'Torture::Nemesis';

use Torture::Cluster;

use constant NEAR => 65536;		# the end: bytes that no peer has trimmed yet

sub name { 'damage' }
sub rest { 8 }

# What happens to a file of this size. In place, and as much of it as there is room for: the
# file system may be full.
my %DAMAGE = (
	junk => sub {
		my ($file, $size) = @_;
		sysseek $file, 0, 0;
		sysread $file, my $bytes, 150;
		sysseek $file, $size, 0;
		syswrite $file, rand() < 0.5 ? $bytes : "\0" x (1 + int(rand(5000)));
	},
	lost => sub { my ($file, $size) = @_; truncate $file, place($size) },
	flip => sub {
		my ($file, $size) = @_;
		my $at = place($size);
		sysseek $file, $at, 0;
		sysread $file, my $byte, 1;
		sysseek $file, $at, 0;
		syswrite $file, chr(ord($byte) ^ 1 << int(rand(8)));
	});

# A place near the end of a file of this size.
sub place
{
	my ($size) = @_;
	return $size - 1 - int(rand($size < NEAR ? $size : NEAR));
}

sub fault
{
	my ($self, $group) = @_;
	my $cluster = Torture::Nemesis::one_of($group->clusters);
	my $kind = Torture::Nemesis::one_of(sort keys %DAMAGE);

	return Torture::Cluster::locked(sub {
		$cluster->stop('immediate');
		my $done = damage($group, $cluster, $kind);
		$cluster->start_again;
		return $done ? $kind : undef;
	}, $cluster);
}

# Damage one log of a stopped server; false: there is nothing in it.
sub damage
{
	my ($group, $cluster, $kind) = @_;
	my $own = $group->{node_id}{ $cluster->name };
	my %folder = $cluster->log_folders;
	my $origin = Torture::Nemesis::one_of(grep { $kind eq 'junk' || !/^$own\./ } sort keys %folder) // return 0;
	my ($last) = reverse sort grep { m{/[0-9a-f]{16}\.[0-9a-f]{8}$} } glob "$folder{$origin}/*";

	return 0 unless $last && -s $last;
	open my $file, '+<:raw', $last or die "$last: $!\n";
	$DAMAGE{$kind}->($file, size_of($file));
	return close $file;
}

# Where the records of a log file end: behind them its writer may have prepared space (p2p_logrec.h).
sub size_of
{
	my ($file) = @_;
	my $at = 0;

	while (sysseek($file, $at, 0) && (sysread($file, my $header, 12) // 0) == 12)
	{
		my ($length) = unpack 'V', $header;
		last if $length == 0;
		$at += 12 + $length;
	}
	return $at || -s $file;
}

1;
