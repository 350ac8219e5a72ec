/* hostelry::QuantizedLinear, y = x W^T over packed tiles, on the threads of the session.
 *
 *   x         float32 [m, columns]
 *   packed    uint8 [hk_packed_bytes], an initializer aligned to 64 bytes
 *   bias      float32 [rows], optional
 *   residual  float32 [m, columns of y], optional
 *   lora      int32 [m], adapter slot of a row or -1, optional
 *   adapters  int64 [slots, 3 * linears], see hk_low_rank, optional
 *   y         float32 [m, rows], with a gated activation [m, rows / 2]
 *
 * Attributes are integers: format and activation as in kernels.h, rows and columns, and those of `read_parts`. What can be checked without x is
 * checked when the session is created.
 */
#include <algorithm>
#include <new>

#include "kernels.h"
#include "ort_low_rank.h"
#include "ort_operators.h"
#include "ort_tensors.h"

using namespace ort;

namespace {

enum Input : size_t { input_x, input_packed, input_bias, input_residual, input_lora, input_adapters, num_inputs };

/* A share of this many bytes takes about a microsecond: enough to hide its dispatch, and threads that are late, because
 * the core is shared, leave the remaining shares to the others. */
constexpr int64_t share_bytes = 32 * 1024;

struct Kernel {
    Api api;
    OrtAllocator *allocator;
    hk_weights weights; /* without `packed`, which belongs to the session */
    int32_t activation;
    int64_t adapter;
    hk_low_rank parts;

