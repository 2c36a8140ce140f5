// Repacks llama.cpp's own types, in plain C.
#include "repack/tile.h"

TMAC_INLINE void masks_of(const uint8_t * codes, int cols, int bits, uint16_t * masks, int stride) {
    for (int chunk = 0; chunk < cols / TMAC_CHUNK_COLS; chunk++) {
        uint64_t low, high;
        memcpy(&low, codes + TMAC_CHUNK_COLS * chunk, 8);
        memcpy(&high, codes + TMAC_CHUNK_COLS * chunk + 8, 8);
        for (int plane = 0; plane < bits; plane++) {
            // The product brings bit 0 of byte i to bit 56 + i.
            const uint64_t ones = 0x0101010101010101, gather = 0x0102040810204080;
            const uint64_t first = (low >> plane & ones) * gather >> 56, second = (high >> plane & ones) * gather >> 56;
            masks[(plane * STEP_CHUNKS + chunk) * stride] = (uint16_t) (first | second << 8);
        }
    }
}

// Bytes 0, 2, 4 and 6 of x.
TMAC_INLINE uint32_t even_bytes(uint64_t x) {
    x &= 0x00FF00FF00FF00FF;
    x = (x | x >> 8) & 0x0000FFFF0000FFFF;
    return (uint32_t) (x | x >> 16);
}

TMAC_INLINE void put_line(const uint16_t * masks, uint8_t * line) {
    const uint64_t nibbles = 0x0F0F0F0F0F0F0F0F;
    for (int r = 0; r < 16; r += 4) {
        uint64_t low, high;
        memcpy(&low, masks + r, 8);
        memcpy(&high, masks + 16 + r, 8);
        // Of each row, quads 0 and 2, and quads 1 and 3.
        const uint64_t even = (low & nibbles) | (high & nibbles) << 4, odd = (low >> 4 & nibbles) | (high & ~nibbles);
        const uint32_t quads[] = { even_bytes(even), even_bytes(odd), even_bytes(even >> 8), even_bytes(odd >> 8) };
        for (int quad = 0; quad < 4; quad++) {
            memcpy(line + 16 * quad + r, &quads[quad], 4);
        }
    }
}

#include "repack/walk.h"
