/*
 * p2p_body.c
 *	  Writing and reading the body of a batch.
 *
 * The format stands in p2p_body.h. Capture writes an item at a time, apply and
 * the conflict history read an item at a time; a tuple's values point into the
 * body and nothing is copied but names.
 *
 * Beside the bounds, the reader holds what a body promises: relations are
 * numbered densely and described before they are used; rows stand between
 * BEGIN and COMMIT; the seqs of its transactions are consecutive; the changed
 * components of deps come in ascending order. So a later stage may index by
 * relno without looking. After anything but P2P_OK and P2P_END the reader
 * stays bad.
 *
 * The loops over values are what capture and apply do most. They take the
 * common case (a value shorter than 128 bytes, all of it there) without a call.
 */
#include "p2p_body.h"

#include <string.h>

#define SHORT_VALUE 0x80		/* a length below it is one byte of varint */

/* Write the description of a relation. */
void
p2p_body_put_relation(P2pWriter *w, const P2pRelation *relation)
{
	if (relation->ncolumns > P2P_MAX_COLUMNS)
	{
		w->overflow = true;
		return;
	}
	p2p_put_u8(w, P2P_TAG_RELATION);
	p2p_put_varint(w, relation->relno);
	p2p_put_text_field(w, relation->schema, sizeof(relation->schema));
	p2p_put_text_field(w, relation->name, sizeof(relation->name));
	p2p_put_varint(w, relation->ncolumns);
	for (uint32_t i = 0; i < relation->ncolumns; i++)
	{
		const P2pColumn *column = &relation->columns[i];

		p2p_put_text_field(w, column->name, sizeof(column->name));
		p2p_put_text_field(w, column->type, sizeof(column->type));
		p2p_put_u8(w, column->flags);
	}
}

/* Count the components that differ; false if the origins are not the same ones. */
static bool
count_changed(const P2pVector *previous, const P2pVector *deps, uint32_t *changed)
{
	*changed = 0;
	if (previous->count != deps->count)
		return false;
	for (uint32_t i = 0; i < deps->count; i++)
	{
		if (!p2p_origin_equal(&previous->entries[i].origin, &deps->entries[i].origin))
			return false;
		if (previous->entries[i].seq != deps->entries[i].seq)
			(*changed)++;
	}
	return true;
}

/* Write the start of a transaction. */
void
p2p_body_put_begin(P2pWriter *w, const P2pBegin *begin,
				   const P2pVector *previous, const P2pVector *deps)
{
	uint32_t	changed;

	if (!count_changed(previous, deps, &changed))
	{
		w->overflow = true;
		return;
	}
	p2p_put_u8(w, P2P_TAG_BEGIN);
	p2p_put_varint(w, begin->seq);
	p2p_put_i64(w, begin->stamp);
	p2p_put_i64(w, begin->commit_time);
	p2p_put_u64(w, begin->xid);
	p2p_put_varint(w, changed);
	for (uint32_t i = 0; changed > 0; i++)
	{
		if (previous->entries[i].seq == deps->entries[i].seq)
			continue;
		p2p_put_varint(w, i);
		p2p_put_varint(w, deps->entries[i].seq);
		changed--;
	}
}

/* Write the start of an insert; its tuple follows. */
void
p2p_body_put_insert(P2pWriter *w, uint32_t relno)
{
	p2p_put_u8(w, P2P_TAG_INSERT);
	p2p_put_varint(w, relno);
}

/* Write the start of an update; the old tuple, if has_old, and the new one follow. */
void
p2p_body_put_update(P2pWriter *w, uint32_t relno, bool has_old)
{
	p2p_put_u8(w, P2P_TAG_UPDATE);
	p2p_put_varint(w, relno);
	p2p_put_u8(w, has_old);
}

/* Write the start of a delete; the old tuple follows. */
void
p2p_body_put_delete(P2pWriter *w, uint32_t relno)
{
	p2p_put_u8(w, P2P_TAG_DELETE);
	p2p_put_varint(w, relno);
}

/* Does a value of this kind carry bytes? */
static inline bool
kind_has_data(uint8_t kind)
{
	return kind == P2P_VALUE_BINARY || kind == P2P_VALUE_TEXT;
}

/* Write one value of a tuple. */
void
p2p_body_put_value(P2pWriter *w, const P2pValue *value)
{
	size_t		length = value->length;
	uint8_t    *at;

	if (!kind_has_data((uint8_t) value->kind))
	{
		p2p_put_u8(w, (uint8_t) value->kind);
		return;
	}
	if (length < SHORT_VALUE && !w->overflow && w->capacity - w->length >= length + 2)
	{
		at = w->data + w->length;
		at[0] = (uint8_t) value->kind;
		at[1] = (uint8_t) length;
		if (length > 0)
			memcpy(at + 2, value->data, length);
		w->length += length + 2;
		return;
	}
	if (length > P2P_MAX_VALUE)
	{
		w->overflow = true;
		return;
	}
	p2p_put_u8(w, (uint8_t) value->kind);
	p2p_put_block(w, value->data, length);
}

