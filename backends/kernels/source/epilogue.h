// What happens to 16 outputs of a row before they are stored: bias, gate, residual.
#pragma once

#include <cstring>

#include "tile.h"

namespace hostelry {
namespace {

struct Target {
    float *y;
    int64_t ldy;
    int64_t rows;  // of the matrix
    hk_epilogue epilogue;

    bool is_gated() const { return epilogue.activation != HK_NONE; }
};

// e^x by 2^n * a polynomial on [-ln 2 / 2, ln 2 / 2] (Cephes, expf): 2 units in the last place. Vectorizes.
inline float exponential(float x) {
    x = x < -87.0f ? -87.0f : (x > 88.0f ? 88.0f : x);  // a NaN passes
    const float shifted = x * 1.44269504f + 12582912.0f;
    const float n = shifted - 12582912.0f;
    const float r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    const float e = (p * r * r + r) + 1.0f;
    uint32_t bits;
    std::memcpy(&bits, &shifted, 4);
    bits = (bits - 0x4B400000u + 127u) << 23;
    float power;
    std::memcpy(&power, &bits, 4);
    return e * power;
}

inline void swiglu(const float *gate, const float *up, float *out) {
    for (int i = 0; i < kRows; i++) out[i] = gate[i] / (1.0f + exponential(-gate[i])) * up[i];
}

// x / 2 * (1 + tanh(z)) = x / (1 + e^(-2 z)), z = sqrt(2 / pi) * (x + 0.044715 x^3).
inline void geglu_tanh(const float *gate, const float *up, float *out) {
    for (int i = 0; i < kRows; i++) {
        const float x = gate[i];
        out[i] = x / (1.0f + exponential(-1.5957691216f * (x + 0.044715f * x * x * x))) * up[i];
    }
}

inline void add(const float *more, int64_t count, float *values) {
    for (int64_t i = 0; i < count; i++) values[i] += more[i];
}

inline const float *delta_at(const hk_epilogue &epilogue, int64_t row, int64_t rows) {
    if (!epilogue.delta || epilogue.delta_of[row] < 0) return nullptr;
    return epilogue.delta + epilogue.delta_of[row] * rows;
}

// `values` are 16 outputs of tile `tile`; with a gate they are the gate's, and `gated` those of the next tile.
inline void store_row(const Target &target, int64_t row, int64_t tile, float *values, float *gated) {
    const hk_epilogue &epilogue = target.epilogue;
    const int64_t left = target.rows - tile * kRows;
    const int64_t count = left < kRows ? left : kRows;
    const int64_t column = target.is_gated() ? tile / 2 * kRows : tile * kRows;
    const float *const delta = delta_at(epilogue, row, target.rows);
    if (delta) add(delta + tile * kRows, count, values);
    if (epilogue.bias) add(epilogue.bias + tile * kRows, count, values);
    if (target.is_gated()) {
        if (delta) add(delta + (tile + 1) * kRows, kRows, gated);
        if (epilogue.bias) add(epilogue.bias + (tile + 1) * kRows, kRows, gated);
        (epilogue.activation == HK_SWIGLU ? swiglu : geglu_tanh)(values, gated, values);
    }
    const int64_t at = row * target.ldy + column;
    if (epilogue.residual) add(epilogue.residual + at, count, values);
    std::memcpy(target.y + at, values, static_cast<size_t>(count) * sizeof(float));
}

}  // namespace
}  // namespace hostelry
