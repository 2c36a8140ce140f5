// How the tiles of a matrix are handed out to threads.
#include "tmac.h"

// A share of fewer tiles is handed out whole: pieces of it would be all beginnings.
enum { LEAST_SHARED = 8 };

static int64_t at_most(int64_t most, int64_t value) { return value < most ? value : most; }

struct tmac_tiles tmac_chunk(int64_t tiles, int threads, int index) {
    const int64_t share = tiles / threads;
    struct tmac_tiles chunk = { tiles, tiles };
    if (threads == 1 || share < LEAST_SHARED) {
        if (index < threads) {
            chunk.first = tiles * index / threads;
            chunk.last = tiles * (index + 1) / threads;
        }
        return chunk;
    }
    const int64_t large = share / 2, small = (share + 3) / 4;
    chunk.first = at_most(tiles, index < threads ? large * index : large * threads + small * (index - threads));
    chunk.last = at_most(tiles, chunk.first + (index < threads ? large : small));
    return chunk;
}
