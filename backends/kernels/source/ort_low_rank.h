/* The adapters of an operator's linear, on the threads of the session: see hk_low_rank. */
#ifndef HOSTELRY_ORT_LOW_RANK_H
#define HOSTELRY_ORT_LOW_RANK_H

#include <algorithm>

#include "kernels.h"
#include "ort_tensors.h"

namespace ort {
namespace {

/* Scratch memory of one run; freed with it. */
class Room {
public:
    Room(const Api &api, OrtAllocator *allocator) : api_(api), allocator_(allocator) {}
    Room(const Room &) = delete;
    ~Room()
    {
        if (room_ != nullptr) (void)api_[AllocatorFree](allocator_, room_);
    }
    OrtStatus *take(int64_t bytes, void **data)
    {
        TRY(api_[AllocatorAlloc](allocator_, static_cast<size_t>(bytes) + alignment, &room_));
        const uintptr_t address = reinterpret_cast<uintptr_t>(room_);
        *data = reinterpret_cast<void *>((address + alignment - 1) / alignment * alignment);
        return nullptr;
    }

private:
    const Api &api_;
    OrtAllocator *allocator_;
    void *room_ = nullptr;
};

/* Attributes `adapter`, the linear's number in the table or -1 for none, and `part_0` to `part_2`, rows of its parts. */
inline OrtStatus *read_parts(const Api &api, const OrtKernelInfo *info, int64_t *adapter, hk_low_rank *l)
{
    static const char *const names[] = {"part_0", "part_1", "part_2"};
    TRY(api[KernelInfoGetAttribute_int64](info, "adapter", adapter));
    for (const char *name : names) {
        TRY(api[KernelInfoGetAttribute_int64](info, name, &l->part_rows[l->parts]));
        if (l->part_rows[l->parts] <= 0) break;
        l->rows += l->part_rows[l->parts++];
    }
    return nullptr;
}

/* Inputs `lora` int32 [m] and `adapters` int64 [slots, stride], an operator's last two; nothing if they are left out. */
inline OrtStatus *read_adapters(const Api &api, const OrtKernelContext *context, size_t first, int64_t adapter,
                                hk_low_rank *l)
{
    size_t count = 0;
    TRY(api[KernelContext_GetInputCount](context, &count));
    if (adapter < 0 || first + 1 >= count) return nullptr;
    const OrtValue *lora = nullptr, *table = nullptr;
    TRY(api[KernelContext_GetInput](context, first, &lora));
    TRY(api[KernelContext_GetInput](context, first + 1, &table));
    if (lora == nullptr || table == nullptr) return nullptr;
    int64_t rows[2] = {0, 0}, slots[2] = {0, 0};
    size_t rank = 0;
    TRY(shape_of(api, lora, rows, &rank));
    TRY(shape_of(api, table, slots, &rank));
    if (rows[0] != l->m) return refuse(api, "lora has not as many rows as x");
    if (rank != 2 || slots[1] < (adapter + l->parts) * 3) return refuse(api, "adapters has too few linears");
    l->slots = slots[0];
    l->table_stride = slots[1];
    TRY(data_of(api, lora, reinterpret_cast<const void **>(&l->lora)));
    TRY(data_of(api, table, reinterpret_cast<const void **>(&l->table)));
    l->table += adapter * 3;
    return nullptr;
}

struct Units {
    const hk_low_rank *low_rank;

    static void shrink(void *self, size_t unit)
    {
        const int64_t begin = static_cast<int64_t>(unit);
        hk_shrink(static_cast<const Units *>(self)->low_rank, begin, begin + 1);
    }
    static void expand(void *self, size_t unit)
    {
        const int64_t begin = static_cast<int64_t>(unit);
        hk_expand(static_cast<const Units *>(self)->low_rank, begin, begin + 1);
    }
};

inline bool has_adapters(const hk_low_rank &l)
{
    return l.lora != nullptr && std::any_of(l.lora, l.lora + l.m, [](int32_t slot) { return slot >= 0; });
}

/* Both products; `tables` and `sums` own what `l` points to afterwards. */
inline OrtStatus *run_low_rank(const Api &api, const OrtKernelContext *context, Room *tables, Room *sums, hk_low_rank *l)
{
    for (int64_t row = 0; row < l->m; row++) {
        if (l->lora[row] >= l->slots) return refuse(api, "there is no such adapter slot");
    }
    void *data = nullptr;
    TRY(tables->take((2 * l->m + l->slots + 1) * 4, &data));
    l->order = static_cast<int32_t *>(data);
    l->delta_of = l->order + l->m;
    l->group_begin = l->delta_of + l->m;
    hk_group_rows(l);
    if (l->active == 0) return nullptr;
    const int64_t shrunk = (l->active * l->parts * l->max_rank + 15) / 16 * 16;
    TRY(sums->take((shrunk + l->active * l->rows) * 4, &data));
    l->shrunk = static_cast<float *>(data);
    l->delta = l->shrunk + shrunk;
    Units units = {l};
    TRY(api[KernelContext_ParallelFor](context, Units::shrink, static_cast<size_t>(hk_shrink_units(l)), 0, &units));
    return api[KernelContext_ParallelFor](context, Units::expand, static_cast<size_t>(hk_expand_units(l)), 0, &units);
}

} // namespace
} // namespace ort

#endif
