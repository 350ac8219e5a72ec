// The product of tiles and activations, for any set of instructions V. Every V does the same operations in the same
// order, so all of them give the same bits, whatever the number of rows and however tiles are split over threads. That
// holds as long as the compiler makes no fused multiply-add of its own: build with -ffp-contract=off.
//
// V has 16 floats (F), 16 int32 (I) and 64 bytes (B), a row of the tile a lane of four bytes; see the levels.
#pragma once

#include "activations.h"
#include "attention.h"
#include "epilogue.h"
#include "level.h"
#include "low_rank.h"

namespace hostelry {
namespace {

constexpr int kAhead = 8192;  // bytes of codes asked for early; nearer or none: up to 1.7 times slower from memory
constexpr int64_t kChunkBytes = 512 << 10;  // of activations, so that they and a tile stay in the second-level cache

template <class V, int bits>
inline void unpack(const uint8_t *p, typename V::B (&w)[8]) {
    if constexpr (bits == 8) {
        for (int g = 0; g < 8; g++) w[g] = V::wide(p + g * 64);
    } else if constexpr (bits >= 4) {
        for (int j = 0; j < 4; j++) {
            const typename V::B both = V::bytes(p + j * 64);
            w[j] = V::template field<0, 15>(both);
            w[j + 4] = V::template field<4, 15>(both);
        }
    } else {
        for (int j = 0; j < 2; j++) {
            const typename V::B four = V::bytes(p + j * 64);
            w[j] = V::template field<0, 3>(four);
            w[j + 2] = V::template field<2, 3>(four);
            w[j + 4] = V::template field<4, 3>(four);
            w[j + 6] = V::template field<6, 3>(four);
        }
    }
    if constexpr (bits == 3) {
        for (int g = 0; g < 8; g++) w[g] = V::template add_bit<4>(w[g], p + 128 + g * 8);
    } else if constexpr (bits == 5) {
        for (int g = 0; g < 8; g++) w[g] = V::template add_bit<16>(w[g], p + 256 + g * 8);
    } else if constexpr (bits == 6) {
        for (int j = 0; j < 2; j++) {
            const typename V::B four = V::bytes(p + 256 + j * 64);
            w[j] = V::template add_pair<0>(w[j], four);
            w[j + 2] = V::template add_pair<2>(w[j + 2], four);
            w[j + 4] = V::template add_pair<4>(w[j + 4], four);
            w[j + 6] = V::template add_pair<6>(w[j + 6], four);
        }
    }
}

// Scales, and minima where there are some, of the groups of one block of 32 columns.
template <class V, int32_t format>
struct Scales {
    static constexpr Tile tile = tile_of(format);
    static constexpr int groups = tile.groups_of_block();
    typename V::F d, dmin, scale[groups], minimum[groups];

    inline const uint8_t *head(const uint8_t *p) {
        d = tile.scale_bytes == 4 ? V::load(reinterpret_cast<const float *>(p)) : V::halves(p);
        if constexpr (tile.minimum != 0) dmin = V::halves(p + kRows * tile.scale_bytes);
        return p + tile.head_bytes();
    }

