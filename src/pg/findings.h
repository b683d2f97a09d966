/*
 * findings.h
 *	  Rows of (check_name, status, detail, hint): what health() and preflight()
 *	  have found.
 */
#ifndef RP_FINDINGS_H
#define RP_FINDINGS_H

#include "rowbuilder.h"

#define WARNING_STATUS "WARNING"
#define CRITICAL_STATUS "CRITICAL"

typedef struct RpFindings
{
	RpRow		row;
	const char *check;			/* under way */
	int			found;			/* by it */
} RpFindings;

/* Add a row for what the check under way has found. hint may be NULL. */
void		rp_finding(RpFindings *findings, const char *status, const char *hint,
					   const char *detail,...) pg_attribute_printf(4, 5);
/* Add a row that is no finding. */
void		rp_findings_put(RpFindings *findings, const char *status, const char *detail,
							const char *hint);

#endif							/* RP_FINDINGS_H */
