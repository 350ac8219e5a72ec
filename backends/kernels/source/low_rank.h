// Low-rank sums B (A x) of the rows of a batch that have adapters, for any set of instructions V, with the same bits.
//
// Rows are grouped by adapter, so each matrix is read once for all its rows. First u = A x (`shrink`), then delta = B u
// (`expand`), for a linear of several parts side by side. Sums run in an order that depends on the shapes alone.
#pragma once

#include "level.h"
#include "tile.h"

namespace hostelry {
namespace {

constexpr int64_t kRanks = 4;      // of A that a unit of `shrink` computes
constexpr int64_t kOutputs = 256;  // that a unit of `expand` computes
constexpr int kTogether = 4;       // rows that share what was loaded

// An adapter's matrices for one linear: A [rank, columns], and B transposed, [rank, outputs].
struct Adapter {
    const float *a, *b;
    int64_t rank;
};

inline Adapter adapter_of(const hk_low_rank &l, int64_t slot, int64_t part) {
    const int64_t *const entry = l.table + slot * l.table_stride + part * 3;
    return {reinterpret_cast<const float *>(entry[0]), reinterpret_cast<const float *>(entry[1]), entry[2]};
}

inline int64_t part_begin(const hk_low_rank &l, int64_t part) {
    int64_t begin = 0;
    for (int64_t p = 0; p < part; p++) begin += l.part_rows[p];
    return begin;
}

inline int64_t rank_units(const hk_low_rank &l) { return (l.max_rank + kRanks - 1) / kRanks; }

inline int64_t output_units(const hk_low_rank &l) {
    int64_t most = 0;
    for (int64_t p = 0; p < l.parts; p++) most = l.part_rows[p] > most ? l.part_rows[p] : most;
    return (most + kOutputs - 1) / kOutputs;
}

// Active rows sorted by slot, and where each group of one slot begins among them.
inline void group_rows(hk_low_rank *l) {
    int64_t active = 0;
    l->groups = 0;
    for (int64_t slot = 0; slot < l->slots; slot++) {
        const int64_t before = active;
        int64_t rank = 0;
        for (int64_t p = 0; p < l->parts; p++) {
            const int64_t found = adapter_of(*l, slot, p).rank;
            rank = found > rank ? found : rank;
        }
        if (rank == 0) continue;
        for (int64_t row = 0; row < l->m; row++) {
            if (l->lora[row] == slot) l->order[active++] = static_cast<int32_t>(row);
        }
        if (active == before) continue;
        l->group_begin[l->groups++] = static_cast<int32_t>(before);
        l->max_rank = rank > l->max_rank ? rank : l->max_rank;
    }
    l->group_begin[l->groups] = static_cast<int32_t>(active);
    l->active = active;
    for (int64_t row = 0; row < l->m; row++) l->delta_of[row] = -1;
    for (int64_t i = 0; i < active; i++) l->delta_of[l->order[i]] = static_cast<int32_t>(i);
}

// Sixteen partial sums, added up one after the other.
template <class V>
inline float sum_lanes(typename V::F lanes) {
    alignas(64) float values[16];
    V::store(values, lanes);
    float sum = 0.0f;
    for (float value : values) sum += value;
    return sum;
}

template <class V, int MR>
inline void shrink_rows(const hk_low_rank &l, const float *a, const int32_t *rows, float *(&u)[kTogether]) {
    const float *x[MR];
    typename V::F total[MR];
    for (int r = 0; r < MR; r++) {
        x[r] = l.x + rows[r] * l.columns;
        total[r] = V::zero();
    }
    int64_t column = 0;
    for (; column + 16 <= l.columns; column += 16) {
        const typename V::F weights = V::load(a + column);
        for (int r = 0; r < MR; r++) total[r] = V::fma(weights, V::load(x[r] + column), total[r]);
    }
    for (int r = 0; r < MR; r++) {
        float rest = 0.0f;
        for (int64_t c = column; c < l.columns; c++) rest += a[c] * x[r][c];
        *u[r] = sum_lanes<V>(total[r]) + rest;
    }
}

template <class V>
void shrink(const hk_low_rank *low_rank, int64_t begin, int64_t end) {
    const hk_low_rank &l = *low_rank;
    for (int64_t unit = begin; unit < end; unit++) {
        const int64_t rank_unit = unit % rank_units(l), part = unit / rank_units(l) % l.parts;
        const int64_t group = unit / rank_units(l) / l.parts, first = l.group_begin[group];
        const Adapter adapter = adapter_of(l, l.lora[l.order[first]], part);
        for (int64_t k = rank_unit * kRanks; k < (rank_unit + 1) * kRanks && k < adapter.rank; k++) {
            for (int64_t i = first; i < l.group_begin[group + 1]; i += kTogether) {
                float *u[kTogether];
                const int64_t left = l.group_begin[group + 1] - i;
                for (int r = 0; r < kTogether; r++) u[r] = l.shrunk + ((i + r) * l.parts + part) * l.max_rank + k;
                const float *const a = adapter.a + k * l.columns;
                switch (left) {
                    case 1: shrink_rows<V, 1>(l, a, l.order + i, u); break;
                    case 2: shrink_rows<V, 2>(l, a, l.order + i, u); break;
                    case 3: shrink_rows<V, 3>(l, a, l.order + i, u); break;
                    default: shrink_rows<V, 4>(l, a, l.order + i, u); break;
                }
            }
        }
    }
}

// Where output `j` of a part lies in a row of delta; with a gate, 16 of each part in turns.
inline int64_t place_of(const hk_low_rank &l, int64_t part, int64_t first, int64_t j) {
    return l.is_gated ? j / kRows * 2 * kRows + part * kRows + j % kRows : first + j;
}

template <class V>
void expand(const hk_low_rank *low_rank, int64_t begin, int64_t end) {
    const hk_low_rank &l = *low_rank;
    for (int64_t unit = begin; unit < end; unit++) {
        const int64_t column_unit = unit % output_units(l), part = unit / output_units(l) % l.parts;
        const int64_t group = unit / output_units(l) / l.parts, outputs = l.part_rows[part];
        const int64_t from = column_unit * kOutputs, to = from + kOutputs < outputs ? from + kOutputs : outputs;
        const Adapter adapter = adapter_of(l, l.lora[l.order[l.group_begin[group]]], part);
        for (int64_t i = l.group_begin[group]; i < l.group_begin[group + 1]; i++) {
            const float *const u = l.shrunk + (i * l.parts + part) * l.max_rank;
            float *const delta = l.delta + i * l.rows;
            const int64_t first = part_begin(l, part);
            int64_t j = from;
            for (; j + 16 <= to; j += 16) {
                typename V::F total = V::zero();
                for (int64_t k = 0; k < adapter.rank; k++) {
                    total = V::fma(V::load(adapter.b + k * outputs + j), V::splat(u[k]), total);
                }
                V::store(delta + place_of(l, part, first, j), total);
            }
            for (; j < to; j++) {
                float total = 0.0f;
                for (int64_t k = 0; k < adapter.rank; k++) total += adapter.b[k * outputs + j] * u[k];
                delta[place_of(l, part, first, j)] = total;
            }
        }
    }
}

}  // namespace
}  // namespace hostelry
