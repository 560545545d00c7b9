/* Search a flat file from C, or from any language that calls C. bitgaze.hpp explains each function;
 * C++ uses that.
 *
 *   bitgaze_gallery* gallery;
 *   if (bitgaze_open("photos.flat", &gallery) != BITGAZE_OK) {
 *     fprintf(stderr, "%s\n", bitgaze_error());
 *   }
 *
 * Functions are thread-safe; bitgaze_close ends the use of a gallery. Build a shared library with
 * -DBUILD_SHARED_LIBS=ON. */
#ifndef BITGAZE_BITGAZE_H_
#define BITGAZE_BITGAZE_H_

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32) && defined(BITGAZE_SHARED)
#if defined(BITGAZE_BUILDING)
#define BITGAZE_API __declspec(dllexport)
#else
#define BITGAZE_API __declspec(dllimport)
#endif
#elif defined(_WIN32)
#define BITGAZE_API
#else
#define BITGAZE_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef enum bitgaze_status {
  BITGAZE_OK = 0,
  BITGAZE_INVALID_ARGUMENT = 1,
  BITGAZE_CANNOT_OPEN = 2, /* missing, not a flat file, or of a newer version */
  BITGAZE_DAMAGED = 3,
  BITGAZE_NOT_FOUND = 4,
  BITGAZE_FAILED = 5 /* anything else, such as too little memory */
} bitgaze_status;

/* What went wrong in the last call of this thread that did not return BITGAZE_OK. Valid until its
 * next such call. */
BITGAZE_API const char* bitgaze_error(void);

typedef struct bitgaze_gallery bitgaze_gallery;

/* path: UTF-8. */
BITGAZE_API bitgaze_status bitgaze_open(const char* path, bitgaze_gallery** gallery);
BITGAZE_API void bitgaze_close(bitgaze_gallery* gallery); /* NULL is allowed */

BITGAZE_API uint64_t bitgaze_size(const bitgaze_gallery* gallery);
BITGAZE_API uint32_t bitgaze_bits(const bitgaze_gallery* gallery);
BITGAZE_API uint32_t bitgaze_views(const bitgaze_gallery* gallery);

/* 64 hex digits and a zero; an empty string for codes of your own. */
BITGAZE_API bitgaze_status bitgaze_model(const bitgaze_gallery* gallery, char fingerprint[65]);

/* UTF-8 without a zero at its end; valid until bitgaze_close. */
BITGAZE_API bitgaze_status bitgaze_key(const bitgaze_gallery* gallery, uint64_t slot,
                                       const char** key, size_t* bytes);
BITGAZE_API bitgaze_status bitgaze_metadata(const bitgaze_gallery* gallery, uint64_t slot,
                                            const char** json, size_t* bytes);
/* BITGAZE_NOT_FOUND if no item has this key. */
BITGAZE_API bitgaze_status bitgaze_find(const bitgaze_gallery* gallery, const char* key,
                                        size_t bytes, uint64_t* slot);
/* codes: room for views * bits / 8 bytes. */
BITGAZE_API bitgaze_status bitgaze_codes(const bitgaze_gallery* gallery, uint64_t slot,
                                         uint8_t* codes);
/* box: left, top, right, bottom; 0, 0, 1, 1 for the whole image. */
BITGAZE_API bitgaze_status bitgaze_box(const bitgaze_gallery* gallery, uint64_t slot, uint32_t view,
                                       float box[4]);

/* hash: bits numbers; code: room for bits / 8 bytes. */
BITGAZE_API bitgaze_status bitgaze_code_of(const bitgaze_gallery* gallery, const float* hash,
                                           uint8_t* code);

typedef struct bitgaze_options {
  uint64_t k;            /* maximum number of hits, at least 1 */
  double radius;         /* maximum distance in bits; below 0: none */
  const uint8_t* filter; /* bit i % 8 of byte i / 8 allows slot i; NULL allows all */
  uint64_t filter_bytes;
  int64_t exclude;  /* a slot to leave out; below 0: none */
  uint32_t threads; /* maximum; 0: one per core */
} bitgaze_options;

/* 10 hits, of all items, with all cores. */
BITGAZE_API bitgaze_options bitgaze_default_options(void);

typedef struct bitgaze_hit {
  uint64_t slot;
  double distance;
} bitgaze_hit;

/* query: query_views * bits / 8 bytes. options: NULL for the default ones. hits: room for options.k
 * of them. *count: how many were found. */
BITGAZE_API bitgaze_status bitgaze_search(const bitgaze_gallery* gallery, const uint8_t* query,
                                          uint32_t query_views, const bitgaze_options* options,
                                          bitgaze_hit* hits, uint64_t* count);
/* The views of query and item that are nearest to each other. */
BITGAZE_API bitgaze_status bitgaze_match(const bitgaze_gallery* gallery, const uint8_t* query,
                                         uint32_t query_views, uint64_t slot, uint32_t* query_view,
                                         uint32_t* item_view);

/* Compares every byte with its checksum; BITGAZE_DAMAGED, with the first damage in bitgaze_error.
 */
BITGAZE_API bitgaze_status bitgaze_verify(const bitgaze_gallery* gallery);

#ifdef __cplusplus
}
#endif

#endif /* BITGAZE_BITGAZE_H_ */
