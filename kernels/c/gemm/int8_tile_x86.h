// What int8_x86.h does with the codes of a range: the integer sums of some tokens and of ROWS rows, which are in
// registers, become floats where a scale of the activations ends, and results where a weight group does.
//
// Needs: gemm/int8_x86.h around it: its numbers, `struct tile_codes`, `struct packed_columns`. Gives: multiply_any.
#pragma once

// Without dot products, sums have 16 bits, each of half the columns, and become sums of 32 bits: of few bits when they
// become floats, of more after these quads.
enum { NARROW_QUADS = BITS < 5 ? QUADS : BITS == 5 ? 4 : 2 };
_Static_assert(TOP_CODE * 128 * 2 * NARROW_QUADS < 32768, "the 16-bit sums would overflow");
#ifdef HAS_DOT_PRODUCTS
enum { HAS_NARROW_SUMS = 0 };
#else
enum { HAS_NARROW_SUMS = (int) NARROW_QUADS < (int) QUADS };
#endif

// Adds four products to each row's sum; without dot products to two sums of 16 bits.
TMAC_INLINE void add_products(bytes * sum, bytes codes, bytes values) {
#ifdef HAS_DOT_PRODUCTS
    add_dot_products_to(sum, codes, values);
#else
    *sum = add_words(*sum, multiply_pairs(codes, values));
    make_now(sum);
#endif
}

// What the sums of products start with.
TMAC_INLINE bytes no_products(void) {
#ifdef PRODUCTS_ORIGIN
    return broadcast_int(PRODUCTS_ORIGIN);
#else
    return broadcast_word(0);
#endif
}

TMAC_INLINE bytes widened(bytes sum) { return multiply_words(sum, broadcast_word(1)); }

TMAC_INLINE floats floats_of_products(bytes sum) {
#ifdef PRODUCTS_ORIGIN
    return floats_of_products_from_origin(sum);
#elif defined(HAS_DOT_PRODUCTS)
    return floats_of_ints(sum);
#else
    return floats_of_ints(HAS_NARROW_SUMS ? sum : widened(sum));
#endif
}

// Adds the integer sum of products times a scale.
TMAC_INLINE void add_scaled_products(floats * to, bytes sum, const float * scale) {
#if defined(HAS_ADD_SCALED_INTS) && defined(HAS_DOT_PRODUCTS)
    add_scaled_ints(to, sum, scale);
#else
    *to = multiply_add(floats_of_products(sum), broadcast(*scale), *to);
#endif
}

// Table groups whose integer sums become floats at once: those of a scale. One scale of a token (exact) holds for a
// whole weight group, and sums of 32 bits have room for it.
#ifdef HAS_DOT_PRODUCTS
enum { RUNS_ON = IS_EXACT };
#else
enum { RUNS_ON = 0 };
#endif
_Static_assert(TOP_CODE * 128 * RANGE_COLUMNS < 1 << 22, "more than PRODUCTS_ORIGIN takes");

// What some tokens and the rows of a pass multiply.
struct pass {
    int group, grid, first_row;
    const struct range * range;
    const struct tile_factors * factors;
    struct packed_columns x;
    const struct group_sum (*group_sums)[BLOCK_TOKENS]; // [weight group of the range][token]
    float (*out)[UNIT_ROWS];
    const uint8_t * next; // of the weights of the next range: `lines` lines to prefetch, so many with a table group
    int lines, lines_per_group;
};

// With table group i of a pass.
TMAC_INLINE void prefetch_next(const struct pass * pass, int i) {
    const int first = i * pass->lines_per_group;
    for (int l = first; l < first + pass->lines_per_group && l < pass->lines; l++) {
        prefetch(pass->next + l * LINE);
    }
}

// What the sums of a weight group start with.
TMAC_INLINE void begin_group(const int tokens, const int group, const struct pass * pass, int g,
                             floats part[TOKENS_AT_ONCE][VECTORS]) {
#pragma GCC unroll 7
    for (int t = 0; t < tokens; t++) {
        for (int v = 0; v < VECTORS; v++) {
            part[t][v] = group ? broadcast(pass->group_sums[g][t].start) : load_floats(pass->out[t] + v * FLOATS);
        }
    }
}

