// Look-ups by byte shuffles whose 128-bit lanes each hold the table of one quad: of the GEMV kernels for AVX2 and
// AVX-512 BW. Two planes use the same tables: with their bytes interleaved, one multiply-add of neighbours weighs both,
// adds them and widens to 16 bits.
//
// Needs: isa/avx2.h or isa/avx512.h before it. Gives: sums_of_group, words_of_rows.
#pragma once

#include "weights/lookup.h"

#ifndef BYTES
#error "gemv/shuffle.h: include isa/avx2.h or isa/avx512.h before it"
#endif

enum { LANES = BYTES / 16, PARTS = LINE / BYTES, LOADS = CHUNKS * PARTS };

// Of one table group, rows 8i..8i+7 for each lane's quads: what the low and (exact) the high bytes of the tables add up
// to, within 16 signed bits for both together. A lane starts at its share of -BIAS.
struct sums {
    bytes low[4], high[4];
};
_Static_assert(TOP_CODE *(QUADS / LANES) * (IS_EXACT ? 512 : 128) < 32768, "the 16-bit sums would overflow");

// Rows 8i.. of each lane's quads.
TMAC_INLINE bytes words_of_rows(const struct sums * sums, int i) {
    return IS_EXACT ? add_words(sums->low[i], shift_left(sums->high[i], 8)) : sums->low[i];
}

TMAC_INLINE struct sums start_sums(void) {
    struct sums sums;
    for (int i = 0; i < 4; i++) {
        sums.low[i] = broadcast_word(-BIAS / LANES);
        sums.high[i] = broadcast_word(0);
    }
    return sums;
}

// Load number i of a plane of a table group, and of its tables.
TMAC_INLINE bytes load_codes(const uint8_t * plane, int i) {
    return load_bytes(plane + i / PARTS * BITS * LINE + i % PARTS * BYTES);
}

TMAC_INLINE bytes load_tables(const uint8_t * entries, int i) {
    return load_bytes(entries + i / PARTS * CHUNK_ENTRIES + i % PARTS * BYTES);
}

// The indices of rows 0..15 (half 0) or 16..31 (half 1).
TMAC_INLINE bytes indices(bytes codes, int half) {
    return bits_and(half ? shift_right(codes, 4) : codes, broadcast_word(0x0F0F));
}

// 16-bit factors for neighbouring bytes. An average of four counts four times; of two lanes both of which hold it,
// twice.
TMAC_INLINE bytes weights(int even, int odd) {
    const int count = !IS_FAST ? 1 : PARTS == 1 ? 2 : 4;
    return broadcast_word(count * (even | odd << 8));
}

TMAC_INLINE void add_now(bytes * sum, bytes words) {
    *sum = add_words(*sum, words);
    make_now(sum);
}

// Of exact tables the low bytes are unsigned; all other entries are signed. Weights are neither.
TMAC_INLINE void add_low(struct sums * sums, int i, bytes low, bytes weights) {
    add_now(&sums->low[i], IS_EXACT ? multiply_pairs(low, weights) : multiply_pairs(weights, low));
}

TMAC_INLINE void add_high(struct sums * sums, int i, bytes high, bytes weights) {
    add_now(&sums->high[i], multiply_pairs(weights, high));
}

// In the first `loads` of LOADS.
TMAC_INLINE void look_up_two_planes(const int loads, const uint8_t * plane, const uint8_t * entries, bytes weights,
                                    struct sums * sums) {
#pragma GCC unroll 2
    for (int j = 0; j < 2; j++) {
#pragma GCC unroll 4
        for (int i = 0; i < loads; i++) {
            const bytes codes[2] = { load_codes(plane, i), load_codes(plane + LINE, i) };
            const bytes rows = j ? interleave_high(codes[0], codes[1]) : interleave_low(codes[0], codes[1]);
#pragma GCC unroll 2
            for (int half = 0; half < 2; half++) {
                const bytes index = indices(rows, half);
                add_low(sums, 2 * half + j, look_up(load_tables(entries, i), index), weights);
                if (IS_EXACT) {
                    add_high(sums, 2 * half + j, look_up(load_tables(entries + 64, i), index), weights);
                }
            }
        }
    }
}

