/*
 * replay.c
 *	  Feed every file of a corpus to its decoder, and all its prefixes: needs no
 *	  fuzzer, so that `make check` can do it.
 *
 *	  replay FOLDER		FOLDER/<decoder>/<file>; prints TAP
 *	  replay --list		names of the decoders
 *
 * Inputs stand in memory of exactly their length, so that ASan sees one byte too far.
 */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "decoders.h"

/* Prefixes of longer inputs are taken at this many places. */
#define MAX_PREFIXES 512

/* Feed the first length bytes. */
static void
feed(const FuzzTarget *target, const uint8_t *bytes, size_t length)
{
	uint8_t    *copy = malloc(length > 0 ? length : 1);

	FUZZ_REQUIRE(copy != NULL);
	memcpy(copy, bytes, length);
	target->decode(copy, length);
	free(copy);
}

/* Feed a file and prefixes of it; how many inputs that were. */
static size_t
feed_file(const FuzzTarget *target, const char *path)
{
	static uint8_t bytes[FUZZ_MAX_INPUT];
	FILE	   *file = fopen(path, "rb");
	size_t		length;
	size_t		step;
	size_t		n = 1;

	FUZZ_REQUIRE(file != NULL);
	length = fread(bytes, 1, sizeof(bytes), file);
	fclose(file);
	step = length / MAX_PREFIXES + 1;
	for (size_t end = 0; end < length; end += step, n++)
		feed(target, bytes, end);
	feed(target, bytes, length);
	return n;
}

/* Feed the folder of one decoder; how many inputs, 0 if there are none. */
static size_t
feed_folder(const FuzzTarget *target, const char *corpus)
{
	char		path[4096];
	DIR		   *folder;
	struct dirent *entry;
	size_t		n = 0;

	snprintf(path, sizeof(path), "%s/%s", corpus, target->name);
	folder = opendir(path);
	if (folder == NULL)
		return 0;
	while ((entry = readdir(folder)) != NULL)
	{
		if (entry->d_name[0] == '.')
			continue;
		snprintf(path, sizeof(path), "%s/%s/%s", corpus, target->name, entry->d_name);
		n += feed_file(target, path);
	}
	closedir(folder);
	return n;
}

int
main(int argc, char **argv)
{
	int			number = 0;
	int			failed = 0;

	if (argc == 2 && strcmp(argv[1], "--list") == 0)
	{
		for (const FuzzTarget *t = fuzz_targets; t->name != NULL; t++)
			puts(t->name);
		return 0;
	}
	if (argc != 2)
	{
		fprintf(stderr, "usage: replay FOLDER | --list\n");
		return 2;
	}
	fuzz_begin();
	for (const FuzzTarget *t = fuzz_targets; t->name != NULL; t++)
	{
		size_t		n = feed_folder(t, argv[1]);

		failed += (n == 0);
		printf("%s %d - %s: %zu inputs\n", n > 0 ? "ok" : "not ok", ++number, t->name, n);
		fflush(stdout);
	}
	printf("1..%d\n", number);
	return failed > 0;
}
