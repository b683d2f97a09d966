/*
 * target.c
 *	  libFuzzer's entry: one program, the decoder is named by FUZZ_TARGET in the
 *	  environment.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "decoders.h"

int			LLVMFuzzerInitialize(int *argc, char ***argv);
int			LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length);

static FuzzDecoder decode;

int
LLVMFuzzerInitialize(int *argc, char ***argv)
{
	const char *name = getenv("FUZZ_TARGET");

	(void) argc;
	(void) argv;
	for (const FuzzTarget *t = fuzz_targets; name != NULL && t->name != NULL; t++)
	{
		if (strcmp(t->name, name) == 0)
			decode = t->decode;
	}
	if (decode == NULL)
	{
		fprintf(stderr, "FUZZ_TARGET must name one of:");
		for (const FuzzTarget *t = fuzz_targets; t->name != NULL; t++)
			fprintf(stderr, " %s", t->name);
		fprintf(stderr, "\n");
		exit(2);
	}
	fuzz_begin();
	return 0;
}

int
LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
	decode(bytes, length);
	return 0;
}
