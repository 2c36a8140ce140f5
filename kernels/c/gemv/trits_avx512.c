// GEMV for ternary weights with AVX-512 BW: a line, four triples for 32 rows, in a register. Needs: BITS, TRITS,
// PRECISION, STREAMS, PREFETCH and SCALES_PREFETCH, which the generator defines. Gives: gemv (gemv/walk.h).
#include "gemv/rows_avx512.h"
#include "gemv/walk.h"
#include "weights/trits.h"

#ifndef PREFETCH
#error "gemv/trits_avx512.c: define PREFETCH, in bytes ahead, before it"
#endif

// Byte 16l+r: the sign bit of triple l, rows 16h...
TMAC_INLINE bytes sign_bits(int h) {
    return _mm512_sllv_epi32(_mm512_set1_epi8(1),
                             _mm512_setr_epi32(7 - h, 7 - h, 7 - h, 7 - h, 5 - h, 5 - h, 5 - h, 5 - h, 3 - h, 3 - h,
                                               3 - h, 3 - h, 1 - h, 1 - h, 1 - h, 1 - h));
}

// What the triples of a line look up for rows 16h.. in the tables at `entries`.
TMAC_INLINE bytes look_up_half(bytes codes, bytes units, const uint8_t * entries, int h) {
    const bytes index = bits_and(h ? shift_right(codes, 4) : codes, broadcast_word(0x0F0F));
    const bytes found = look_up(load_bytes(entries), index);
    return _mm512_mask_sub_epi8(found, _mm512_test_epi8_mask(units, sign_bits(h)), broadcast_word(0), found);
}

// Adds neighbouring bytes a and b of the same row, times the bytes of `weights`.
TMAC_INLINE void add_pairs(bytes sums[2], bytes weights, bytes a, bytes b) {
    sums[0] = add_words(sums[0], multiply_pairs(weights, interleave_low(a, b)));
    sums[1] = add_words(sums[1], multiply_pairs(weights, interleave_high(a, b)));
    make_now(&sums[0]);
    make_now(&sums[1]);
}
_Static_assert(SUM_LINES * 2 * TOP_ENTRY < 32768, "the 16-bit sums of two lanes would overflow");

// Adds what two lines of a block look up, or one, times the bytes of `weights`: rows 8i.. of each lane's triples to
// sums[i].
TMAC_INLINE void look_up_lines(const int count, const uint8_t * block, int line, const uint8_t * entries, bytes weights,
                               bytes sums[4]) {
    bytes codes[2], units[2];
    for (int i = 0; i < count; i++) {
        codes[i] = load_bytes(block + (line + i) * LINE);
        units[i] = broadcast_16(block + SIGNS + (line + i) * UNIT);
    }
    entries += line * LINE_ENTRIES;
#pragma GCC unroll 2
    for (int h = 0; h < 2; h++) {
        if (!IS_EXACT) {
            const bytes first = look_up_half(codes[0], units[0], entries, h);
            const bytes second =
                count > 1 ? look_up_half(codes[1], units[1], entries + LINE_ENTRIES, h) : broadcast_word(0);
            add_pairs(sums + 2 * h, weights, first, second);
            continue;
        }
#pragma GCC unroll 2
        for (int i = 0; i < count; i++) {
            const uint8_t * low = entries + i * LINE_ENTRIES;
            add_pairs(sums + 2 * h, weights, look_up_half(codes[i], units[i], low, h),
                      look_up_half(codes[i], units[i], low + LINE, h));
        }
    }
}

// Of neighbouring bytes, which are two lines, or the parts of exact entries.
TMAC_INLINE bytes weights_of_lines(const struct tmac_activations * x, int64_t table_group, int even, int odd) {
    const uint32_t weights[2] = { steps_of_line(x, table_group, even),
                                  IS_EXACT ? weight_of_part(steps_of_line(x, table_group, odd), 1)
                                           : steps_of_line(x, table_group, odd) };
    return broadcast_word((int) (weights[0] & 0x00FF) | (int) (weights[1] & 0xFF00));
}

TMAC_INLINE void add_piece(const int streams, const uint8_t ** lines, const struct tmac_activations * x, int64_t first,
                           int count, floats part[][REGISTERS]) {
    const uint8_t * entries = entries_of_block(x, first);
    bytes total[STREAMS][2];
    for (int s = 0; s < streams; s++) {
        total[s][0] = total[s][1] = broadcast_word(0);
    }
#pragma GCC unroll 3
    for (int i = 0; i < SUMS_OF_BLOCK; i++) {
        for (int s = 0; s < streams; s++) {
            bytes sums[4] = { broadcast_word(0), broadcast_word(0), broadcast_word(0), broadcast_word(0) };
            prefetch(lines[s] + SIGNS + i * LINE + PREFETCH);
#pragma GCC unroll 2
            for (int j = 0; j < lines_of_sum(i); j += 2) {
                const int line = i * SUM_LINES + j;
                prefetch(lines[s] + line * LINE + PREFETCH);
                prefetch(lines[s] + line * LINE + LINE + PREFETCH);
                if (j + 1 < lines_of_sum(i)) {
                    look_up_lines(2, lines[s], line, entries, weights_of_lines(x, first, line, line + 1), sums);
                } else {
                    look_up_lines(1, lines[s], line, entries, weights_of_lines(x, first, line, line), sums);
                }
            }
            const struct rows rows = sum_of_lanes(1, sums);
            for (int h = 0; h < 2; h++) {
                total[s][h] = _mm512_add_epi32(total[s][h], rows.half[h]);
            }
        }
    }
    const floats scale = broadcast(x->scale[first / BLOCK_GROUPS]);
    for (int s = 0; s < streams; s++) {
        lines[s] += BLOCK_BYTES;
        for (int h = 0; h < 2; h++) {
            part[s][h] = multiply_add(floats_of_ints(total[s][h]), scale, part[s][h]);
        }
    }
    (void) count;
}
