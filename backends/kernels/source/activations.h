// From float rows to int8, each 16 or 32 columns with a scale of their own. Plain loops that compilers vectorize.
#pragma once

#include <cstring>

#include "rows.h"

namespace hostelry {
namespace {

// Rounds halves to even: after the addition the whole number is in the lowest bits. |x| < 2^22.
inline int32_t nearest(float x) {
    constexpr float magic = 12582912.0f;  // 1.5 * 2^23
    const float shifted = x + magic;
    int32_t bits;
    std::memcpy(&bits, &shifted, 4);
    return bits - 0x4B400000;
}

template <int size>
inline void activate_group(const float *x, int8_t *codes, float *scale, int32_t *sum_of_codes) {
    uint32_t top = 0;  // as integers, sizes of floats compare like the floats; infinity and NaN are above all
    for (int i = 0; i < size; i++) {
        uint32_t bits;
        std::memcpy(&bits, x + i, 4);
        bits &= 0x7FFFFFFF;
        top = bits > top ? bits : top;
    }
    float largest;
    std::memcpy(&largest, &top, 4);
    const bool is_finite = top < 0x7F800000;
    const bool is_zero = top < 0x02000000;  // below 1e-37 the inverse would overflow
    const float inverse = is_finite && !is_zero ? 127.0f / largest : 0.0f;
    *scale = is_finite ? (is_zero ? 0.0f : largest / 127.0f) : largest - largest;  // inf - inf and NaN - NaN are NaN
    int32_t sum = 0;
    for (int i = 0; i < size; i++) {
        const int32_t code = nearest(is_finite ? x[i] * inverse : 0.0f);
        codes[i] = static_cast<int8_t>(code);
        sum += code;
    }
    *sum_of_codes = sum;
}

template <int groups>
inline void activate_row(const float *x, const Rows &rows, int64_t row) {
    constexpr int size = kBlock / groups;
    const int64_t r = row % kPanelRows;
    PanelBlock to = rows.at(row / kPanelRows, 0);
    for (int64_t block = 0; block < rows.blocks(); block++, to.data += to.bytes()) {
        for (int g = 0; g < groups; g++, x += size) {
            activate_group<size>(x, to.codes(r) + g * size, to.scales(r) + g, to.sums(r) + g);
        }
    }
}

inline void activate_rows(int32_t format, const float *x, int64_t m, int64_t columns, void *scratch, int64_t begin,
                          int64_t end) {
    const Rows rows{static_cast<uint8_t *>(scratch), m, columns, tile_of(format).groups_of_block()};
    for (int64_t row = begin; row < end; row++) {
        if (rows.groups == 2) {
            activate_row<2>(x + row * columns, rows, row);
        } else {
            activate_row<1>(x + row * columns, rows, row);
        }
    }
}

}  // namespace
}  // namespace hostelry
