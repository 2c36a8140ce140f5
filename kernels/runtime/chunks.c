// How the tiles of a matrix are handed out to threads.
#include "tmac.h"

enum { FEWEST_TILES = 4 };

static int64_t at_least(int64_t least, int64_t value) { return value > least ? value : least; }

static int64_t at_most(int64_t most, int64_t value) { return value < most ? value : most; }

struct tmac_tiles tmac_chunk(int64_t tiles, int threads, int index) {
    int64_t first = 0, size = threads == 1 ? tiles : at_least(FEWEST_TILES, tiles / (2 * threads));
    for (; index >= threads && first < tiles; index -= threads) {
        first += threads * size;
        size = at_least(FEWEST_TILES, (tiles - first) / (2 * threads));
    }
    const struct tmac_tiles chunk = { at_most(tiles, first + index * size), at_most(tiles, first + (index + 1) * size) };
    return chunk;
}
