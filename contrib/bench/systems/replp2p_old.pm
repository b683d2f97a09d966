# replp2p as it was in an older commit, beside today's in the same run: see run --against.
package System::replp2p_old;

use strict;
use warnings;

Bench::System->load('replp2p');
our @ISA = ('System::replp2p');

sub bin { return $Bench::System::OLD_BIN }

1;
