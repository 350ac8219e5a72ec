// Products of odd shapes in buffers of exactly their size, for sanitizers to watch.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "kernels.h"

namespace {

// Ends where the data ends, so that reading on is an error; aligned as the interface asks.
struct Buffer {
    explicit Buffer(int64_t bytes) : size(bytes), data(static_cast<uint8_t *>(std::aligned_alloc(64, (bytes + 63) / 64 * 64))) {
        std::memset(data, 0x2B, bytes);
    }
    ~Buffer() { std::free(data); }
    Buffer(const Buffer &) = delete;
    int64_t size;
    uint8_t *data;
};

int check(int32_t format, int64_t rows, int64_t columns, int64_t m, int32_t activation) {
    const int64_t packed_bytes = hk_packed_bytes(format, rows, columns);
    if (packed_bytes < 0) return 0;
    const int64_t row_bytes[] = {0, 0, 18, 20, 0, 0, 22, 24, 34, 36, 84, 110, 144, 176, 210, 292};
    std::vector<uint8_t> blocks(static_cast<size_t>(rows * columns / (format >= 10 ? 256 : 32) * row_bytes[format]));
    for (size_t i = 0; i < blocks.size(); i++) blocks[i] = static_cast<uint8_t>(i * 37 % 97);
    Buffer packed(packed_bytes), scratch(hk_scratch_bytes(format, m, columns));
    if (hk_pack(format, rows, columns, blocks.data(), packed.data) != 0) return 0;
    std::vector<float> x(static_cast<size_t>(m * columns), 0.5f), bias(static_cast<size_t>(rows), 1.0f);
    const int64_t outputs = activation ? rows / 2 : rows;
    std::vector<float> y(static_cast<size_t>(m * outputs)), residual(y.size(), 2.0f);
    hk_activate(format, x.data(), m, columns, scratch.data, 0, m);
    const hk_weights weights{format, rows, columns, packed.data};
    const hk_epilogue epilogue{bias.data(), residual.data(), activation, nullptr, nullptr};
    hk_multiply(&weights, scratch.data, m, 0, hk_num_tiles(rows), y.data(), outputs, &epilogue);
    return 1;
}

// Two sequences whose last blocks are not full, one of them in the middle of its prompt.
int attend(int32_t kv_type, int64_t heads, int64_t kv_heads, int64_t head_dim, int64_t window) {
    const std::vector<int32_t> q_start{0, 5, 138}, kv_len{5, 150}, blocks{3, 9, 9, 9, 9, 9, 9, 9, 9, 9,  //
                                                                         0, 1, 2, 4, 5, 6, 7, 8, 9, 10};
    const int64_t tokens = 138, num_blocks = 11;
    const std::vector<float> qkv(static_cast<size_t>(tokens * (heads + 2 * kv_heads) * head_dim), 0.25f);
    const std::vector<float> table(static_cast<size_t>(150 * head_dim / 2), 0.5f);
    std::vector<float> queries(static_cast<size_t>(tokens * heads * head_dim)), out(queries.size());
    Buffer kv(hk_kv_bytes(kv_type, kv_heads, head_dim, num_blocks));
    const hk_attention a{heads, kv_heads, head_dim, window, tokens, 2, 10, num_blocks, kv_type, 0.1f, 2.0f, qkv.data(),
                         table.data(), table.data(), q_start.data(), kv_len.data(), blocks.data(), kv.data,
                         queries.data(), out.data()};
    hk_place(&a, 0, tokens);
    hk_attend(&a, 0, 1);
    hk_attend(&a, 1, hk_num_tasks(&a));
    return 1;
}

int low_rank(int64_t columns, int64_t part, int32_t is_gated) {
    const std::vector<float> a(static_cast<size_t>(5 * columns), 0.5f), b(static_cast<size_t>(5 * part), 0.25f);
    const int64_t table[2][6] = {{0, 0, 0, 0, 0, 0},
                                 {reinterpret_cast<int64_t>(a.data()), reinterpret_cast<int64_t>(b.data()), 5,
                                  reinterpret_cast<int64_t>(a.data()), reinterpret_cast<int64_t>(b.data()), 3}};
    const std::vector<int32_t> lora{1, -1, 1, 0, 1, 1, 1};
    std::vector<int32_t> order(7), delta_of(7), group_begin(3);
    const std::vector<float> x(static_cast<size_t>(7 * columns), 1.0f);
    hk_low_rank l{7, columns, 2 * part, 2, {part, part, 0}, 2, 6, is_gated, x.data(), lora.data(), &table[0][0],
                  order.data(), delta_of.data(), group_begin.data(), 0, 0, 0, nullptr, nullptr};
    hk_group_rows(&l);
    std::vector<float> shrunk(static_cast<size_t>(l.active * 2 * l.max_rank));
    std::vector<float> delta(static_cast<size_t>(l.active * l.rows));
    l.shrunk = shrunk.data();
    l.delta = delta.data();
    hk_shrink(&l, 0, hk_shrink_units(&l));
    hk_expand(&l, 0, hk_expand_units(&l));
    return 1;
}

}  // namespace

int main() {
    int checked = 0;
    for (const char *level : {"scalar", "avx2", "avxvnni", "avx512vnni", "neon"}) {
        if (hk_set_level(level) != 0) continue;
        for (int32_t format = 0; format < 20; format++) {
            for (int64_t m : {1, 3, 8, 17}) checked += check(format, 37, format >= 10 ? 256 : 96, m, HK_NONE);
            checked += check(format, 64, format >= 10 ? 512 : 32, 5, HK_SWIGLU);
            checked += check(format, 32, 256, 9, HK_GEGLU_TANH);
        }
        checked += low_rank(37, 19, 0) + low_rank(64, 272, 0) + low_rank(64, 32, 1);
        for (int32_t type : {HK_KV_F32, HK_KV_F16, HK_KV_INT8}) {
            checked += attend(type, 6, 2, 48, 0) + attend(type, 3, 3, 16, 7) + attend(type, 9, 1, 512, 0);
        }
    }
    std::printf("checked %d\n", checked);
    return 0;
}