TMAC_INLINE void end_group(const int tokens, const int group, const int grid, const struct pass * pass, int g,
                           const floats part[TOKENS_AT_ONCE][VECTORS]) {
    const struct group_sum * sums = pass->group_sums[g];
    float (*out)[UNIT_ROWS] = pass->out;
    struct factors factors[VECTORS];
    for (int v = 0; v < VECTORS; v++) {
        factors[v] = factors_of_row(pass->factors, g, pass->first_row + v * FLOATS);
    }
#pragma GCC unroll 7
    for (int t = 0; t < tokens; t++) {
        const float per_offset = grid ? sums[t].per_offset : 0;
        for (int v = 0; v < VECTORS; v++) {
            float * to = out[t] + v * FLOATS;
            store_floats(to, finish_group(group, grid, factors[v], per_offset, part[t][v], load_floats(to)));
        }
    }
}

// Adds the products of so many quads.
TMAC_INLINE void add_quads(const int tokens, const int quads, const uint8_t * values, const uint8_t * codes,
                           bytes sums[TOKENS_AT_ONCE][VECTORS]) {
#pragma GCC unroll 8
    for (int q = 0; q < quads; q++) {
        const bytes rows[VECTORS] = { load_bytes(codes + q * QUAD_CODES), load_bytes(codes + q * QUAD_CODES + BYTES) };
#pragma GCC unroll 7
        for (int t = 0; t < tokens; t++) {
            const bytes quad = broadcast_4(values + t * TMAC_TABLE_GROUP + 4 * q);
            add_products(&sums[t][0], rows[0], quad);
            add_products(&sums[t][1], rows[1], quad);
        }
    }
}

// The integer sums of so many quads.
TMAC_INLINE void add_columns(const int tokens, const int quads, const uint8_t * values, const uint8_t * codes,
                             bytes sums[TOKENS_AT_ONCE][VECTORS]) {
    if (!HAS_NARROW_SUMS) {
        add_quads(tokens, quads, values, codes, sums);
        return;
    }
#pragma GCC unroll 4
    for (int q = 0; q < quads; q += NARROW_QUADS) {
        bytes narrow[TOKENS_AT_ONCE][VECTORS];
#pragma GCC unroll 7
        for (int t = 0; t < tokens; t++) {
            narrow[t][0] = narrow[t][1] = broadcast_word(0);
        }
        add_quads(tokens, NARROW_QUADS, values + 4 * q, codes + q * QUAD_CODES, narrow);
#pragma GCC unroll 7
        for (int t = 0; t < tokens; t++) {
            for (int v = 0; v < VECTORS; v++) {
                sums[t][v] = add_ints(sums[t][v], widened(narrow[t][v]));
            }
        }
    }
}

TMAC_INLINE void multiply(const int tokens, const struct pass * pass, const uint8_t * codes) {
    const int count = pass->range->count, per_group = groups_of_sum(pass->group, count);
    const int at_once = RUNS_ON ? per_group : 1;
    const uint8_t * values = pass->x.values;
    const float * scales = pass->x.scales;
    for (int g = 0; g * per_group < count; g++) {
        floats part[TOKENS_AT_ONCE][VECTORS];
        if (pass->group) {
            begin_group(tokens, 1, pass, g, part);
        } else {
            begin_group(tokens, 0, pass, g, part);
        }
        for (int j = 0; j < per_group; j += at_once) {
            bytes sums[TOKENS_AT_ONCE][VECTORS];
#pragma GCC unroll 7
            for (int t = 0; t < tokens; t++) {
                sums[t][0] = sums[t][1] = no_products();
            }
            for (int i = 0; i < at_once; i++, codes += QUADS * QUAD_CODES, values += tokens * TMAC_TABLE_GROUP) {
                prefetch_next(pass, g * per_group + j + i);
                add_columns(tokens, QUADS, values, codes, sums);
            }
#pragma GCC unroll 7
            for (int t = 0; t < tokens; t++) {
                for (int v = 0; v < VECTORS; v++) {
                    add_scaled_products(&part[t][v], sums[t][v], scales + t);
                }
            }
            scales += at_once * tokens;
        }
        if (!pass->group) {
            end_group(tokens, 0, 0, pass, g, part);
        } else if (pass->grid == TMAC_GRID_MINIMA) {
            end_group(tokens, 1, TMAC_GRID_MINIMA, pass, g, part);
        } else if (pass->grid == TMAC_GRID_ZEROS) {
            end_group(tokens, 1, TMAC_GRID_ZEROS, pass, g, part);
        } else {
            end_group(tokens, 1, 0, pass, g, part);
        }
    }
}

