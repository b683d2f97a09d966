/*
 * p2p_stamp.c
 *	  Stamps and the one order of versions.
 *
 * A stamp is given once, by the capture of a transaction's origin, in the
 * order of commit records in the WAL. It is the greatest of three:
 *
 *	  commit_time    so that stamps stay near real time, and "last" in
 *	                 last-writer-wins means what people expect
 *	  previous + 1   so that within an origin stamps grow with seq
 *	  floor + 1      so that whoever overwrote, or could not see, a version
 *	                 that apply here had begun with has the greater stamp
 *
 * The last two make the order of versions extend causality whatever the clocks
 * say; each of them alone leaves nodes different (exhaustive model of small histories).
 *
 * Called by capture for every local transaction, and wherever two versions are
 * compared. Nobody else may compare stamps by hand: the ties count.
 *
 * Invariants: a stamp is at least 1, so that the version of all zeros, "older
 * than everything", is below every real one, and so that no commit record
 * carries a stamp of 0, which the server would take as "none given".
 */
#include "p2p_stamp.h"

#define FIRST_STAMP ((P2pStamp) 1)

static P2pStamp stamp_after(P2pStamp stamp);

/* Return the stamp of the local transaction that capture has reached. */
P2pStamp
p2p_stamp_next(P2pStamp commit_time, P2pStamp previous, P2pStamp floor)
{
	P2pStamp	stamp = FIRST_STAMP;

	if (commit_time > stamp)
		stamp = commit_time;
	if (stamp_after(previous) > stamp)
		stamp = stamp_after(previous);
	if (stamp_after(floor) > stamp)
		stamp = stamp_after(floor);
	return stamp;
}

/*
 * Return the next microsecond. The end of time stays where it is: stamps that
 * far ahead are held before they are applied, so no floor gets there.
 */
static P2pStamp
stamp_after(P2pStamp stamp)
{
	return stamp == INT64_MAX ? stamp : stamp + 1;
}

/* Compare two versions by (stamp, id, epoch, seq): < 0, 0, > 0. */
int
p2p_version_compare(const P2pVersion *a, const P2pVersion *b)
{
	int			by_origin;

	if (a->stamp != b->stamp)
		return a->stamp < b->stamp ? -1 : 1;
	by_origin = p2p_origin_compare(&a->dot.origin, &b->dot.origin);
	if (by_origin != 0)
		return by_origin;
	if (a->dot.seq != b->dot.seq)
		return a->dot.seq < b->dot.seq ? -1 : 1;
	return 0;
}

/*
 * Say whether v is "older than everything". Field by field: the bytes between
 * the fields of a struct are nobody's.
 */
bool
p2p_version_is_ancient(const P2pVersion *v)
{
	static const P2pVersion ancient = {0};

	return p2p_version_compare(v, &ancient) == 0;
}
