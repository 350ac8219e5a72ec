// How keys and values lie in memory: blocks of 16 tokens, one after the other, in each of them one piece a head.
//
// A piece of keys has the 16 tokens side by side, [head_dim][16], so that 16 scores are made at once; a piece of values
// is [16][head_dim]. In int8, 16 float scales follow, one a token.
#pragma once

#include <cstring>

#include "activations.h"
#include "half.h"
#include "kernels.h"

namespace hostelry {
namespace {

constexpr int kBlockTokens = 16;

constexpr int64_t element_bytes(int32_t type) { return type == HK_KV_F32 ? 4 : type == HK_KV_F16 ? 2 : 1; }

struct Cache {
    int32_t type;
    int64_t heads, head_dim, num_blocks;
    uint8_t *data;  // keys of all blocks, then values of all blocks

    int64_t codes_bytes() const { return kBlockTokens * head_dim * element_bytes(type); }
    int64_t piece_bytes() const { return codes_bytes() + (type == HK_KV_INT8 ? kBlockTokens * 4 : 0); }
    int64_t block_bytes() const { return heads * piece_bytes(); }
    uint8_t *keys(int64_t block, int64_t head) const { return data + block * block_bytes() + head * piece_bytes(); }
    uint8_t *values(int64_t block, int64_t head) const { return keys(num_blocks + block, head); }
    float *scales(const uint8_t *piece) const {
        return reinterpret_cast<float *>(const_cast<uint8_t *>(piece) + codes_bytes());
    }
};

// One token's elements into a piece: element i goes to place `first + i * step`.
inline void put_halves(const float *x, int64_t count, uint8_t *piece, int64_t first, int64_t step) {
    for (int64_t i = 0; i < count; i++) {
        const uint16_t half = float_to_half(x[i]);
        std::memcpy(piece + (first + i * step) * 2, &half, 2);
    }
}

inline float put_bytes(const float *x, int64_t count, uint8_t *piece, int64_t first, int64_t step) {
    float largest = 0.0f;
    for (int64_t i = 0; i < count; i++) {
        const float size = x[i] < 0.0f ? -x[i] : x[i];
        largest = size > largest || size != size ? size : largest;  // a NaN stays
    }
    const bool is_usable = largest >= 1e-30f && largest <= 3e38f;
    const float inverse = is_usable ? 127.0f / largest : 0.0f;
    for (int64_t i = 0; i < count; i++) {
        const int32_t code = is_usable ? nearest(x[i] * inverse) : 0;
        piece[first + i * step] = static_cast<uint8_t>(static_cast<int8_t>(code));
    }
    if (is_usable) return largest / 127.0f;
    return largest < 1e-30f ? 0.0f : largest - largest;  // NaN of what is not finite
}

// `place` is the token's in its block; for keys, elements lie 16 apart.
inline void put(const Cache &cache, const float *x, uint8_t *piece, int64_t place, bool is_key) {
    const int64_t first = is_key ? place : place * cache.head_dim, step = is_key ? kBlockTokens : 1;
    if (cache.type == HK_KV_F32) {
        for (int64_t i = 0; i < cache.head_dim; i++) std::memcpy(piece + (first + i * step) * 4, x + i, 4);
    } else if (cache.type == HK_KV_F16) {
        put_halves(x, cache.head_dim, piece, first, step);
    } else {
        cache.scales(piece)[place] = put_bytes(x, cache.head_dim, piece, first, step);
    }
}

}  // namespace
}  // namespace hostelry