// Whether the results of so many tokens are in registers beside their sums.
TMAC_INLINE int keeps_results(int tokens) { return FLOATS == 16 || tokens <= 2; }

// The same with groups of at most a table group: `quads` quads of columns.
TMAC_INLINE void multiply_small(const int tokens, const int quads, const int grid, const struct pass * pass,
                                const uint8_t * codes) {
    const int per_table_group = QUADS / quads, count = pass->range->count * per_table_group;
    const struct packed_columns x = pass->x;
    const struct group_sum(*group_sums)[BLOCK_TOKENS] = pass->group_sums;
    float (*out)[UNIT_ROWS] = pass->out;
    floats kept[TOKENS_AT_ONCE][VECTORS];
#pragma GCC unroll 7
    for (int t = 0; t < tokens; t++) {
        for (int v = 0; v < VECTORS && keeps_results(tokens); v++) {
            kept[t][v] = load_floats(out[t] + v * FLOATS);
        }
    }
    for (int g = 0; g < count; g++, codes += quads * QUAD_CODES) {
        const unsigned halves = (unsigned) per_table_group;
        const int at = (int) ((unsigned) g / halves) * tokens;
        const uint8_t * values = x.values + at * TMAC_TABLE_GROUP + (unsigned) g % halves * quads * 4;
        bytes sums[TOKENS_AT_ONCE][VECTORS];
#pragma GCC unroll 7
        for (int t = 0; t < tokens; t++) {
            sums[t][0] = sums[t][1] = no_products();
        }
        if ((unsigned) g % halves == 0) {
            prefetch_next(pass, (int) ((unsigned) g / halves));
        }
        add_columns(tokens, quads, values, codes, sums);
        struct factors factors[VECTORS];
        for (int v = 0; v < VECTORS; v++) {
            factors[v] = factors_of_row(pass->factors, g, pass->first_row + v * FLOATS);
        }
#pragma GCC unroll 7
        for (int t = 0; t < tokens; t++) {
            const struct group_sum sum_x = group_sums[g][t];
            for (int v = 0; v < VECTORS; v++) {
                float * to = out[t] + v * FLOATS;
                floats part = broadcast(sum_x.start);
                add_scaled_products(&part, sums[t][v], x.scales + at + t);
                const floats before = keeps_results(tokens) ? kept[t][v] : load_floats(to);
                const floats after = finish_group(1, grid, factors[v], sum_x.per_offset, part, before);
                if (keeps_results(tokens)) {
                    kept[t][v] = after;
                } else {
                    store_floats(to, after);
                }
            }
        }
    }
#pragma GCC unroll 7
    for (int t = 0; t < tokens; t++) {
        for (int v = 0; v < VECTORS && keeps_results(tokens); v++) {
            store_floats(out[t] + v * FLOATS, kept[t][v]);
        }
    }
}

TMAC_INLINE void multiply_small_groups(const int tokens, const int quads, const struct pass * pass,
                                       const uint8_t * codes) {
    if (pass->grid == TMAC_GRID_MINIMA) {
        multiply_small(tokens, quads, TMAC_GRID_MINIMA, pass, codes);
    } else if (pass->grid == TMAC_GRID_ZEROS) {
        multiply_small(tokens, quads, TMAC_GRID_ZEROS, pass, codes);
    } else {
        multiply_small(tokens, quads, 0, pass, codes);
    }
}

TMAC_INLINE void multiply_any(const int tokens, const struct pass * pass, const uint8_t * codes) {
    if (HAS_HALVES && pass->group == HALF_GROUP) {
        multiply_small_groups(tokens, QUADS / 2, pass, codes);
    } else if (pass->group == TMAC_TABLE_GROUP) {
        multiply_small_groups(tokens, QUADS, pass, codes);
    } else {
        multiply(tokens, pass, codes);
    }
}
