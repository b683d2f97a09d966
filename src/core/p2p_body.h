/*
 * p2p_body.h
 *	  The body of a batch: transactions as items, relations described once.
 *
 *	body     := item*                      each item opens with one tag byte
 *	RELATION 'R' varint relno (dense from 0 in this body), text schema, text
 *	             name, varint ncolumns, ncolumns * { text name, text type, u8 flags }
 *	BEGIN    'B' varint seq, i64 stamp, i64 commit_time, u64 local xid,
 *	             varint n, n * { varint index into the header's deps, varint seq }:
 *	             the components of deps that differ from the previous
 *	             transaction's (the header's deps for the first of the body)
 *	INSERT   'I' varint relno, tuple
 *	UPDATE   'U' varint relno, u8 has_old, [old tuple], tuple
 *	DELETE   'D' varint relno, tuple
 *	TRUNCATE 'T' u8 flags, varint n, n * varint relno
 *	COMMIT   'C' (absent from a part that is not final)
 *	tuple    := ncolumns * { u8 kind, [block value] }
 *
 * A part of a large transaction (see p2p_cursor.h) repeats its BEGIN at the
 * top of every part. ONLY APPEND: tags, kinds and flags are on wires and disks.
 */
#ifndef P2P_BODY_H
#define P2P_BODY_H

#include "p2p_buf.h"
#include "p2p_vector.h"

#define P2P_NAME_SIZE 64		/* NAMEDATALEN: 63 bytes and a zero */
#define P2P_TYPE_NAME_SIZE 200	/* qualified type name */
#define P2P_MAX_COLUMNS 1664	/* of one table */
#define P2P_MAX_TRUNCATED 1024	/* tables in one TRUNCATE item */
#define P2P_MAX_VALUE ((size_t) 1 << 30)

typedef enum P2pTag
{
	P2P_TAG_RELATION = 'R',
	P2P_TAG_BEGIN = 'B',
	P2P_TAG_INSERT = 'I',
	P2P_TAG_UPDATE = 'U',
	P2P_TAG_DELETE = 'D',
	P2P_TAG_TRUNCATE = 'T',
	P2P_TAG_COMMIT = 'C'
} P2pTag;

typedef enum P2pValueKind
{
	P2P_VALUE_NULL = 'n',
	P2P_VALUE_BINARY = 'b',
	P2P_VALUE_TEXT = 't',
	P2P_VALUE_UNCHANGED = 'u',	/* TOAST value left as it was and not in the WAL any more */
	P2P_VALUE_ABSENT = '-'		/* not part of this (key) tuple */
} P2pValueKind;

#define P2P_COLUMN_KEY 0x01		/* part of the replica identity */

#define P2P_TRUNCATE_CASCADE 0x01
#define P2P_TRUNCATE_RESTART_SEQS 0x02

typedef struct P2pValue
{
	P2pValueKind kind;
	const uint8_t *data;		/* into the body */
	size_t		length;
} P2pValue;

typedef struct P2pColumn
{
	char		name[P2P_NAME_SIZE];
	char		type[P2P_TYPE_NAME_SIZE];
	uint8_t		flags;
} P2pColumn;

typedef struct P2pRelation
{
	uint32_t	relno;
	char		schema[P2P_NAME_SIZE];
	char		name[P2P_NAME_SIZE];
	uint32_t	ncolumns;
	P2pColumn  *columns;		/* memory of the reader's caller */
} P2pRelation;

typedef struct P2pBegin
{
	uint64_t	seq;
	P2pStamp	stamp;
	P2pStamp	commit_time;	/* from the commit record */
	uint64_t	xid;			/* 64-bit local xid at the origin */
} P2pBegin;

/*
 * Writers. What a reader would refuse (text too long for its limit, too many
 * columns, unlike sets of origins) sets w->overflow with w->length still at
 * most w->capacity.
 */
void		p2p_body_put_relation(P2pWriter *w, const P2pRelation *relation);
/*
 * deps: of this transaction. previous: what the last transaction of this body
 * had (the header's deps for the first), same origins in the same order; the
 * caller starts a new batch when the set of origins changes.
 */
void		p2p_body_put_begin(P2pWriter *w, const P2pBegin *begin,
							   const P2pVector *previous, const P2pVector *deps);
void		p2p_body_put_insert(P2pWriter *w, uint32_t relno);
void		p2p_body_put_update(P2pWriter *w, uint32_t relno, bool has_old);
void		p2p_body_put_delete(P2pWriter *w, uint32_t relno);
/* After insert, update, delete: exactly ncolumns values a tuple. */
void		p2p_body_put_value(P2pWriter *w, const P2pValue *value);
void		p2p_body_put_truncate(P2pWriter *w, uint8_t flags,
								  const uint32_t *relnos, uint32_t n);
void		p2p_body_put_commit(P2pWriter *w);

/* How many columns relation relno has: readers of tuples need to know. */
typedef struct P2pBodyReader
{
	P2pReader	reader;
	P2pVector	deps;			/* of the current transaction */
	bool		in_transaction; /* at P2P_END: the body ends with a part that is not final */
	uint64_t	last_seq;		/* of the last BEGIN; 0 before the first */
	uint32_t	nrelations;
	uint16_t   *ncolumns;		/* by relno; memory handed in */
	uint32_t	max_relations;
	P2pColumn  *columns;		/* P2P_MAX_COLUMNS, handed in: of the last RELATION */
	P2pValue   *new_values;		/* P2P_MAX_COLUMNS each, handed in */
	P2pValue   *old_values;
	uint32_t   *relnos;			/* P2P_MAX_TRUNCATED, handed in */
} P2pBodyReader;

#define P2P_MAX_BODY_RELATIONS 4096

typedef struct P2pItem
{
	P2pTag		tag;
	P2pRelation relation;		/* RELATION; columns are valid until the next item */
	P2pBegin	begin;			/* BEGIN; deps are in reader->deps */
	uint32_t	relno;			/* INSERT, UPDATE, DELETE */
	uint32_t	ncolumns;
	bool		has_old;		/* UPDATE: old_values are there; DELETE: always, in old_values */
	uint8_t		truncate_flags;
	uint32_t	nrelnos;		/* TRUNCATE: reader->relnos */
} P2pItem;

/* Memory that a P2pBodyReader wants, so that one piece serves: see p2p_body_reader_init. */
size_t		p2p_body_reader_memory(void);
/* memory: p2p_body_reader_memory() bytes, aligned as by malloc. deps: the header's. */
void		p2p_body_reader_init(P2pBodyReader *r, void *memory,
								 const void *body, size_t length, const P2pVector *deps);
/* P2P_OK and *item, P2P_END at the end, else P2P_CORRUPT or P2P_TOO_LARGE. */
P2pStatus	p2p_body_next(P2pBodyReader *r, P2pItem *item);

#endif							/* P2P_BODY_H */