// One plane alone: what two chunks look up is interleaved.
TMAC_INLINE void look_up_plane(const uint8_t * plane, const uint8_t * entries, bytes weights, struct sums * sums) {
#pragma GCC unroll 2
    for (int i = 0; i < PARTS; i++) {
        const bytes codes[2] = { load_codes(plane, i), load_codes(plane, i + PARTS) };
#pragma GCC unroll 2
        for (int half = 0; half < 2; half++) {
            const bytes index[2] = { indices(codes[0], half), indices(codes[1], half) };
            const bytes low[2] = { look_up(load_tables(entries, i), index[0]),
                                   look_up(load_tables(entries, i + PARTS), index[1]) };
            add_low(sums, 2 * half, interleave_low(low[0], low[1]), weights);
            add_low(sums, 2 * half + 1, interleave_high(low[0], low[1]), weights);
            if (IS_EXACT) {
                const bytes high[2] = { look_up(load_tables(entries + 64, i), index[0]),
                                        look_up(load_tables(entries + 64, i + PARTS), index[1]) };
                add_high(sums, 2 * half, interleave_low(high[0], high[1]), weights);
                add_high(sums, 2 * half + 1, interleave_high(high[0], high[1]), weights);
            }
        }
    }
}

// Rounding averages of the quads j, j+4 and of those, j, j+2. The instruction averages
// unsigned bytes, so 128 is added before and taken off after.
TMAC_INLINE bytes average_look_ups(const uint8_t * entries, const bytes codes[LOADS], int half) {
    bytes found[LOADS];
    for (int i = 0; i < LOADS; i++) {
        found[i] = look_up(bits_xor(load_tables(entries, i), broadcast_word(0x8080)), indices(codes[i], half));
    }
    for (int i = 0; i < PARTS; i++) {
        found[i] = average(found[i], found[i + PARTS]);
    }
    return bits_xor(average(found[0], PARTS == 1 ? swap_halves(found[0]) : found[1]), broadcast_word(0x8080));
}

TMAC_INLINE void average_two_planes(const uint8_t * plane, const uint8_t * entries, bytes weights, struct sums * sums) {
    bytes rows[2][LOADS];
    for (int i = 0; i < LOADS; i++) {
        rows[0][i] = interleave_low(load_codes(plane, i), load_codes(plane + LINE, i));
        rows[1][i] = interleave_high(load_codes(plane, i), load_codes(plane + LINE, i));
    }
    for (int j = 0; j < 4; j++) {
        add_low(sums, j, average_look_ups(entries, rows[j % 2], j / 2), weights);
    }
}

TMAC_INLINE void average_plane(const uint8_t * plane, const uint8_t * entries, bytes weights, struct sums * sums) {
    bytes codes[LOADS];
    for (int i = 0; i < LOADS; i++) {
        codes[i] = load_codes(plane, i);
    }
    for (int half = 0; half < 2; half++) {
        const bytes found = average_look_ups(entries, codes, half);
        add_low(sums, 2 * half, interleave_low(found, broadcast_word(0)), weights);
        add_low(sums, 2 * half + 1, interleave_high(found, broadcast_word(0)), weights);
    }
}

// One plane of one chunk alone.
TMAC_INLINE void look_up_plane_of_chunk(const uint8_t * plane, const uint8_t * entries, bytes weights,
                                        struct sums * sums) {
#pragma GCC unroll 2
    for (int i = 0; i < PARTS; i++) {
        const bytes codes = load_codes(plane, i), tables = load_tables(entries, i);
#pragma GCC unroll 2
        for (int half = 0; half < 2; half++) {
            const bytes found = look_up(tables, indices(codes, half));
            add_low(sums, 2 * half, interleave_low(found, broadcast_word(0)), weights);
            add_low(sums, 2 * half + 1, interleave_high(found, broadcast_word(0)), weights);
        }
    }
}

TMAC_INLINE struct sums sums_of_chunk(const uint8_t * lines, const uint8_t * entries) {
    struct sums sums = start_sums();
#pragma GCC unroll 3
    for (int b = 0; b + 1 < BITS; b += 2) {
        look_up_two_planes(PARTS, lines + b * LINE, entries, weights(1 << b, 2 << b), &sums);
    }
    if (BITS % 2) {
        look_up_plane_of_chunk(lines + (BITS - 1) * LINE, entries, weights(1 << (BITS - 1), 0), &sums);
    }
    return sums;
}

TMAC_INLINE struct sums sums_of_group(const uint8_t * lines, const uint8_t * entries) {
    struct sums sums = start_sums();
#pragma GCC unroll 3
    for (int b = 0; b + 1 < BITS; b += 2) {
        const bytes of_planes = weights(1 << b, 2 << b);
        if (IS_FAST) {
            average_two_planes(lines + b * LINE, entries, of_planes, &sums);
        } else {
            look_up_two_planes(LOADS, lines + b * LINE, entries, of_planes, &sums);
        }
    }
    if (BITS % 2) {
        const uint8_t * plane = lines + (BITS - 1) * LINE;
        if (IS_FAST) {
            average_plane(plane, entries, weights(1 << (BITS - 1), 0), &sums);
        } else {
            look_up_plane(plane, entries, weights(1 << (BITS - 1), 1 << (BITS - 1)), &sums);
        }
    }
    return sums;
}
