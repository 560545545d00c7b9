/* The same as search.cpp in C, with fewer options:  search_c photos.flat KEY */

#include <bitgaze/bitgaze.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { kHits = 10 };

int main(int count, char** arguments) {
  bitgaze_gallery* gallery = NULL;
  uint64_t slot = 0;
  if (count != 3) {
    fprintf(stderr, "usage: search_c FILE KEY\n");
    return 2;
  }
  if (bitgaze_open(arguments[1], &gallery) != BITGAZE_OK ||
      bitgaze_find(gallery, arguments[2], strlen(arguments[2]), &slot) != BITGAZE_OK) {
    fprintf(stderr, "%s\n", bitgaze_error());
    bitgaze_close(gallery);
    return 1;
  }

  const uint32_t views = bitgaze_views(gallery);
  uint8_t* const query = malloc((size_t)views * bitgaze_bits(gallery) / 8);
  bitgaze_options options = bitgaze_default_options();
  options.k = kHits;
  options.exclude = (int64_t)slot;
  bitgaze_hit hits[kHits];
  uint64_t found = 0;
  bitgaze_status status = query == NULL ? BITGAZE_FAILED : bitgaze_codes(gallery, slot, query);
  if (status == BITGAZE_OK) {
    status = bitgaze_search(gallery, query, views, &options, hits, &found);
  }
  for (uint64_t i = 0; status == BITGAZE_OK && i < found; ++i) {
    const char* key;
    size_t bytes;
    status = bitgaze_key(gallery, hits[i].slot, &key, &bytes);
    if (status == BITGAZE_OK) {
      printf("%lu\t%.17g\t%.*s\n", (unsigned long)hits[i].slot, hits[i].distance, (int)bytes, key);
    }
  }
  if (status != BITGAZE_OK) fprintf(stderr, "%s\n", bitgaze_error());
  free(query);
  bitgaze_close(gallery);
  return status == BITGAZE_OK ? 0 : 1;
}