/* Write the truncation of n relations. */
void
p2p_body_put_truncate(P2pWriter *w, uint8_t flags, const uint32_t *relnos, uint32_t n)
{
	if (n > P2P_MAX_TRUNCATED)
	{
		w->overflow = true;
		return;
	}
	p2p_put_u8(w, P2P_TAG_TRUNCATE);
	p2p_put_u8(w, flags);
	p2p_put_varint(w, n);
	for (uint32_t i = 0; i < n; i++)
		p2p_put_varint(w, relnos[i]);
}

/* Write the end of a transaction. */
void
p2p_body_put_commit(P2pWriter *w)
{
	p2p_put_u8(w, P2P_TAG_COMMIT);
}

/* How the reader's memory is laid out: strictest alignment first. */
#define VALUES_SIZE (P2P_MAX_COLUMNS * sizeof(P2pValue))
#define NEW_VALUES_AT ((size_t) 0)
#define OLD_VALUES_AT (NEW_VALUES_AT + VALUES_SIZE)
#define RELNOS_AT (OLD_VALUES_AT + VALUES_SIZE)
#define NCOLUMNS_AT (RELNOS_AT + P2P_MAX_TRUNCATED * sizeof(uint32_t))
#define COLUMNS_AT (NCOLUMNS_AT + P2P_MAX_BODY_RELATIONS * sizeof(uint16_t))
#define MEMORY_SIZE (COLUMNS_AT + P2P_MAX_COLUMNS * sizeof(P2pColumn))

/* Return how much memory a reader wants. */
size_t
p2p_body_reader_memory(void)
{
	return MEMORY_SIZE;
}

/* Start reading a body; memory and body stay the caller's and must outlive the reader. */
void
p2p_body_reader_init(P2pBodyReader *r, void *memory,
					 const void *body, size_t length, const P2pVector *deps)
{
	uint8_t    *base = memory;

	p2p_reader_init(&r->reader, body, length);
	r->deps = *deps;
	r->in_transaction = false;
	r->last_seq = 0;
	r->nrelations = 0;
	r->max_relations = P2P_MAX_BODY_RELATIONS;
	r->new_values = (P2pValue *) (void *) (base + NEW_VALUES_AT);
	r->old_values = (P2pValue *) (void *) (base + OLD_VALUES_AT);
	r->relnos = (uint32_t *) (void *) (base + RELNOS_AT);
	r->ncolumns = (uint16_t *) (void *) (base + NCOLUMNS_AT);
	r->columns = (P2pColumn *) (void *) (base + COLUMNS_AT);
}

/* Read the description of a relation. */
static P2pStatus
get_relation(P2pBodyReader *r, P2pRelation *relation)
{
	P2pReader  *in = &r->reader;
	uint64_t	relno = p2p_get_varint(in);
	uint64_t	ncolumns;

	if (relno != r->nrelations)
		return P2P_CORRUPT;
	if (relno >= r->max_relations)
		return P2P_TOO_LARGE;
	p2p_get_text(in, relation->schema, sizeof(relation->schema));
	p2p_get_text(in, relation->name, sizeof(relation->name));
	ncolumns = p2p_get_varint(in);
	if (ncolumns > P2P_MAX_COLUMNS)
		return P2P_TOO_LARGE;

	for (uint32_t i = 0; i < ncolumns && !in->bad; i++)
	{
		P2pColumn  *column = &r->columns[i];

		p2p_get_text(in, column->name, sizeof(column->name));
		p2p_get_text(in, column->type, sizeof(column->type));
		column->flags = p2p_get_u8(in);
	}
	if (in->bad)
		return P2P_CORRUPT;

	relation->relno = (uint32_t) relno;
	relation->ncolumns = (uint32_t) ncolumns;
	relation->columns = r->columns;
	r->ncolumns[relno] = (uint16_t) ncolumns;
	r->nrelations++;
	return P2P_OK;
}

/* Read the start of a transaction and move r->deps on to its deps. */
static P2pStatus
get_begin(P2pBodyReader *r, P2pBegin *begin)
{
	P2pReader  *in = &r->reader;
	uint64_t	changed;
	uint64_t	lowest = 0;		/* of the indexes that may come next */

	begin->seq = p2p_get_varint(in);
	begin->stamp = p2p_get_i64(in);
	begin->commit_time = p2p_get_i64(in);
	begin->xid = p2p_get_u64(in);
	changed = p2p_get_varint(in);
	if (r->in_transaction || begin->seq == 0 || changed > r->deps.count)
		return P2P_CORRUPT;
	if (r->last_seq != 0 && begin->seq - 1 != r->last_seq)
		return P2P_CORRUPT;

	for (uint64_t i = 0; i < changed; i++)
	{
		uint64_t	index = p2p_get_varint(in);
		uint64_t	seq = p2p_get_varint(in);

		if (in->bad || index < lowest || index >= r->deps.count)
			return P2P_CORRUPT;
		r->deps.entries[index].seq = seq;
		lowest = index + 1;
	}
	r->in_transaction = true;
	r->last_seq = begin->seq;
	return P2P_OK;
}