    inline const uint8_t *next(const uint8_t *p) {
        for (int g = 0; g < groups; g++) {
            scale[g] = d;
            if constexpr (tile.minimum != 0) minimum[g] = dmin;
            if constexpr (tile.level_bits == 4) {  // with a minimum in the high half
                scale[g] = V::mul(d, V::template half_levels<0>(p + g * kRows));
                minimum[g] = V::mul(dmin, V::template half_levels<4>(p + g * kRows));
            } else if constexpr (tile.level_bits == 8) {
                scale[g] = V::mul(d, V::levels(p + g * kRows));
                if constexpr (tile.minimum != 0) minimum[g] = V::mul(dmin, V::levels(p + (groups + g) * kRows));
            }
        }
        return p + tile.level_bytes();
    }
};

// One block of MR rows against the unpacked weights w. All rows go on together, a few at a time: each sum of products is
// a chain, and the processor sees only so far ahead.
template <class V, int32_t format, int MR>
inline void add_block(const Scales<V, format> &now, const typename V::B (&w)[8], const PanelBlock &x,
                      typename V::F (&total)[MR]) {
    constexpr Tile tile = tile_of(format);
    constexpr int groups = tile.groups_of_block(), span = 8 / groups;
    constexpr int zero = tile.bits == 8 ? V::kWideZero : tile.zero;
    for (int g = 0; g < groups; g++) {
        typename V::I dot[MR];
        int32_t sum[MR];
#pragma GCC unroll 8
        for (int r = 0; r < MR; r++) {
            sum[r] = x.sums(r)[g];
            dot[r] = V::whole(-zero * sum[r]);
        }
#pragma GCC unroll 8
        for (int k = g * span; k < (g + 1) * span; k++) {
#pragma GCC unroll 8
            for (int r = 0; r < MR; r++) dot[r] = V::template dot<tile.bits>(dot[r], w[k], x.codes(r) + 4 * k);
        }
#pragma GCC unroll 8
        for (int r = 0; r < MR; r++) {
            const float s = x.scales(r)[g];
            total[r] = V::fma(V::to_float(dot[r]), V::mul(now.scale[g], V::splat(s)), total[r]);
            if constexpr (tile.minimum != 0) {
                const float weight = static_cast<float>(tile.minimum * sum[r]) * s;
                total[r] = V::fma(now.minimum[g], V::splat(weight), total[r]);
            }
        }
    }
}

// out[r]: 16 outputs of the panel's row r, for MR rows.
template <class V, int32_t format, int MR>
inline void multiply_tile(const uint8_t *tile_data, const Rows &rows, int64_t panel, bool is_cold,
                          float (*out)[kRows]) {
    constexpr Tile tile = tile_of(format);
    constexpr int blocks_of_super = tile.super_columns() / kBlock;
    const uint8_t *codes = tile_data, *scales = tile_data + tile.codes_of(rows.columns);
    Scales<V, format> now;
    now.d = now.dmin = V::zero();  // the first block has a head, which compilers cannot see
    typename V::F total[MR];
    for (int r = 0; r < MR; r++) total[r] = V::zero();
    PanelBlock x{rows.at(panel, 0).data, MR, tile.groups_of_block()};
    for (int64_t block = 0; block < rows.blocks(); block++) {
        if (block % blocks_of_super == 0) scales = now.head(scales);
        scales = now.next(scales);
        typename V::B w[8];
        for (int at = 0; is_cold && at < tile.code_bytes(); at += 64) __builtin_prefetch(codes + at + kAhead);
        unpack<V, tile.bits>(codes, w);
        codes += tile.code_bytes();
        add_block<V, format, MR>(now, w, x, total);
        x.data += x.bytes();
    }
    for (int r = 0; r < MR; r++) V::store(out[r], total[r]);
}

template <class V, int32_t format>
void multiply_panel(const uint8_t *tile, const Rows &rows, int64_t panel, bool is_cold, float (*out)[kRows]) {
    switch (rows.rows_of(panel)) {
        case 1: return multiply_tile<V, format, 1>(tile, rows, panel, is_cold, out);
        case 2: return multiply_tile<V, format, 2>(tile, rows, panel, is_cold, out);
        case 3: return multiply_tile<V, format, 3>(tile, rows, panel, is_cold, out);
        case 4: return multiply_tile<V, format, 4>(tile, rows, panel, is_cold, out);
        case 5: return multiply_tile<V, format, 5>(tile, rows, panel, is_cold, out);
        case 6: return multiply_tile<V, format, 6>(tile, rows, panel, is_cold, out);
        case 7: return multiply_tile<V, format, 7>(tile, rows, panel, is_cold, out);
        default: return multiply_tile<V, format, 8>(tile, rows, panel, is_cold, out);
    }
}

// A tile, or a gated pair of tiles, against a panel, stored with the epilogue. `is_cold`: it is not in a cache yet.
template <class V, int32_t format>
void multiply_at(const hk_weights &weights, const Rows &rows, int64_t panel, int64_t index, bool is_cold,
                 const Target &target) {
    const int64_t tile_bytes = tile_of(format).bytes(weights.columns);
    alignas(64) float out[kPanelRows][kRows], gated[kPanelRows][kRows];
    const uint8_t *tile = weights.packed + index * tile_bytes;
    multiply_panel<V, format>(tile, rows, panel, is_cold, out);
    if (target.is_gated()) multiply_panel<V, format>(tile + tile_bytes, rows, panel, is_cold, gated);
    for (int64_t r = 0; r < rows.rows_of(panel); r++) {
        store_row(target, panel * kPanelRows + r, index, out[r], gated[r]);
    }
}

template <class V, int32_t format>
void multiply_format(const hk_weights &weights, const Rows &rows, int64_t begin, int64_t end, const Target &target) {
    const int64_t step = target.is_gated() ? 2 : 1, panels = (rows.count + kPanelRows - 1) / kPanelRows;
    const int64_t chunk = kChunkBytes / rows.panel_bytes() + 1;
    for (int64_t from = 0; from < panels; from += chunk) {
        const int64_t to = from + chunk < panels ? from + chunk : panels;
        for (int64_t tile = begin; tile < end; tile += step) {
            for (int64_t panel = from; panel < to; panel++) {
                multiply_at<V, format>(weights, rows, panel, tile, panel == from, target);
            }
        }
    }
}

template <class V>
void multiply(const hk_weights *weights, const void *scratch, int64_t m, int64_t begin, int64_t end, float *y,
              int64_t ldy, const hk_epilogue *epilogue) {
    const Rows rows{static_cast<uint8_t *>(const_cast<void *>(scratch)), m, weights->columns,
                    tile_of(weights->format).groups_of_block()};
    const Target target{y, ldy, weights->rows, epilogue ? *epilogue : hk_epilogue{}};
    switch (weights->format) {
        case HK_Q4_0: return multiply_format<V, HK_Q4_0>(*weights, rows, begin, end, target);
        case HK_Q4_1: return multiply_format<V, HK_Q4_1>(*weights, rows, begin, end, target);
        case HK_Q5_0: return multiply_format<V, HK_Q5_0>(*weights, rows, begin, end, target);
        case HK_Q5_1: return multiply_format<V, HK_Q5_1>(*weights, rows, begin, end, target);
        case HK_Q8_0:
        case HK_Q8_1: return multiply_format<V, HK_Q8_0>(*weights, rows, begin, end, target);
        case HK_Q2_K: return multiply_format<V, HK_Q2_K>(*weights, rows, begin, end, target);
        case HK_Q3_K: return multiply_format<V, HK_Q3_K>(*weights, rows, begin, end, target);
        case HK_Q4_K: return multiply_format<V, HK_Q4_K>(*weights, rows, begin, end, target);
        case HK_Q5_K: return multiply_format<V, HK_Q5_K>(*weights, rows, begin, end, target);
        case HK_Q6_K: return multiply_format<V, HK_Q6_K>(*weights, rows, begin, end, target);
        case HK_Q8_K: return multiply_format<V, HK_Q8_K>(*weights, rows, begin, end, target);
        default: return;
    }
}

template <class V>
int64_t peak(int64_t rounds) {
    constexpr int chains = 12;  // enough to hide the latency of the instruction
    alignas(64) uint8_t bytes[64] = {1};
    const int8_t x[4] = {1, 2, 3, 4};
    const typename V::B w = V::bytes(bytes);
    typename V::I sums[chains];
    for (int i = 0; i < chains; i++) sums[i] = V::whole(i);  // equal ones would be computed once
    for (int64_t round = 0; round < rounds; round++) {
        for (auto &sum : sums) sum = V::template dot<4>(sum, w, x);
    }
    alignas(64) float out[kRows];
    typename V::F total = V::zero();
    for (auto &sum : sums) total = V::fma(V::to_float(sum), V::splat(1.0f), total);
    V::store(out, total);
    const bool is_used = out[0] >= 0.0f;  // so that nothing is left out
    return is_used ? rounds * chains * 64 * 2 : 0;
}

}  // namespace
}  // namespace hostelry
