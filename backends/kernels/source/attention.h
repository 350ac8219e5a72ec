// Attention of ragged steps, for any set of instructions V; all of them give the same bits.
//
// Rows are (new token, query head) pairs of one sequence and one head of keys, token by token. A task is up to 32 of
// them: every key is read from memory once for all, in chunks of 128 that stay in the first-level cache. Chunks begin at
// multiples of 128 whatever the step, so a row's result depends neither on its company nor on how a prompt was cut.
#pragma once

#include "kv.h"
#include "level.h"
#include "softmax.h"

namespace hostelry {
namespace {

constexpr int64_t kTaskRows = 32, kChunk = 128, kAheadPieces = 4;
constexpr int64_t kMaxHeadDim = 512;

inline Cache cache_of(const hk_attention &a) { return {a.kv_type, a.kv_heads, a.head_dim, a.num_blocks, a.kv}; }

inline int64_t group_of(const hk_attention &a) { return a.heads / a.kv_heads; }

inline int64_t tiles_of(const hk_attention &a, int64_t sequence) {
    const int64_t rows = (a.q_start[sequence + 1] - a.q_start[sequence]) * group_of(a);
    return (rows + kTaskRows - 1) / kTaskRows;
}

inline int64_t num_tasks(const hk_attention &a) {
    int64_t tiles = 0;
    for (int64_t s = 0; s < a.sequences; s++) tiles += tiles_of(a, s);
    return tiles * a.kv_heads;
}

// Halves of a head turn together.
inline void rotate(const float *x, const float *cosine, const float *sine, int64_t half, float factor, float *out) {
    for (int64_t i = 0; i < half; i++) {
        const float a = x[i], b = x[half + i];
        out[i] = (a * cosine[i] - b * sine[i]) * factor;
        out[half + i] = (b * cosine[i] + a * sine[i]) * factor;
    }
}

// Tokens begin to end: keys and values go to their blocks, queries are turned, scaled, and put into the scratch.
inline void place_tokens(const hk_attention *attention, int64_t begin, int64_t end) {
    const hk_attention &a = *attention;
    const Cache cache = cache_of(a);
    const int64_t dim = a.head_dim, half = dim / 2, width = (a.heads + 2 * a.kv_heads) * dim;
    float key[kMaxHeadDim];
    int64_t sequence = 0;
    for (int64_t t = begin; t < end; t++) {
        while (t >= a.q_start[sequence + 1]) sequence++;
        const int64_t position = a.kv_len[sequence] - (a.q_start[sequence + 1] - t);
        const int64_t block = a.blocks[sequence * a.blocks_each + position / kBlockTokens];
        const float *cosine = a.cosine + position * half, *sine = a.sine + position * half, *x = a.qkv + t * width;
        for (int64_t h = 0; h < a.heads; h++) {
            rotate(x + h * dim, cosine, sine, half, a.scale, a.queries + (t * a.heads + h) * dim);
        }
        for (int64_t h = 0; h < a.kv_heads; h++) {
            rotate(x + (a.heads + h) * dim, cosine, sine, half, 1.0f, key);
            put(cache, key, cache.keys(block, h), position % kBlockTokens, true);
            put(cache, x + (a.heads + a.kv_heads + h) * dim, cache.values(block, h), position % kBlockTokens, false);
        }
    }
}

template <class V, int32_t type>
inline typename V::F elements(const uint8_t *piece, int64_t index) {
    if constexpr (type == HK_KV_F32) return V::load(reinterpret_cast<const float *>(piece) + index);
    if constexpr (type == HK_KV_F16) return V::halves(piece + index * 2);
    if constexpr (type == HK_KV_INT8) return V::levels(piece + index);
}

// The rows of one task, and what is known of them so far.
struct Task {
    const hk_attention &a;
    const Cache cache;
    const int32_t *blocks;
    int64_t head;                // of keys
    int64_t first_row, count;    // within the sequence
    int64_t first_token, start;  // of the sequence: in the step, and its position
    alignas(64) float scores[kTaskRows][kChunk];
    alignas(64) float out[kTaskRows][kMaxHeadDim];
    float sums[kTaskRows], tops[kTaskRows];

    explicit Task(const hk_attention &attention) : a(attention), cache(cache_of(attention)) {}

    int64_t token(int64_t row) const { return (first_row + row) / group_of(a); }
    int64_t query(int64_t row) const {  // index of its head among those of all tokens
        const int64_t group = group_of(a);
        return (first_token + token(row)) * a.heads + head * group + (first_row + row) % group;
    }
    // Keys that a row sees.
    int64_t end(int64_t row) const { return start + token(row) + 1; }
    int64_t begin(int64_t row) const { return a.window > 0 && end(row) > a.window ? end(row) - a.window : 0; }

    // Blocks and head of the task that comes next.
    const int32_t *next_blocks = nullptr;
    int64_t next_head = 0, next_count = 0;

