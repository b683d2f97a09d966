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

my %DAMAGE = (
	junk => sub { my ($bytes) = @_; return $bytes . (rand() < 0.5 ? substr($bytes, 0, 150) : "\0" x (1 + int(rand(5000)))) },
	lost => sub { my ($bytes) = @_; return substr($bytes, 0, place($bytes)) },
	flip => sub {
		my ($bytes) = @_;
		my $at = place($bytes);
		substr($bytes, $at, 1) = chr(ord(substr($bytes, $at, 1)) ^ 1 << int(rand(8)));
		return $bytes;
	});

# A place near the end of these bytes.
sub place
{
	my ($bytes) = @_;
	my $near = length $bytes < NEAR ? length $bytes : NEAR;
	return length($bytes) - 1 - int(rand($near));
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
	open my $in, '<:raw', $last or die "$last: $!\n";
	my $bytes = do { local $/; <$in> };
	open my $out, '>:raw', $last or die "$last: $!\n";
	print $out $DAMAGE{$kind}->($bytes);
	close $out or die "$last: $!\n";
	return 1;
}

1;
