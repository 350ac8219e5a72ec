/* hostelry::RaggedAttention over blocks of keys and values, on the threads of the session.
 *
 *   qkv        float32 [T, (heads + 2 kv_heads) * head_dim]
 *   cos, sin   float32 [positions, head_dim / 2]
 *   q_start    int32 [S + 1]
 *   kv_len     int32 [S], with the new tokens
 *   blocks     int32 [S, blocks of a sequence]
 *   geometry   int32 [2], type of keys and values as in kernels.h, number of blocks
 *   kv         uint8 [layers, hk_kv_bytes], aligned to 64 bytes: WRITTEN in place at the new tokens
 *   y          float32 [T, heads * head_dim]
 *
 * Attributes: layer, heads, kv_heads, head_dim, window (0: none), scale, softcap (0: none). No operator but the one of
 * its own layer touches a layer's part of `kv`, so the order of operators does not matter.
 */
#include <algorithm>
#include <new>

#include "kernels.h"
#include "ort_operators.h"
#include "ort_tensors.h"

using namespace ort;

namespace {

enum Input : size_t { in_qkv, in_cos, in_sin, in_q_start, in_kv_len, in_blocks, in_geometry, in_kv, num_inputs };

constexpr int64_t block_tokens = 16, max_head_dim = 512;
/* Below this many multiplications and additions (5 to 10 microseconds), other threads are not worth waking. */
constexpr int64_t shared_work = 200000;
constexpr int64_t share_tokens = 4, most_shares = 32;

struct Kernel {
    Api api;
    OrtAllocator *allocator;
    hk_attention attention; /* without its arrays */
    int64_t layer;
};

struct Matrix {
    const void *data;
    int64_t rows, columns; /* of a vector: 1 row */
};

OrtStatus *input_of(const Api &api, const OrtKernelContext *context, Input input, Matrix *matrix)
{
    const OrtValue *value = nullptr;
    TRY(api[KernelContext_GetInput](context, input, &value));
    int64_t shape[2] = {1, 1};
    size_t rank = 0;
    TRY(shape_of(api, value, shape, &rank));
    matrix->rows = rank == 2 ? shape[0] : 1;
    matrix->columns = rank == 2 ? shape[1] : shape[0];
    return data_of(api, value, &matrix->data);
}

OrtStatus *read_attributes(const OrtKernelInfo *info, Kernel *kernel)
{
    const Api &api = kernel->api;
    hk_attention &a = kernel->attention;
    TRY(api[KernelInfoGetAttribute_int64](info, "layer", &kernel->layer));
    TRY(api[KernelInfoGetAttribute_int64](info, "heads", &a.heads));
    TRY(api[KernelInfoGetAttribute_int64](info, "kv_heads", &a.kv_heads));
    TRY(api[KernelInfoGetAttribute_int64](info, "head_dim", &a.head_dim));
    TRY(api[KernelInfoGetAttribute_int64](info, "window", &a.window));
    TRY(api[KernelInfoGetAttribute_float](info, "scale", &a.scale));
    TRY(api[KernelInfoGetAttribute_float](info, "softcap", &a.softcap));
    if (a.kv_heads < 1 || a.heads < 1 || a.heads % a.kv_heads || a.heads > 1 << 20)
        return refuse(api, "heads is to be a multiple of kv_heads");
    if (a.head_dim < 16 || a.head_dim % 16 || a.head_dim > max_head_dim)
        return refuse(api, "head_dim is to be a multiple of 16, at most 512");
    return nullptr;
}

OrtStatus *create(const CustomOp *, const OrtApi *table, const OrtKernelInfo *info, void **created)
{
    Kernel kernel = {Api(table), nullptr, {}, 0};
    TRY(read_attributes(info, &kernel));
    TRY(kernel.api[KernelInfoGetAllocator](info, default_memory, &kernel.allocator));
    *created = new (std::nothrow) Kernel(kernel);
    if (*created != nullptr) return nullptr;
    kernel.api[ReleaseAllocator](kernel.allocator);
    return kernel.api[CreateStatus](fail, "out of memory");
}

void destroy(void *created)
{
    Kernel *const kernel = static_cast<Kernel *>(created);
    if (kernel != nullptr) kernel->api[ReleaseAllocator](kernel->allocator);
    delete kernel;
}

/* Whether every address that follows from the tables lies inside its array; NULL if so. */
const char *fault_of(const hk_attention &a, int64_t positions)
{
    if (a.q_start[0] != 0 || a.q_start[a.sequences] != a.tokens) return "q_start does not cut the tokens";
    for (int64_t s = 0; s < a.sequences; s++) {
        const int64_t count = a.q_start[s + 1] - a.q_start[s], length = a.kv_len[s];
        if (count < 0 || count > length) return "a sequence has more new tokens than keys";
        if (length > positions) return "a sequence is longer than the rotary tables";
        if (length > a.blocks_each * block_tokens) return "a sequence is longer than its blocks";
        for (int64_t i = 0; i < (length + block_tokens - 1) / block_tokens; i++) {
            const int32_t block = a.blocks[s * a.blocks_each + i];
            if (block < 0 || block >= a.num_blocks) return "there is no such block of keys and values";
        }
    }
    return nullptr;
}

OrtStatus *read_cache(const Kernel &kernel, const OrtKernelContext *context, hk_attention *a)
{
    const Api &api = kernel.api;
    Matrix geometry = {}, kv = {};
    TRY(input_of(api, context, in_geometry, &geometry));
    TRY(input_of(api, context, in_kv, &kv));
    if (geometry.rows != 1 || geometry.columns != 2) return refuse(api, "geometry is to have two numbers");
    a->kv_type = static_cast<const int32_t *>(geometry.data)[0];
    a->num_blocks = static_cast<const int32_t *>(geometry.data)[1];
    if (a->kv_type < HK_KV_F32 || a->kv_type > HK_KV_INT8 || a->num_blocks < 1)
        return refuse(api, "geometry names no type of keys and values, or no blocks");
    const int64_t bytes = hk_kv_bytes(a->kv_type, a->kv_heads, a->head_dim, a->num_blocks);
    if (kv.columns != bytes || kernel.layer >= kv.rows) return refuse(api, "kv has not the size of its geometry");
    a->kv = static_cast<uint8_t *>(const_cast<void *>(kv.data)) + kernel.layer * bytes;
    return is_aligned(a->kv) ? nullptr : refuse(api, "kv is not aligned to 64 bytes");
}

OrtStatus *read_inputs(const Kernel &kernel, const OrtKernelContext *context, hk_attention *a)
{
    const Api &api = kernel.api;
    Matrix qkv = {}, cosine = {}, sine = {}, q_start = {}, kv_len = {}, blocks = {};
    TRY(input_of(api, context, in_qkv, &qkv));
    TRY(input_of(api, context, in_cos, &cosine));
    TRY(input_of(api, context, in_sin, &sine));
    TRY(input_of(api, context, in_q_start, &q_start));
    TRY(input_of(api, context, in_kv_len, &kv_len));
    TRY(input_of(api, context, in_blocks, &blocks));
    const int64_t half = a->head_dim / 2;
    if (qkv.columns != (a->heads + 2 * a->kv_heads) * a->head_dim) return refuse(api, "qkv has the wrong width");
    if (cosine.columns != half || sine.columns != half || sine.rows != cosine.rows)
        return refuse(api, "cos and sin are to have half of head_dim columns");
    if (q_start.columns != kv_len.columns + 1 || blocks.rows != kv_len.columns)
        return refuse(api, "q_start, kv_len and blocks speak of different numbers of sequences");
    a->tokens = qkv.rows;
    a->sequences = kv_len.columns;
    a->blocks_each = blocks.columns;
    a->qkv = static_cast<const float *>(qkv.data);
    a->cosine = static_cast<const float *>(cosine.data);
    a->sine = static_cast<const float *>(sine.data);
    a->q_start = static_cast<const int32_t *>(q_start.data);
    a->kv_len = static_cast<const int32_t *>(kv_len.data);
    a->blocks = static_cast<const int32_t *>(blocks.data);
    TRY(read_cache(kernel, context, a));
    const char *const fault = fault_of(*a, cosine.rows);
    return fault == nullptr ? nullptr : refuse(api, fault);
}

void place_share(void *attention, size_t share)
{
    const hk_attention &a = *static_cast<const hk_attention *>(attention);
    const int64_t begin = static_cast<int64_t>(share) * share_tokens;
    hk_place(&a, begin, std::min(begin + share_tokens, a.tokens));
}

/* Tasks of one share are neighbours: the next one's keys are asked for early. */
struct Tasks {
    const hk_attention *attention;
    int64_t total, each;

