/*
 * snapshot.c
 *	  SQL function export_snapshot: the snapshot that a joiner copies from, and
 *	  the version vector that belongs to exactly what it sees.
 *
 * A snapshot knows xids; a vector knows seqs, which capture gives in the order of
 * commit records. Two transactions may become visible in another order than
 * that of their commit records, so not every snapshot has a vector. The joiner
 * asks in a new REPEATABLE READ transaction until one has:
 *
 *	  1  S = the transaction's snapshot
 *	  2  a barrier: capture has accounted for every commit that S can see
 *	  3  H = the captured vector; all that S sees of an origin is seq <= H
 *	  4  the version index from S's xmin on: which seqs <= H does S not see?
 *	     None: V = H. Else the first of them is B, and V = B - 1,
 *	  5  but only if S sees nothing from B to H either. If it does, S has no vector.
 *
 * Step 5 counts: every seq from B to H has to turn up in the index with an
 * xid that S does not see. One that S sees is found out by being absent (its xid is
 * older than xmin, or its entry has been dropped as stable) or by being visible.
 * Entries of an apply transaction that failed count for nothing: the retry has the same
 * seq and a later xid, and whichever of the two S does not see, it does not see the seq.
 *
 * The rows that are copied have stamps; what the joiner writes over them must get
 * greater ones. So the vector is followed by a stamp that is not less than
 * any in the snapshot: i64, the greater of this node's last stamp and its floor.
 * A donor whose floor is too far ahead of group time would drag the joiner along,
 * and refuses.
 *
 *	  result "vector": p2p_put_vector, i64 stamp
 *
 * Open to PUBLIC, since it refuses all but a backend in whose session a member
 * has proven its key. Holds its snapshot while it waits for capture: that is
 * the point of it. No lock is held over the scan.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/transam.h"
#include "access/xact.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"

#include "p2p_clock.h"
#include "p2p_vector.h"

#include "barrier.h"
#include "exchange.h"
#include "settings.h"
#include "snapshot.h"
#include "versions.h"

PG_FUNCTION_INFO_V1(rp_export_snapshot);

#define BARRIER_TIMEOUT_MS 60000
/* Seqs of one origin from B to H; a snapshot that is behind by more is not worth the memory. */
#define MAX_UNSEEN (UINT64CONST(1) << 26)

/* What step 4 and 5 find out of one origin. */
typedef struct OriginCut
{
	uint64		captured;		/* H */
	uint64		first_unseen;	/* B; 0 = all of it is seen */
	uint64		unseen;			/* different seqs from B to H that are not seen */
	uint8	   *seen_not;		/* bit i: seq B + i is not seen */
} OriginCut;

typedef struct Cut
{
	Snapshot	snapshot;
	int			nmembers;
	bool		unclean;		/* S sees something after B */
	P2pOrigin	origins[RP_MAX_MEMBERS];
	OriginCut	of[RP_MAX_MEMBERS];
	P2pStamp	stamp;
} Cut;

static void donor_check(RpNode *node, P2pStamp stamp);
static void captured_read(RpNode *node, Cut *cut);
static bool cut_is_clean(Cut *cut);
static bytea *cut_encode(const Cut *cut);

/* Export the transaction's snapshot with its vector; NULLs if it has none. */
Datum
rp_export_snapshot(PG_FUNCTION_ARGS)
{
	RpNode	   *node = rp_node_required();
	Cut		   *cut = palloc0(sizeof(Cut));
	TupleDesc	descriptor;
	Datum		values[2] = {0};
	bool		nulls[2] = {true, true};

	rp_snapshot_caller_check(node, "export_snapshot");
	if (get_call_result_type(fcinfo, NULL, &descriptor) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "replp2p: return type must be a row type");

	cut->snapshot = GetActiveSnapshot();
	rp_barrier(node, BARRIER_TIMEOUT_MS);
	captured_read(node, cut);
	donor_check(node, cut->stamp);
	rp_versions_attach(MyDatabaseId);
	if (cut_is_clean(cut))
	{
		values[0] = CStringGetTextDatum(ExportSnapshot(cut->snapshot));
		values[1] = PointerGetDatum(cut_encode(cut));
		nulls[0] = nulls[1] = false;
	}
	return HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(descriptor), values, nulls));
}

/* Is id an admitted member other than this node? */
static bool
is_peer(RpNode *node, const P2pId *id)
{
	bool		found = false;

	LWLockAcquire(&node->lock, LW_SHARED);
	for (int slot = RP_SELF + 1; slot < node->nmembers && !found; slot++)
		found = node->members[slot].status == RP_MEMBER_ADMITTED &&
			p2p_id_compare(&node->members[slot].origin.id, id) == 0;
	LWLockRelease(&node->lock);
	return found;
}

/* ERROR unless a member asks, in a transaction whose snapshot stays. */
void
rp_snapshot_caller_check(RpNode *node, const char *function)
{
	P2pId		id;

	if (!rp_exchange_peer(&id, NULL) || !is_peer(node, &id))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("%s() is for a joining node, inside its session", function),
				 errhint("Call replp2p.join_group() on the node that is to join.")));
	if (rp_node_status(node) != RP_NODE_ACTIVE)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("this node is not active"),
				 errhint("Join by an invite of an active node.")));
	if (!IsolationUsesXactSnapshot() || IsSubTransaction())
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("%s() needs a REPEATABLE READ transaction", function),
				 errhint("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY first.")));
}

