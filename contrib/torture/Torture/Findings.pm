# Torture::Findings: what was found wrong, by kind; the first few of each in words.
package Torture::Findings;

use strict;
use warnings;

our @KINDS = ('lost', 'duplicated', 'diverged', 'torn', 'dirty', 'false conflict');

use constant MAX_WORDS => 5;

sub new
{
	return bless { count => {}, words => {} }, $_[0];
}

sub add
{
	my ($self, $kind, $words) = @_;
	$self->{count}{$kind}++;
	push @{ $self->{words}{$kind} }, $words if @{ $self->{words}{$kind} //= [] } < MAX_WORDS;
}

sub count { return $_[0]{count}{ $_[1] } // 0 }

# All of them in words, one a line.
sub words
{
	my ($self) = @_;
	return map { my $kind = $_; map { "$kind: $_" } @{ $self->{words}{$kind} } } sort keys %{ $self->{words} };
}

1;