    static void attend(void *self, size_t share)
    {
        const Tasks &tasks = *static_cast<const Tasks *>(self);
        const int64_t begin = static_cast<int64_t>(share) * tasks.each;
        hk_attend(tasks.attention, begin, std::min(begin + tasks.each, tasks.total));
    }
};

int64_t work_of(const hk_attention &a)
{
    int64_t pairs = 0;
    for (int64_t s = 0; s < a.sequences; s++) pairs += int64_t{a.q_start[s + 1] - a.q_start[s]} * a.kv_len[s];
    return pairs * a.heads * a.head_dim * 4;
}

OrtStatus *run(const Api &api, const OrtKernelContext *context, hk_attention *a)
{
    const size_t shares = num_shares(a->tokens, share_tokens);
    if (shares < 2) {
        hk_place(a, 0, a->tokens);
    } else {
        TRY(api[KernelContext_ParallelFor](context, place_share, shares, 0, a));
    }
    Tasks tasks = {a, hk_num_tasks(a), 0};
    tasks.each = std::max<int64_t>(1, tasks.total / most_shares);
    if (work_of(*a) >= shared_work)
        return api[KernelContext_ParallelFor](context, Tasks::attend, num_shares(tasks.total, tasks.each), 0, &tasks);
    hk_attend(a, 0, tasks.total);
    return nullptr;
}

OrtStatus *compute(void *created, OrtKernelContext *context)
{
    const Kernel &kernel = *static_cast<const Kernel *>(created);
    const Api &api = kernel.api;
    hk_attention a = kernel.attention;
    TRY(read_inputs(kernel, context, &a));
    const int64_t width = a.heads * a.head_dim, shape[2] = {a.tokens, width};
    OrtValue *y = nullptr;
    TRY(api[KernelContext_GetOutput](context, 0, shape, 2, &y));
    TRY(data_of(api, y, const_cast<const void **>(reinterpret_cast<void **>(&a.out))));
    if (a.tokens == 0) return nullptr;
    void *room = nullptr;
    TRY(api[AllocatorAlloc](kernel.allocator, static_cast<size_t>(a.tokens * width) * sizeof(float), &room));
    a.queries = static_cast<float *>(room);
    OrtStatus *const status = run(api, context, &a);
    OrtStatus *const freed = api[AllocatorFree](kernel.allocator, room);
    return status != nullptr ? status : freed;
}

ElementType type_of(size_t input)
{
    if (input < in_q_start) return type_float;
    return input == in_kv ? type_uint8 : type_int32;
}

} // namespace

const CustomOp ragged_attention = [] {
    CustomOp op = {};
    op.version = api_version;
    op.GetName = [](const CustomOp *) { return "RaggedAttention"; };
    op.GetExecutionProviderType = [](const CustomOp *) { return "CPUExecutionProvider"; };
    op.GetInputTypeCount = [](const CustomOp *) -> size_t { return num_inputs; };
    op.GetInputType = [](const CustomOp *, size_t index) { return type_of(index); };
    op.GetInputCharacteristic = [](const CustomOp *, size_t) { return required; };
    op.GetInputMemoryType = [](const CustomOp *, size_t) { return default_memory; };
    op.GetOutputTypeCount = [](const CustomOp *) -> size_t { return 1; };
    op.GetOutputType = [](const CustomOp *, size_t) { return type_float; };
    op.GetOutputCharacteristic = [](const CustomOp *, size_t) { return required; };
    op.CreateKernelV2 = create;
    op.KernelComputeV2 = compute;
    op.KernelDestroy = destroy;
    return op;
}();