/* ERROR if the stamps here are so far ahead that a joiner would be held by all others. */
static void
donor_check(RpNode *node, P2pStamp stamp)
{
	int64		offset;

	SpinLockAcquire(&node->vector_lock);
	offset = node->group_offset_us;
	SpinLockRelease(&node->vector_lock);
	if (p2p_clock_too_far_ahead(stamp, GetCurrentTimestamp() + offset,
								(int64) rp_max_clock_skew_s * USECS_PER_SEC))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the stamps of this node are too far ahead of group time to copy from it"),
				 errhint("Join by an invite of another node, or wait until time has passed.")));
}

/* Read H and the stamp that bounds it, at one moment. */
static void
captured_read(RpNode *node, Cut *cut)
{
	LWLockAcquire(&node->lock, LW_SHARED);
	cut->nmembers = node->nmembers;
	SpinLockAcquire(&node->vector_lock);
	for (int slot = 0; slot < cut->nmembers; slot++)
		cut->of[slot].captured = node->members[slot].captured_seq;
	cut->stamp = Max(node->last_stamp, node->floor);
	SpinLockRelease(&node->vector_lock);
	for (int slot = 0; slot < cut->nmembers; slot++)
		cut->origins[slot] = node->members[slot].origin;
	LWLockRelease(&node->lock);
}

/* The 64-bit xid of the snapshot's xmin: not after next, and less than 2^32 before it. */
static uint64
snapshot_first_xid(Snapshot snapshot, FullTransactionId next)
{
	uint32		behind = XidFromFullTransactionId(next) - snapshot->xmin;

	return U64FromFullTransactionId(next) - behind;
}

/* The origin that an entry counts for; NULL if for none. */
static OriginCut *
entry_origin(Cut *cut, const RpVersionEntry *entry)
{
	if (entry->slot >= cut->nmembers || entry->seq > cut->of[entry->slot].captured)
		return NULL;
	return &cut->of[entry->slot];
}

/* Visit: find B of each origin. */
static void
find_first_unseen(uint64 xid, const RpVersionEntry *entry, void *arg)
{
	Cut		   *cut = arg;
	OriginCut  *of = entry_origin(cut, entry);

	if (of == NULL || (of->first_unseen != 0 && of->first_unseen <= entry->seq))
		return;
	if (XidInMVCCSnapshot((TransactionId) xid, cut->snapshot))
		of->first_unseen = entry->seq;
}

/*
 * Visit: count the seqs from B on that are not seen. One of this node's own that is
 * seen settles it; one of another origin may be an apply transaction that failed.
 */
static void
count_unseen(uint64 xid, const RpVersionEntry *entry, void *arg)
{
	Cut		   *cut = arg;
	OriginCut  *of = entry_origin(cut, entry);
	uint64		i;

	if (of == NULL || of->first_unseen == 0 || entry->seq < of->first_unseen)
		return;
	if (!XidInMVCCSnapshot((TransactionId) xid, cut->snapshot))
	{
		cut->unclean |= entry->slot == RP_SELF;
		return;
	}
	i = entry->seq - of->first_unseen;
	if ((of->seen_not[i / 8] & (1 << (i % 8))) == 0)
	{
		of->seen_not[i / 8] |= 1 << (i % 8);
		of->unseen++;
	}
}

/* Steps 4 and 5: find B of every origin; is there a vector? */
static bool
cut_is_clean(Cut *cut)
{
	FullTransactionId next = ReadNextFullTransactionId();
	uint64		first = snapshot_first_xid(cut->snapshot, next);
	uint64		end = U64FromFullTransactionId(next);
	bool		anything = false;

	rp_versions_scan(first, end, find_first_unseen, cut);
	for (int slot = 0; slot < cut->nmembers; slot++)
	{
		OriginCut  *of = &cut->of[slot];

		if (of->first_unseen == 0)
			continue;
		anything = true;
		if (of->captured - of->first_unseen >= MAX_UNSEEN)
			return false;
		of->seen_not = palloc0((of->captured - of->first_unseen) / 8 + 1);
	}
	if (!anything)
		return true;

	rp_versions_scan(first, end, count_unseen, cut);
	for (int slot = 0; slot < cut->nmembers && !cut->unclean; slot++)
	{
		OriginCut  *of = &cut->of[slot];

		if (of->first_unseen != 0 && of->unseen != of->captured - of->first_unseen + 1)
			cut->unclean = true;
	}
	return !cut->unclean;
}

/* Write V and the stamp. */
static bytea *
cut_encode(const Cut *cut)
{
	size_t		capacity = P2P_VECTOR_MAX_SIZE + sizeof(int64);
	bytea	   *result = palloc(VARHDRSZ + capacity);
	P2pVector  *vector = palloc(sizeof(P2pVector));
	P2pWriter	w;

	p2p_vector_clear(vector);
	for (int slot = 0; slot < cut->nmembers; slot++)
	{
		const OriginCut *of = &cut->of[slot];
		uint64		seq = of->first_unseen != 0 ? of->first_unseen - 1 : of->captured;

		if (seq > 0 && !p2p_vector_set(vector, &cut->origins[slot], seq))
			elog(ERROR, "replp2p: too many members in a vector");
	}
	p2p_writer_init(&w, VARDATA(result), capacity);
	p2p_put_vector(&w, vector);
	p2p_put_i64(&w, cut->stamp);
	if (w.overflow)
		elog(ERROR, "replp2p: a vector does not fit");
	SET_VARSIZE(result, VARHDRSZ + w.length);
	return result;
}

bool
rp_snapshot_vector_read(const void *bytes, size_t length, P2pVector *vector, P2pStamp *stamp)
{
	P2pReader	r;

	p2p_reader_init(&r, bytes, length);
	p2p_get_vector(&r, vector);
	*stamp = p2p_get_i64(&r);
	return !r.bad && p2p_reader_left(&r) == 0;
}
