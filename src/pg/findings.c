/*
 * findings.c
 *	  Rows of (check_name, status, detail, hint): what health() and preflight()
 *	  have found.
 */
#include "postgres.h"

#include "lib/stringinfo.h"

#include "findings.h"

void
rp_finding(RpFindings *findings, const char *status, const char *hint, const char *detail,...)
{
	StringInfoData text;
	int			more;

	initStringInfo(&text);
	do
	{
		va_list		args;

		va_start(args, detail);
		more = appendStringInfoVA(&text, detail, args);
		va_end(args);
		if (more > 0)
			enlargeStringInfo(&text, more);
	} while (more > 0);
	findings->found++;
	rp_findings_put(findings, status, text.data, hint);
	pfree(text.data);
}

void
rp_findings_put(RpFindings *findings, const char *status, const char *detail, const char *hint)
{
	rp_row_text(&findings->row, findings->check);
	rp_row_text(&findings->row, status);
	rp_row_text(&findings->row, detail);
	rp_row_text(&findings->row, hint);
	rp_row_end(&findings->row);
}