/* Read the relno of a row change. */
static P2pStatus
get_relno(P2pBodyReader *r, P2pItem *item)
{
	uint64_t	relno = p2p_get_varint(&r->reader);

	if (!r->in_transaction || relno >= r->nrelations)
		return P2P_CORRUPT;
	item->relno = (uint32_t) relno;
	item->ncolumns = r->ncolumns[relno];
	return P2P_OK;
}

/* Read one value that is not short, or has no data, or is not all there. */
static bool
get_value(P2pReader *in, P2pValue *value)
{
	uint8_t		kind = p2p_get_u8(in);

	value->data = NULL;
	value->length = 0;
	switch (kind)
	{
		case P2P_VALUE_BINARY:
		case P2P_VALUE_TEXT:
			value->data = p2p_get_block(in, P2P_MAX_VALUE, &value->length);
			break;
		case P2P_VALUE_NULL:
		case P2P_VALUE_UNCHANGED:
		case P2P_VALUE_ABSENT:
			break;
		default:
			return false;
	}
	value->kind = (P2pValueKind) kind;
	return !in->bad;
}

/* Read a tuple into values. */
static P2pStatus
get_tuple(P2pReader *in, P2pValue *values, uint32_t ncolumns)
{
	for (uint32_t i = 0; i < ncolumns; i++)
	{
		const uint8_t *at = in->data + in->pos;
		size_t		left = in->length - in->pos;
		P2pValue   *value = &values[i];

		if (left >= 2 && kind_has_data(at[0]) && at[1] < SHORT_VALUE && at[1] <= left - 2)
		{
			value->kind = (P2pValueKind) at[0];
			value->data = at + 2;
			value->length = at[1];
			in->pos += (size_t) at[1] + 2;
		}
		else if (!get_value(in, value))
			return P2P_CORRUPT;
	}
	return P2P_OK;
}

/* Read the rest of an insert, update or delete. */
static P2pStatus
get_row_change(P2pBodyReader *r, P2pItem *item)
{
	P2pStatus	status = get_relno(r, item);
	uint8_t		has_old = (item->tag == P2P_TAG_DELETE);

	if (status == P2P_OK && item->tag == P2P_TAG_UPDATE)
	{
		has_old = p2p_get_u8(&r->reader);
		if (has_old > 1)
			return P2P_CORRUPT;
	}
	item->has_old = (has_old == 1);
	if (status == P2P_OK && item->has_old)
		status = get_tuple(&r->reader, r->old_values, item->ncolumns);
	if (status == P2P_OK && item->tag != P2P_TAG_DELETE)
		status = get_tuple(&r->reader, r->new_values, item->ncolumns);
	return status;
}

/* Read the rest of a truncation. */
static P2pStatus
get_truncate(P2pBodyReader *r, P2pItem *item)
{
	P2pReader  *in = &r->reader;
	uint64_t	n;

	item->truncate_flags = p2p_get_u8(in);
	n = p2p_get_varint(in);
	if (!r->in_transaction)
		return P2P_CORRUPT;
	if (n > P2P_MAX_TRUNCATED)
		return P2P_TOO_LARGE;
	for (uint32_t i = 0; i < n; i++)
	{
		uint64_t	relno = p2p_get_varint(in);

		if (relno >= r->nrelations)
			return P2P_CORRUPT;
		r->relnos[i] = (uint32_t) relno;
	}
	item->nrelnos = (uint32_t) n;
	return P2P_OK;
}

/* Read the rest of the item that opens with tag. */
static P2pStatus
get_item(P2pBodyReader *r, uint8_t tag, P2pItem *item)
{
	switch (tag)
	{
		case P2P_TAG_RELATION:
			item->tag = P2P_TAG_RELATION;
			return get_relation(r, &item->relation);
		case P2P_TAG_BEGIN:
			item->tag = P2P_TAG_BEGIN;
			return get_begin(r, &item->begin);
		case P2P_TAG_INSERT:
		case P2P_TAG_UPDATE:
		case P2P_TAG_DELETE:
			item->tag = (P2pTag) tag;
			return get_row_change(r, item);
		case P2P_TAG_TRUNCATE:
			item->tag = P2P_TAG_TRUNCATE;
			return get_truncate(r, item);
		case P2P_TAG_COMMIT:
			item->tag = P2P_TAG_COMMIT;
			if (!r->in_transaction)
				return P2P_CORRUPT;
			r->in_transaction = false;
			return P2P_OK;
		default:
			return P2P_CORRUPT;
	}
}

/* Read the next item. */
P2pStatus
p2p_body_next(P2pBodyReader *r, P2pItem *item)
{
	P2pReader  *in = &r->reader;
	P2pStatus	status;

	if (in->bad)
		return P2P_CORRUPT;
	if (p2p_reader_left(in) == 0)
		return P2P_END;
	status = get_item(r, p2p_get_u8(in), item);
	if (status == P2P_OK && in->bad)
		status = P2P_CORRUPT;
	if (status != P2P_OK)
		p2p_reader_fail(in);
	return status;
}
