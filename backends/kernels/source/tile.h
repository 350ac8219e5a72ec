// How a format lies in tiles of 16 rows, and its bytes. Nothing is lost and, but for 6-bit scales in bytes, nothing is
// added.
//
//            codes   group   scales of 16 rows                     bytes a weight against GGUF
//   Q4_0     4 bit   32      f16                                   1
//   Q4_1     4 bit   32      f16, f16 minima                       1
//   Q5_0     4+1     32      f16                                   1
//   Q5_1     4+1     32      f16, f16 minima                       1
//   Q8_0     8 bit   32      f16                                   1
//   Q8_1     8 bit   32      f16                                   34/36  (its sums are not needed)
//   Q2_K     2 bit   16      f16 d, dmin; 4-bit s, m a group       1
//   Q3_K     2+1     16      f16 d; 8-bit s a group                114/110
//   Q4_K     4 bit   32      f16 d, dmin; 8-bit s, m a group       148/144
//   Q5_K     4+1     32      f16 d, dmin; 8-bit s, m a group       180/176
//   Q6_K     4+2     16      f16 d; 8-bit s a group                1
//   Q8_K     8 bit   256     f32 d                                 260/292 (its sums are not needed)
//
// A tile holds its codes first, block of 32 columns after block, then its scales: two streams that a CPU prefetches.
//
// Codes of a block are cut into eight groups g of four columns. 64 bytes are 16 rows times four columns of a group:
//   8 bit    eight times 64 bytes, the codes as int8
//   4 bit    four times 64 bytes, group j in the low half and group j + 4 in the high half
//   2 bit    twice 64 bytes, groups j, j + 2, j + 4, j + 6 from the lowest bits on
//   4+1      4 bit, then eight times 64 bits: bit i is the top bit of byte i of group g. So is 2+1
//   4+2      4 bit, then 2 bit
#pragma once

#include <stdint.h>

#include "kernels.h"

namespace hostelry {
namespace {  // see target.h

constexpr int kRows = 16;
constexpr int kBlock = 32;
constexpr int kSuper = 256;

struct Tile {
    int bits;
    int group;        // columns that share a scale; so do activations, but for at most 32
    int level_bits;   // 8 or 4: 256 columns share d and dmin, and groups have levels; 0: groups have a d of their own
    int minimum;      // sign of the minimum that is added: -1, 0, 1
    int zero;         // the code that stands for 0
    int scale_bytes;  // of d: 2 or 4

    constexpr int code_bytes() const { return kRows * kBlock / 8 * bits; }
    constexpr int super_columns() const { return level_bits || group == kSuper ? kSuper : kBlock; }
    constexpr int head_bytes() const { return kRows * (scale_bytes + (minimum ? 2 : 0)); }
    constexpr int groups_of_block() const { return group == 16 ? 2 : 1; }
    constexpr int level_bytes() const { return kRows * groups_of_block() * level_bits / 8 * (minimum ? 2 : 1); }
    constexpr int64_t scale_bytes_of(int64_t columns) const {
        return columns / super_columns() * head_bytes() + columns / kBlock * level_bytes();
    }
    constexpr int64_t codes_of(int64_t columns) const { return columns / kBlock * code_bytes(); }
    constexpr int64_t bytes(int64_t columns) const {
        return (codes_of(columns) + scale_bytes_of(columns) + 63) / 64 * 64;
    }
};

constexpr Tile tile_of(int32_t format) {
    switch (format) {
        case HK_Q4_0: return {4, 32, 0, 0, 8, 2};
        case HK_Q4_1: return {4, 32, 0, 1, 0, 2};
        case HK_Q5_0: return {5, 32, 0, 0, 16, 2};
        case HK_Q5_1: return {5, 32, 0, 1, 0, 2};
        case HK_Q8_0: return {8, 32, 0, 0, 0, 2};
        case HK_Q8_1: return {8, 32, 0, 0, 0, 2};
        case HK_Q2_K: return {2, 16, 4, -1, 0, 2};
        case HK_Q3_K: return {3, 16, 8, 0, 4, 2};
        case HK_Q4_K: return {4, 32, 8, -1, 0, 2};
        case HK_Q5_K: return {5, 32, 8, -1, 0, 2};
        case HK_Q6_K: return {6, 16, 8, 0, 32, 2};
        case HK_Q8_K: return {8, 256, 0, 0, 0, 4};
        default: return {0, 0, 0, 0, 0, 0};
    }
}

// Bytes of a row in GGUF, or 0 for a row that is no whole number of blocks.
constexpr int64_t gguf_row_bytes(int32_t format, int64_t columns) {
    const int block = format >= HK_Q2_K ? kSuper : kBlock;
    if (columns <= 0 || columns % block) return 0;
    constexpr int bytes[] = {0, 0, 18, 20, 0, 0, 22, 24, 34, 36, 84, 110, 144, 176, 210, 292};
    return columns / block * bytes[format];
}

inline int64_t num_tiles(int64_t rows) { return (rows + kRows - 1) / kRows; }

}  // namespace
}  // namespace hostelry
