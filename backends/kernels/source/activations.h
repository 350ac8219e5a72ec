// From float rows to int8 in blocks of 32. Plain loops that compilers vectorize.
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

inline void activate_block(const float *x, int8_t *codes, float *scale, int32_t *sums) {
    uint32_t top = 0;  // as integers, sizes of floats compare like the floats; infinity and NaN are above all
    for (int i = 0; i < kBlock; i++) {
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
    for (int half = 0; half < 2; half++) {
        int32_t sum = 0;
        for (int i = half * 16; i < half * 16 + 16; i++) {
            const int32_t code = nearest(is_finite ? x[i] * inverse : 0.0f);
            codes[i] = static_cast<int8_t>(code);
            sum += code;
        }
        sums[half] = sum;
    }
}

inline void activate_rows(const float *x, int64_t m, int64_t columns, void *scratch, int64_t begin, int64_t end) {
    const Rows rows{static_cast<uint8_t *>(scratch), m, columns};
    for (int64_t row = begin; row < end; row++) {
        for (int64_t block = 0; block < rows.blocks(); block++) {
            const PanelBlock to = rows.at(row / kPanelRows, block);
            const int64_t r = row % kPanelRows;
            activate_block(x + row * columns + block * kBlock, to.codes(r), to.scale(r), to.sums(r));
        }
    }
}

}  // namespace
}  // namespace hostelry
