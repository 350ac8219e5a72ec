// How activated rows lie in the scratch memory: in panels of up to 8 rows, which a tile meets together.
#pragma once

#include "tile.h"

namespace hostelry {
namespace {

constexpr int kPanelRows = 8;  // that share one unpacking of the weights; more would not fit into registers

// One block of 32 columns of a panel of `rows` rows, in one or two groups: int8 codes [rows][32], float scales
// [rows][groups], and int32 sums of the codes [rows][groups]. Blocks follow each other, so a tile reads a panel from
// its beginning to its end.
struct PanelBlock {
    uint8_t *data;
    int64_t rows, groups;

    constexpr int64_t bytes() const { return rows * (kBlock + groups * 8); }
    int8_t *codes(int64_t row) const { return reinterpret_cast<int8_t *>(data + row * kBlock); }
    float *scales(int64_t row) const { return reinterpret_cast<float *>(data + rows * kBlock) + row * groups; }
    int32_t *sums(int64_t row) const {
        return reinterpret_cast<int32_t *>(data + rows * (kBlock + groups * 4)) + row * groups;
    }
};

struct Rows {
    uint8_t *data;
    int64_t count, columns, groups;

    int64_t blocks() const { return columns / kBlock; }
    // Room for a full panel, whatever the number of rows in it.
    int64_t panel_bytes() const { return (PanelBlock{nullptr, kPanelRows, groups}.bytes() * blocks() + 63) / 64 * 64; }
    int64_t bytes() const { return (count + kPanelRows - 1) / kPanelRows * panel_bytes(); }
    int64_t rows_of(int64_t panel) const {
        const int64_t left = count - panel * kPanelRows;
        return left < kPanelRows ? left : kPanelRows;
    }
    PanelBlock at(int64_t panel, int64_t block) const {
        PanelBlock found{data + panel * panel_bytes(), rows_of(panel), groups};
        found.data += block * found.bytes();
        return found;
    }
};

}  // namespace
}  // namespace hostelry
