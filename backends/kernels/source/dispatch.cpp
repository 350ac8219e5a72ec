// Which level serves: the best that this CPU has, or the one that HOSTELRY_KERNEL_LEVEL names.
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <initializer_list>

#include "attention.h"
#include "level.h"
#include "low_rank.h"
#include "rows.h"

namespace hostelry {
namespace {

const Level *find(const char *name) {
    for (const Level *level : {avx512vnni_level, avxvnni_level, avx2_level, neon_level, scalar_level}) {
        if (level && (!name || std::strcmp(level->name, name) == 0) && hk_cpu_has(level->name)) return level;
    }
    return nullptr;
}

std::atomic<const Level *> chosen{nullptr};

const Level &in_use() {
    const Level *level = chosen.load(std::memory_order_acquire);
    if (!level) {
        level = find(std::getenv("HOSTELRY_KERNEL_LEVEL"));
        if (!level) level = find(nullptr);
        chosen.store(level, std::memory_order_release);
    }
    return *level;
}

}  // namespace
}  // namespace hostelry

using namespace hostelry;

int32_t hk_abi_version(void) { return HK_ABI_VERSION; }

const char *hk_level(void) { return in_use().name; }

int32_t hk_set_level(const char *name) {
    const Level *level = name ? find(name) : nullptr;
    if (!level) return -1;
    chosen.store(level, std::memory_order_release);
    return 0;
}

int64_t hk_peak(int64_t rounds) { return in_use().peak(rounds); }

int64_t hk_scratch_bytes(int32_t format, int64_t m, int64_t columns) {
    return Rows{nullptr, m, columns, tile_of(format).groups_of_block()}.bytes();
}

void hk_activate(int32_t format, const float *x, int64_t m, int64_t columns, void *scratch, int64_t begin,
                 int64_t end) {
    in_use().activate(format, x, m, columns, scratch, begin, end);
}

void hk_multiply(const hk_weights *weights, const void *scratch, int64_t m, int64_t begin, int64_t end, float *y,
                 int64_t ldy, const hk_epilogue *epilogue) {
    in_use().multiply(weights, scratch, m, begin, end, y, ldy, epilogue);
}

int64_t hk_kv_bytes(int32_t kv_type, int64_t kv_heads, int64_t head_dim, int64_t num_blocks) {
    return 2 * num_blocks * Cache{kv_type, kv_heads, head_dim, num_blocks, nullptr}.block_bytes();
}

void hk_place(const hk_attention *attention, int64_t begin, int64_t end) { in_use().place(attention, begin, end); }

int64_t hk_num_tasks(const hk_attention *attention) { return num_tasks(*attention); }

void hk_attend(const hk_attention *attention, int64_t begin, int64_t end) { in_use().attend(attention, begin, end); }

void hk_group_rows(hk_low_rank *low_rank) { group_rows(low_rank); }

int64_t hk_shrink_units(const hk_low_rank *l) { return l->groups * l->parts * rank_units(*l); }

int64_t hk_expand_units(const hk_low_rank *l) { return l->groups * l->parts * output_units(*l); }

void hk_shrink(const hk_low_rank *low_rank, int64_t begin, int64_t end) { in_use().shrink(low_rank, begin, end); }

void hk_expand(const hk_low_rank *low_rank, int64_t begin, int64_t end) { in_use().expand(low_rank, begin, end); }