    const uint8_t *keys(int64_t block) const { return cache.keys(blocks[block], head); }
    const uint8_t *values(int64_t block) const { return cache.values(blocks[block], head); }
    const uint8_t *following(int64_t index) const {
        return index < next_count ? cache.keys(next_blocks[index], next_head) : cache.data;  // costs next to nothing
    }
};

// Blocks `first` to `last` of a sequence that has `total`: a chunk of its keys.
struct Chunk {
    int64_t first, last, total;

    int64_t width() const { return (last - first) * kBlockTokens; }
    int64_t key() const { return first * kBlockTokens; }

    // What is read `kAhead` pieces after piece `index` of the chunk, to be asked for early: keys, then values, then the
    // next chunk or task. A piece is too short for the processor to find out by itself.
    const uint8_t *ahead(const Task &task, int64_t index) const {
        const int64_t count = last - first;
        index += kAheadPieces;
        if (index < count) return task.keys(first + index);
        if (index < 2 * count) return task.values(first + index - count);
        const int64_t block = last + index - 2 * count;
        return block < total ? task.keys(block) : task.following(block - total);
    }
};

// Scores of MR rows for the 16 keys of each of NB blocks.
template <class V, int32_t type, int MR, int NB>
inline void score_blocks(Task &task, const Chunk &chunk, int64_t row, int64_t block) {
    constexpr int64_t step = kBlockTokens * element_bytes(type);
    const uint8_t *keys[NB], *ahead[NB];
    const float *queries[MR];
    typename V::F total[MR][NB];
    for (int b = 0; b < NB; b++) {
        keys[b] = task.keys(block + b);
        ahead[b] = chunk.ahead(task, block + b - chunk.first);
    }
    for (int r = 0; r < MR; r++) {
        queries[r] = task.a.queries + task.query(row + r) * task.a.head_dim;
        for (int b = 0; b < NB; b++) total[r][b] = V::zero();
    }
    for (int64_t d = 0; d < task.a.head_dim; d++) {
        typename V::F k[NB];
        for (int b = 0; b < NB; b++) {
            k[b] = elements<V, type>(keys[b], d * kBlockTokens);
            if (row == 0) __builtin_prefetch(ahead[b] + d * step);
        }
        for (int r = 0; r < MR; r++) {
            const typename V::F q = V::splat(queries[r][d]);
            for (int b = 0; b < NB; b++) total[r][b] = V::fma(k[b], q, total[r][b]);
        }
    }
    for (int b = 0; b < NB; b++) {
        float *const scores = task.scores[row] + (block + b - chunk.first) * kBlockTokens;
        for (int r = 0; r < MR; r++) {
            typename V::F s = total[r][b];
            if constexpr (type == HK_KV_INT8) s = V::mul(s, V::load(task.cache.scales(keys[b])));
            V::store(scores + r * kChunk, s);
        }
    }
}

template <class V, int32_t type, int MR>
void score_rows(Task &task, const Chunk &chunk, int64_t row) {
    int64_t block = chunk.first;
    for (; block + 2 <= chunk.last; block += 2) score_blocks<V, type, MR, 2>(task, chunk, row, block);
    if (block < chunk.last) score_blocks<V, type, MR, 1>(task, chunk, row, block);
}

// NV * 16 columns of MR rows: the weights of the chunk times its values. `count` keys exist.
template <class V, int32_t type, int MR, int NV>
inline void add_columns(Task &task, const Chunk &chunk, int64_t row, int64_t column, int64_t count) {
    const int64_t dim = task.a.head_dim;
    typename V::F total[MR][NV];
    for (int r = 0; r < MR; r++) {
        for (int v = 0; v < NV; v++) total[r][v] = V::load(&task.out[row + r][column + v * 16]);
    }
    for (int64_t block = chunk.first; block < chunk.last; block++) {
        const uint8_t *const values = task.values(block);
        const uint8_t *const ahead = chunk.ahead(task, chunk.last - chunk.first + block - chunk.first);
        const int64_t key = (block - chunk.first) * kBlockTokens;
        const int64_t left = count - key < kBlockTokens ? count - key : kBlockTokens;
        for (int64_t i = 0; i < left; i++) {
            typename V::F x[NV];
            for (int v = 0; v < NV; v++) {
                const int64_t at = i * dim + column + v * 16;
                x[v] = elements<V, type>(values, at);
                if (row == 0) __builtin_prefetch(ahead + at * element_bytes(type));
            }
            for (int r = 0; r < MR; r++) {
                const typename V::F weight = V::splat(task.scores[row + r][key + i]);
                for (int v = 0; v < NV; v++) total[r][v] = V::fma(x[v], weight, total[r][v]);
            }
        }
    }
    for (int r = 0; r < MR; r++) {
        for (int v = 0; v < NV; v++) V::store(&task.out[row + r][column + v * 16], total[r][v]);
    }
}

template <class V, int32_t type, int MR>
void add_rows(Task &task, const Chunk &chunk, int64_t row, int64_t count) {
    int64_t column = 0;
    for (; column + 64 <= task.a.head_dim; column += 64) {
        add_columns<V, type, MR, 4>(task, chunk, row, column, count);
    }
    for (; column < task.a.head_dim; column += 16) add_columns<V, type, MR, 1>(task, chunk, row, column, count);
}

// int8 values: their scales join the weights.
inline void scale_weights(Task &task, const Chunk &chunk, int64_t row, int64_t count) {
    for (int64_t key = 0; key < count; key++) {
        const float *const scales = task.cache.scales(task.values(chunk.first + key / kBlockTokens));
        task.scores[row][key] *= scales[key % kBlockTokens];
    }
}

template <class V, int32_t type, int MR>
void attend_rows(Task &task, const Chunk &chunk, int64_t row, int64_t last_key) {
    const int64_t from = chunk.key(), left = last_key - from, count = left < kChunk ? left : kChunk;
    score_rows<V, type, MR>(task, chunk, row);
    for (int64_t r = row; r < row + MR; r++) {
        const Seen seen{task.begin(r) - from, task.end(r) - from, chunk.width()};
        const float factor = weigh(task.scores[r], seen, task.a.softcap, &task.tops[r], &task.sums[r]);
        for (int64_t i = 0; i < task.a.head_dim; i++) task.out[r][i] *= factor;
        if constexpr (type == HK_KV_INT8) scale_weights(task, chunk, r, count);
    }
    add_rows<V, type, MR>(task, chunk, row, count);
}

template <class V, int32_t type>
void attend_chunk(Task &task, const Chunk &chunk, int64_t last_key) {
    int64_t row = 0;
    for (; row + 4 <= task.count; row += 4) attend_rows<V, type, 4>(task, chunk, row, last_key);
    switch (task.count - row) {
        case 3: return attend_rows<V, type, 3>(task, chunk, row, last_key);
        case 2: return attend_rows<V, type, 2>(task, chunk, row, last_key);
        case 1: return attend_rows<V, type, 1>(task, chunk, row, last_key);
        default: return;
    }
}

template <class V, int32_t type>
void attend_task(Task &task) {
    constexpr int64_t each = kChunk / kBlockTokens;
    const size_t bytes = static_cast<size_t>(task.a.head_dim) * sizeof(float);
    for (int64_t row = 0; row < task.count; row++) {
        task.tops[row] = kLowest;
        task.sums[row] = 0.0f;
        std::memset(task.out[row], 0, bytes);
    }
    const int64_t last_key = task.end(task.count - 1), last = (last_key + kBlockTokens - 1) / kBlockTokens;
    for (int64_t first = task.begin(0) / kChunk * each; first < last; first += each) {
        attend_chunk<V, type>(task, Chunk{first, first + each < last ? first + each : last, last}, last_key);
    }
    for (int64_t row = 0; row < task.count; row++) {
        float *const y = task.a.out + task.query(row) * task.a.head_dim;
        for (int64_t i = 0; i < task.a.head_dim; i++) y[i] = task.out[row][i] / task.sums[row];
    }
}

// Of `num_tasks`: all heads of a tile of rows, then of the next.
inline void set_task(const hk_attention &a, int64_t index, int64_t *sequence, int64_t *tiles_before, Task *task) {
    const int64_t tile = index / a.kv_heads;
    while (tile >= *tiles_before + tiles_of(a, *sequence)) *tiles_before += tiles_of(a, (*sequence)++);
    const int64_t tokens = a.q_start[*sequence + 1] - a.q_start[*sequence], rows = tokens * group_of(a);
    task->blocks = a.blocks + *sequence * a.blocks_each;
    task->head = index % a.kv_heads;
    task->first_row = (tile - *tiles_before) * kTaskRows;
    task->count = rows - task->first_row < kTaskRows ? rows - task->first_row : kTaskRows;
    task->first_token = a.q_start[*sequence];
    task->start = a.kv_len[*sequence] - tokens;
}

template <class V>
void attend(const hk_attention *attention, int64_t begin, int64_t end) {
    const hk_attention &a = *attention;
    int64_t sequence = 0, tiles_before = 0;
    Task task(a);
    for (int64_t index = begin; index < end; index++) {
        set_task(a, index, &sequence, &tiles_before, &task);
        const bool has_next = index + 1 < end && (index + 1) % a.kv_heads;  // the next head of the same rows
        task.next_blocks = task.blocks + task.begin(0) / kChunk * (kChunk / kBlockTokens);
        task.next_head = task.head + 1;
        task.next_count = has_next ? (task.end(task.count - 1) - task.begin(0) / kChunk * kChunk + 15) / 16 : 0;
        if (a.kv_type == HK_KV_F32) attend_task<V, HK_KV_F32>(task);
        if (a.kv_type == HK_KV_F16) attend_task<V, HK_KV_F16>(task);
        if (a.kv_type == HK_KV_INT8) attend_task<V, HK_KV_INT8>(task);
    }
}

}  // namespace
}  // namespace hostelry
