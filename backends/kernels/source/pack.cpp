// From GGUF blocks to tiles. Block layouts: ggml-common.h, as documented in backends/weights/formats.
#include <cstring>

#include "tile.h"

namespace hostelry {
namespace {

// One block (or one 256-column block) of one row, taken apart: codes from 0 (8-bit ones as int8), and raw scales.
struct Part {
    uint8_t codes[kSuper];
    uint8_t d[4];        // as stored: f16, or f32 of Q8_K
    uint8_t minimum[2];  // f16
    int8_t levels[16];
    int8_t minima[16];
};

void nibbles(const uint8_t *from, int half, uint8_t *codes) {  // low halves first, then high ones
    for (int i = 0; i < half; i++) {
        codes[i] = from[i] & 15;
        codes[i + half] = from[i] >> 4;
    }
}

void add_bits(const uint8_t *word, uint8_t *codes) {  // 32 bits, the fifth of each code
    for (int i = 0; i < kBlock; i++) codes[i] |= (word[i / 8] >> (i % 8) & 1) << 4;
}

void add_planes(const uint8_t *planes, int shift, uint8_t *codes) {  // bit g of byte i belongs to code 32 g + i
    for (int i = 0; i < kSuper; i++) codes[i] |= (planes[i % 32] >> (i / 32) & 1) << shift;
}

void add_pairs(const uint8_t *pairs, int shift, uint8_t *codes) {  // 32 bytes hold 128 codes, two bits per 32
    for (int i = 0; i < kSuper; i++) codes[i] |= (pairs[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3) << shift;
}

void unpack_k_levels(const uint8_t *packed, Part &part) {  // get_scale_min_k4 of ggml-quants.c
    for (int g = 0; g < 4; g++) {
        part.levels[g] = packed[g] & 63;
        part.minima[g] = packed[g + 4] & 63;
        part.levels[g + 4] = (packed[g + 8] & 15) | (packed[g] >> 6) << 4;
        part.minima[g + 4] = packed[g + 8] >> 4 | (packed[g + 4] >> 6) << 4;
    }
}

void read(int32_t format, const uint8_t *block, Part &part) {
    std::memset(part.codes, 0, sizeof part.codes);
    auto halves = [&](const uint8_t *d, const uint8_t *minimum) {
        std::memcpy(part.d, d, 2);
        if (minimum) std::memcpy(part.minimum, minimum, 2);
    };
    switch (format) {
        case HK_Q4_0: halves(block, nullptr); nibbles(block + 2, 16, part.codes); break;
        case HK_Q4_1: halves(block, block + 2); nibbles(block + 4, 16, part.codes); break;
        case HK_Q5_0: halves(block, nullptr); nibbles(block + 6, 16, part.codes); add_bits(block + 2, part.codes); break;
        case HK_Q5_1: halves(block, block + 2); nibbles(block + 8, 16, part.codes); add_bits(block + 4, part.codes); break;
        case HK_Q8_0: halves(block, nullptr); std::memcpy(part.codes, block + 2, kBlock); break;
        case HK_Q8_1: halves(block, nullptr); std::memcpy(part.codes, block + 4, kBlock); break;
        case HK_Q8_K: std::memcpy(part.d, block, 4); std::memcpy(part.codes, block + 4, kSuper); break;
        case HK_Q2_K:
            halves(block + 80, block + 82);
            add_pairs(block + 16, 0, part.codes);
            for (int g = 0; g < 16; g++) part.levels[g] = block[g] & 15, part.minima[g] = block[g] >> 4;
            break;
        case HK_Q3_K:
            halves(block + 108, nullptr);
            add_pairs(block + 32, 0, part.codes);
            add_planes(block, 2, part.codes);
            for (int g = 0; g < 16; g++) {
                const int low = block[96 + g % 8] >> (g / 8 * 4) & 15, high = block[104 + g % 4] >> (g / 4 * 2) & 3;
                part.levels[g] = static_cast<int8_t>((low | high << 4) - 32);
            }
            break;
        case HK_Q4_K:
        case HK_Q5_K:
            halves(block, block + 2);
            unpack_k_levels(block + 4, part);
            for (int i = 0; i < 4; i++) nibbles(block + (format == HK_Q4_K ? 16 : 48) + 32 * i, 32, part.codes + 64 * i);
            if (format == HK_Q5_K) add_planes(block + 16, 4, part.codes);
            break;
        case HK_Q6_K:
            halves(block + 208, nullptr);
            for (int i = 0; i < 2; i++) nibbles(block + 64 * i, 64, part.codes + 128 * i);
            add_pairs(block + 128, 4, part.codes);
            std::memcpy(part.levels, block + 192, 16);
            break;
        default: break;
    }
}

// Codes of 32 columns of row r into the block at `out`, which starts as zeros.
void put_codes(int bits, const uint8_t *codes, int r, uint8_t *out) {
    for (int i = 0; i < kBlock; i++) {
        const int g = i / 4, at = r * 4 + i % 4;
        const uint8_t code = codes[i];
        if (bits == 8) {
            out[g * 64 + at] = code;
            continue;
        }
        if (bits >= 4) {
            out[g % 4 * 64 + at] |= (code & 15) << (g / 4 * 4);
        } else {
            out[g % 2 * 64 + at] |= (code & 3) << (g / 2 * 2);
        }
        if (bits == 3) out[128 + g * 8 + at / 8] |= (code >> 2) << (at % 8);
        if (bits == 5) out[256 + g * 8 + at / 8] |= (code >> 4) << (at % 8);
        if (bits == 6) out[256 + g % 2 * 64 + at] |= (code >> 4) << (g / 2 * 2);
    }
}

void put_scales(const Tile &tile, const Part &part, int r, uint8_t *out) {
    std::memcpy(out + r * tile.scale_bytes, part.d, tile.scale_bytes);
    if (tile.minimum) std::memcpy(out + kRows * tile.scale_bytes + r * 2, part.minimum, 2);
    if (!tile.level_bits) return;
    const int groups = tile.groups_of_block();
    out += tile.head_bytes();
    for (int block = 0; block < kSuper / kBlock; block++, out += tile.level_bytes()) {
        for (int g = 0; g < groups; g++) {
            const uint8_t level = static_cast<uint8_t>(part.levels[block * groups + g]);
            const uint8_t minimum = static_cast<uint8_t>(part.minima[block * groups + g]);
            out[g * kRows + r] = tile.level_bits == 4 ? level | minimum << 4 : level;
            if (tile.minimum && tile.level_bits == 8) out[(groups + g) * kRows + r] = minimum;
        }
    }
}

void pack_row(int32_t format, int64_t columns, const uint8_t *row, int r, uint8_t *out) {
    const Tile tile = tile_of(format);
    const int width = format >= HK_Q2_K ? kSuper : kBlock;
    const int64_t block_bytes = gguf_row_bytes(format, width);
    const int64_t scale_bytes = tile.scale_bytes_of(tile.super_columns());
    uint8_t *scales = out + tile.codes_of(columns);
    Part part;
    for (int64_t at = 0; at < columns; at += width, row += block_bytes, scales += scale_bytes) {
        read(format, row, part);
        put_scales(tile, part, r, scales);
        for (int i = 0; i < width; i += kBlock, out += tile.code_bytes()) put_codes(tile.bits, part.codes + i, r, out);
    }
}

}  // namespace
}  // namespace hostelry

using namespace hostelry;

int64_t hk_packed_bytes(int32_t format, int64_t rows, int64_t columns) {
    if (tile_of(format).bits == 0 || rows <= 0 || rows > (int64_t{1} << 40) || columns > (int64_t{1} << 20)) return -1;
    if (gguf_row_bytes(format, columns) == 0) return -1;
    return num_tiles(rows) * tile_of(format).bytes(columns);
}

int32_t hk_pack(int32_t format, int64_t rows, int64_t columns, const uint8_t *blocks, uint8_t *packed) {
    const int64_t bytes = hk_packed_bytes(format, rows, columns);
    if (bytes < 0) return -1;
    std::memset(packed, 0, static_cast<size_t>(bytes));
    const int64_t tile_bytes = tile_of(format).bytes(columns), row_bytes = gguf_row_bytes(format, columns);
    for (int64_t row = 0; row < rows; row++) {
        uint8_t *tile = packed + row / kRows * tile_bytes;
        pack_row(format, columns, blocks + row * row_bytes, static_cast<int>(row % kRows), tile);
    }
    return 0;
}

int64_t hk_num_tiles(int64_t rows) { return num_tiles(rows); }