    bool is_gated() const { return activation != HK_NONE; }
    int64_t width() const { return is_gated() ? weights.rows / 2 : weights.rows; }
};

/* Data of an optional float input, NULL where it is left out. */
OrtStatus *floats_of(const Api &api, const OrtKernelContext *context, Input input, int64_t size, const float **data)
{
    *data = nullptr;
    size_t count = 0;
    TRY(api[KernelContext_GetInputCount](context, &count));
    if (input >= count) return nullptr;
    const OrtValue *value = nullptr;
    TRY(api[KernelContext_GetInput](context, input, &value));
    if (value == nullptr) return nullptr;
    int64_t shape[2] = {1, 1};
    size_t rank = 0;
    TRY(shape_of(api, value, shape, &rank));
    if (shape[0] * (rank == 2 ? shape[1] : 1) != size) return refuse(api, "bias or residual has the wrong size");
    return data_of(api, value, reinterpret_cast<const void **>(data));
}

OrtStatus *check_packed(const Kernel &kernel, const OrtKernelInfo *info)
{
    const Api &api = kernel.api;
    int is_constant = 0;
    const OrtValue *packed = nullptr;
    TRY(api[KernelInfoGetConstantInput_tensor](info, input_packed, &is_constant, &packed));
    if (!is_constant || packed == nullptr) return refuse(api, "packed weights are to be an initializer");
    int64_t shape[2] = {1, 1};
    size_t rank = 0;
    TRY(shape_of(api, packed, shape, &rank));
    const hk_weights &w = kernel.weights;
    if (rank != 1 || shape[0] != hk_packed_bytes(w.format, w.rows, w.columns))
        return refuse(api, "packed weights have the wrong size for their format, rows and columns");
    const void *data = nullptr;
    TRY(data_of(api, packed, &data));
    return is_aligned(data) ? nullptr : refuse(api, "packed weights are not aligned to 64 bytes");
}

OrtStatus *read_attributes(const OrtKernelInfo *info, Kernel *kernel)
{
    int64_t format = 0, activation = 0;
    hk_weights &w = kernel->weights;
    TRY(kernel->api[KernelInfoGetAttribute_int64](info, "format", &format));
    TRY(kernel->api[KernelInfoGetAttribute_int64](info, "activation", &activation));
    TRY(kernel->api[KernelInfoGetAttribute_int64](info, "rows", &w.rows));
    TRY(kernel->api[KernelInfoGetAttribute_int64](info, "columns", &w.columns));
    w.format = static_cast<int32_t>(format);
    kernel->activation = static_cast<int32_t>(activation);
    if (w.format != format || hk_packed_bytes(w.format, w.rows, w.columns) < 0)
        return refuse(kernel->api, "format, rows and columns are those of no matrix");
    if (activation < HK_NONE || activation > HK_GEGLU_TANH || (kernel->is_gated() && w.rows % 32))
        return refuse(kernel->api, "the activation is unknown, or its rows are not a multiple of 32");
    TRY(read_parts(kernel->api, info, &kernel->adapter, &kernel->parts));
    if (kernel->adapter >= 0 && kernel->parts.rows != w.rows) return refuse(kernel->api, "parts have other rows");
    kernel->parts.columns = w.columns;
    kernel->parts.is_gated = kernel->is_gated();
    return nullptr;
}

OrtStatus *create(const CustomOp *, const OrtApi *table, const OrtKernelInfo *info, void **created)
{
    Kernel kernel = {Api(table), nullptr, {}, HK_NONE, -1, {}};
    TRY(read_attributes(info, &kernel));
    TRY(check_packed(kernel, info));
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

/* One product, and how both of its passes are cut: `unit` is what share i begins at i times. */
struct Product {
    hk_weights weights;
    hk_epilogue epilogue;
    const float *x;
    void *scratch;
    float *y;
    int64_t m, width, rows_each, tiles_each;

    static void activate(void *self, size_t share)
    {
        const Product &p = *static_cast<const Product *>(self);
        const int64_t begin = static_cast<int64_t>(share) * p.rows_each;
        const int64_t end = std::min(begin + p.rows_each, p.m);
        hk_activate(p.weights.format, p.x, p.m, p.weights.columns, p.scratch, begin, end);
    }

    static void multiply(void *self, size_t share)
    {
        const Product &p = *static_cast<const Product *>(self);
        const int64_t begin = static_cast<int64_t>(share) * p.tiles_each;
        const int64_t end = std::min(begin + p.tiles_each, hk_num_tiles(p.weights.rows));
        hk_multiply(&p.weights, p.scratch, p.m, begin, end, p.y, p.width, &p.epilogue);
    }
};

OrtStatus *run(const Api &api, const OrtKernelContext *context, Product *p, int64_t packed_bytes)
{
    const int64_t tiles = hk_num_tiles(p->weights.rows);
    const int64_t tile_bytes = std::max<int64_t>(1, packed_bytes / tiles);
    p->rows_each = std::max<int64_t>(1, share_bytes / (p->weights.columns * 4));
    p->tiles_each = std::max<int64_t>(2, share_bytes / tile_bytes / 2 * 2); /* even, for gated ones */
    TRY(api[KernelContext_ParallelFor](context, Product::activate, num_shares(p->m, p->rows_each), 0, p));
    return api[KernelContext_ParallelFor](context, Product::multiply, num_shares(tiles, p->tiles_each), 0, p);
}

OrtStatus *compute_with(const Kernel &kernel, const OrtKernelContext *context, Product *p)
{
    const Api &api = kernel.api;
    Room scratch(api, kernel.allocator), tables(api, kernel.allocator), sums(api, kernel.allocator);
    hk_low_rank adapters = kernel.parts;
    adapters.m = p->m;
    adapters.x = p->x;
    TRY(read_adapters(api, context, input_lora, kernel.adapter, &adapters));
    if (has_adapters(adapters)) {
        TRY(run_low_rank(api, context, &tables, &sums, &adapters));
        p->epilogue.delta = adapters.delta;
        p->epilogue.delta_of = adapters.delta_of;
    }
    const hk_weights &w = p->weights;
    TRY(scratch.take(hk_scratch_bytes(w.format, p->m, w.columns), &p->scratch));
    return run(api, context, p, hk_packed_bytes(w.format, w.rows, w.columns));
}

OrtStatus *compute(void *created, OrtKernelContext *context)
{
    const Kernel &kernel = *static_cast<const Kernel *>(created);
    const Api &api = kernel.api;
    const OrtValue *x = nullptr, *packed = nullptr;
    TRY(api[KernelContext_GetInput](context, input_x, &x));
    TRY(api[KernelContext_GetInput](context, input_packed, &packed));
    int64_t shape[2] = {0, 0};
    size_t rank = 0;
    TRY(shape_of(api, x, shape, &rank));
    if (rank != 2 || shape[1] != kernel.weights.columns) return refuse(api, "x has not as many columns as the weights");

    Product p = {};
    p.weights = kernel.weights;
    p.epilogue.activation = kernel.activation;
    p.m = shape[0];
    p.width = kernel.width();
    TRY(data_of(api, packed, reinterpret_cast<const void **>(&p.weights.packed)));
    TRY(data_of(api, x, reinterpret_cast<const void **>(&p.x)));
    TRY(floats_of(api, context, input_bias, p.weights.rows, &p.epilogue.bias));
    TRY(floats_of(api, context, input_residual, p.m * p.width, &p.epilogue.residual));

    shape[1] = p.width;
    OrtValue *y = nullptr;
    TRY(api[KernelContext_GetOutput](context, 0, shape, 2, &y));
    TRY(data_of(api, y, const_cast<const void **>(reinterpret_cast<void **>(&p.y))));
    return p.m == 0 ? nullptr : compute_with(kernel, context, &p);
}

ElementType type_of(size_t input)
{
    if (input == input_packed) return type_uint8;
    if (input == input_lora) return type_int32;
    return input == input_adapters ? type_int64 : type_float;
}

} // namespace

const CustomOp quantized_linear = [] {
    CustomOp op = {};
    op.version = api_version;
    op.GetName = [](const CustomOp *) { return "QuantizedLinear"; };
    op.GetExecutionProviderType = [](const CustomOp *) { return "CPUExecutionProvider"; };
    op.GetInputTypeCount = [](const CustomOp *) -> size_t { return num_inputs; };
    op.GetInputType = [](const CustomOp *, size_t index) { return type_of(index); };
    op.GetInputCharacteristic = [](const CustomOp *, size_t index) { return index < input_bias ? required : optional; };
    op.GetInputMemoryType = [](const CustomOp *, size_t) { return default_memory; };
    op.GetOutputTypeCount = [](const CustomOp *) -> size_t { return 1; };
    op.GetOutputType = [](const CustomOp *, size_t) { return type_float; };
    op.GetOutputCharacteristic = [](const CustomOp *, size_t) { return required; };
    op.CreateKernelV2 = create;
    op.KernelComputeV2 = compute;
    op.KernelDestroy = destroy;
    return op;
}();
