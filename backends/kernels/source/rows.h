// How activated rows lie in the scratch memory.
#pragma once

#include "tile.h"

namespace hostelry {
namespace {

// For each row: int8 codes [columns], float scales [columns / 32], int32 sums of codes [columns / 16].
struct Rows {
    uint8_t *data;
    int64_t columns;

    int64_t row_bytes() const { return (columns + columns / kBlock * 4 + columns / 16 * 4 + 63) / 64 * 64; }
    int8_t *codes(int64_t row) const { return reinterpret_cast<int8_t *>(data + row * row_bytes()); }
    float *scales(int64_t row) const { return reinterpret_cast<float *>(data + row * row_bytes() + columns); }
    int32_t *sums(int64_t row) const { return reinterpret_cast<int32_t *>(scales(row) + columns / kBlock); }
};

}  // namespace
}  // namespace hostelry
