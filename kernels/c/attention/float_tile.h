// Many rows as floats: what attention/attend.h asks of tiles, where nothing multiplies faster than float instructions.
#pragma once

#include "attention/tile.h"

enum { PADDED_ROWS = TILE_ROWS, CHUNK_ROWS = 48 };
_Static_assert(CHUNK_ROWS % TILE_ROWS == 0, "chunks of whole tiles");

struct tile_config {
    char unused;
};

TMAC_INLINE void begin_tiles(const struct tiles * tiles, struct tile_config * before) { (void) tiles, (void) before; }
TMAC_INLINE void end_tiles(const struct tiles * tiles, const struct tile_config * before) {
    (void) tiles, (void) before;
}
TMAC_INLINE void load_block(const struct tiles * tiles, const uint8_t * keys, const uint8_t * values, int count) {
    load_block_as_floats(tiles, keys, values, count);
}
TMAC_INLINE void tile_scores(const struct tiles * tiles, int64_t first, int64_t rows) {
    float_scores(tiles, first, rows);
}
TMAC_INLINE void tile_values(const struct tiles * tiles, int64_t first, int64_t rows) {
    float_values(tiles, first, rows);
}
