// The peaks of an instruction set: multiply-adds a second of one thread with operands in first-level cache and sums in
// registers, as many sums as the register file holds. Sums are changed in place by the vocabulary's inline assembly, so
// that no compiler copies or spills them (tests/kernels/test_peaks.py reads the assembly).
//
// Needs: an instruction set's vocabulary (isa/) before it; INT8_PEAK, the name of the function that it gives, and
// LOOK_UP_PEAK, that of another one, where the instruction set looks up.
#include "timing.h"

// Tables and indices need more registers than broadcasts and codes.
enum { TOKENS = BYTES == 64 ? 5 : 6, LOOK_UP_TOKENS = BYTES == 64 ? 5 : 4 };
enum { VECTORS = BYTES == 64 ? 4 : 2, STEPS = 32 };

#define PEAK_BEGIN() __asm__ volatile("# peak begin" ::: "memory")
#define PEAK_END() __asm__ volatile("# peak end" ::: "memory")

struct operands {
    uint8_t weights[STEPS][VECTORS][BYTES]; // codes or indices
    uint8_t activations[STEPS][TOKENS][64]; // four values, or a table
    uint8_t scales[STEPS][TOKENS][4];
};

static void fill(struct operands * operands) {
    uint8_t * bytes_of = (uint8_t *) operands;
    for (size_t i = 0; i < sizeof *operands; i++) {
        bytes_of[i] = (uint8_t) (i * 37 % 16);
    }
}

TMAC_INLINE void keep(const int tokens, bytes sums[][VECTORS]) {
    bytes all = broadcast_word(0);
#pragma GCC unroll 6
    for (int t = 0; t < tokens; t++) {
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; v++) {
            all = add_ints(all, sums[t][v]);
        }
    }
    __asm__ volatile("" ::"m"(all)); // keeps the sums from being optimized away
}

#define ZERO(sums, tokens)                                                                                             \
    bytes sums[tokens][VECTORS];                                                                                       \
    _Pragma("GCC unroll 6") for (int t = 0; t < tokens; t++) {                                                         \
        _Pragma("GCC unroll 4") for (int v = 0; v < VECTORS; v++) { sums[t][v] = broadcast_word(0); }                  \
    }

double INT8_PEAK(int repeats);

// Of codes by int8 activations.
double INT8_PEAK(int repeats) {
    static struct operands operands __attribute__((aligned(64)));
    fill(&operands);
    ZERO(sums, TOKENS)
    const double begin = seconds();
    for (int r = 0; r < repeats; r++) {
        for (int s = 0; s < STEPS; s++) {
            PEAK_BEGIN();
            bytes rows[VECTORS];
#pragma GCC unroll 4
            for (int v = 0; v < VECTORS; v++) {
                rows[v] = load_bytes(operands.weights[s][v]);
            }
#pragma GCC unroll 6
            for (int t = 0; t < TOKENS; t++) {
                const bytes quad = broadcast_4(operands.activations[s][t]);
#pragma GCC unroll 4
                for (int v = 0; v < VECTORS; v++) {
#ifdef HAS_DOT_PRODUCTS
                    add_dot_products_to(&sums[t][v], rows[v], quad);
#else
                    add_pairs_to(&sums[t][v], rows[v], quad);
#endif
                }
            }
            PEAK_END();
        }
    }
    const double taken = seconds() - begin;
    keep(TOKENS, sums);
    return (double) BYTES * VECTORS * TOKENS * STEPS * repeats / taken;
}

#ifdef LOOK_UP_PEAK
double LOOK_UP_PEAK(int repeats);

// Of one-bit weights: a byte of a lookup stands for four.
double LOOK_UP_PEAK(int repeats) {
    static struct operands operands __attribute__((aligned(64)));
    fill(&operands);
    ZERO(sums, LOOK_UP_TOKENS)
    const double begin = seconds();
    for (int r = 0; r < repeats; r++) {
        for (int s = 0; s < STEPS; s++) {
            PEAK_BEGIN();
#ifdef HAS_LOOK_UPS_OF_64
            bytes index[VECTORS];
#pragma GCC unroll 4
            for (int v = 0; v < VECTORS; v++) {
                index[v] = load_bytes(operands.weights[s][v]);
            }
#endif
#pragma GCC unroll 6
            for (int t = 0; t < LOOK_UP_TOKENS; t++) {
#ifdef HAS_LOOK_UPS_OF_64
                const bytes table = load_bytes(operands.activations[s][t]), weight = broadcast_4(operands.scales[s][t]);
                for (int v = 0; v < VECTORS; v += 2) {
                    add_look_ups_of_64(&sums[t][v], weight, table, &index[v]);
                }
#else
                const bytes table = broadcast_16(operands.activations[s][t]);
#pragma GCC unroll 4
                for (int v = 0; v < VECTORS; v++) {
                    add_look_ups_to(&sums[t][v], broadcast_word(0x0201), table, load_bytes(operands.weights[s][v]));
                }
#endif
            }
            PEAK_END();
        }
    }
    const double taken = seconds() - begin;
    keep(LOOK_UP_TOKENS, sums);
    return 4.0 * BYTES * VECTORS * LOOK_UP_TOKENS * STEPS * repeats / taken;
}
#endif
